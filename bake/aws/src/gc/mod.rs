//! What of olbake's at AWS nothing needs any more: images of versions, and what commands that were killed left behind.
//! Main functions: [`plan`] and [`apply`].
//!
//! Everything olbake makes has tags, from the call on that makes it, so what nobody wrote down is found too. Needed is
//! what an instance, a launch template or an Auto Scaling group starts from, and the images of versions that the
//! registry needs. [`apply`] asks and decides again, and removes what points before what is pointed at: the place
//! in the registry, the image, its snapshots.

mod decide;
mod look;

use std::collections::BTreeMap;
use std::time::Duration;

use olbake_core::Digest;
use olbake_core::time::Timestamp;
use olbake_engine::registry::places::Place;
use olbake_engine::registry::{Registry, RegistryError};
use serde::Serialize;

use crate::account::Account;
use crate::error::{AwsError, AwsErrorKind};
pub use decide::{Doomed, GcPlan, Kept};
use look::Region;

/// What is looked at, and what is kept.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// The regions.
    pub regions: Vec<String>,
    /// The versions that the registry needs, with the reason.
    pub needed: BTreeMap<Digest, String>,
    /// What commands left behind is kept while it is younger: one may still be at work.
    pub younger: Duration,
    /// What time it is.
    pub now: Timestamp,
}

/// What kind of thing can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A machine that a bake or a verification left.
    Instance,
    /// An image.
    Image,
    /// A snapshot that no image is made of.
    Snapshot,
    /// A disk that no machine has.
    Volume,
    /// A security group that nothing uses.
    SecurityGroup,
}

/// Why cleaning could not be done.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// AWS.
    #[error("in {region}")]
    Aws {
        /// The region.
        region: String,
        /// What it answered.
        #[source]
        source: AwsError,
    },
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Finds what can go, and touches nothing.
pub async fn plan(account: &Account, registry: &Registry, options: &GcOptions) -> Result<GcPlan, GcError> {
    let places = places(registry).await?;
    let mut plan = GcPlan::default();
    for name in &options.regions {
        let region = Region::new(account, name);
        let inventory = region.inventory().await.map_err(aws(name))?;
        plan.add(decide::decide(name, &inventory, &places, options));
    }
    Ok(plan)
}

/// Removes what can go, and says what that was.
pub async fn apply(account: &Account, registry: &Registry, options: &GcOptions) -> Result<GcPlan, GcError> {
    let plan = plan(account, registry, options).await?;
    for doomed in &plan.doomed {
        if let Some(place) = doomed.place.clone() {
            let registry = registry.clone();
            let removed = tokio::task::spawn_blocking(move || registry.records().remove_place(&place)).await;
            removed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        }
        let region = Region::new(account, &doomed.region);
        match region.remove(doomed).await {
            // Somebody else was faster; and a group that is used after all stays.
            Err(error) if matches!(error.kind, AwsErrorKind::NotFound) => {}
            Err(error) if error.is("DependencyViolation") => {}
            other => other.map_err(aws(&doomed.region))?,
        }
    }
    Ok(plan)
}

fn aws(region: &str) -> impl FnOnce(AwsError) -> GcError {
    let region = region.to_owned();
    move |source| GcError::Aws { region, source }
}

async fn places(registry: &Registry) -> Result<Vec<Place>, GcError> {
    let registry = registry.clone();
    let places = tokio::task::spawn_blocking(move || registry.records().all_places()).await;
    Ok(places.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?)
}
