//! Opens the registry and the states by their URLs: files here, S3 by `olbake-aws` where olbake was built with it.

use std::sync::Arc;

use olbake_engine::registry::Registry;
use olbake_engine::state::{Objects, StateStore};
use olbake_engine::store::object::ObjectStore;

use super::place::Place;
use crate::errors::{CliError, Result};

const S3: &str = "s3://";

/// The registry of a workspace.
pub(super) fn registry(place: &Place) -> Result<Registry> {
    let url = &place.config.registry;
    if !url.starts_with(S3) {
        return Ok(Registry::open(url, &place.root)?);
    }
    // Locks keep apart what runs on this host; between hosts, writes on a condition do.
    let locks = place.config.cache.join("registry-locks");
    std::fs::create_dir_all(&locks).map_err(|error| {
        CliError::environment(anyhow::Error::new(error).context(format!("cannot create `{locks}`")))
    })?;
    Ok(Registry::over(s3(url, place)?.0, locks))
}

/// The states of a workspace's stacks.
pub(super) fn states(place: &Place) -> Result<StateStore> {
    let url = &place.config.state;
    if url.starts_with(S3) {
        return Ok(StateStore::new(s3(url, place)?.1));
    }
    Ok(StateStore::open(url, &place.root)?)
}

/// A bucket, as the registry and as states see it.
type S3Objects = (Arc<dyn ObjectStore>, Arc<dyn Objects>);

#[cfg(feature = "aws")]
fn s3(url: &str, place: &Place) -> Result<S3Objects> {
    let bucket = olbake_aws::s3::Bucket::open(url, &place.config.cache.join("uploads"))?;
    Ok((Arc::new(bucket.clone()), Arc::new(bucket)))
}

#[cfg(not(feature = "aws"))]
fn s3(_url: &str, _place: &Place) -> Result<S3Objects> {
    Err(without_aws())
}

/// What a build without AWS says of what needs it.
#[cfg(not(feature = "aws"))]
pub(super) fn without_aws() -> CliError {
    CliError::environment(anyhow::anyhow!("this olbake was built without AWS"))
        .help("build it with: cargo build --features aws")
}
