//! What all requests share.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use serde_json::json;

use super::balancer::HostBalancers;
use super::balancing;
use super::calls::Calls;
use super::error::{CloudError, io_error};
use super::faults::Faults;
use super::machines::{self, Machines};
use super::snapshots::Snapshots;
use super::tokens::Tokens;
use super::upstream::Upstream;
use super::visibility::Visibility;

/// How long records are left alone that nobody called about.
const PULSE: Duration = Duration::from_millis(500);

pub(super) struct Shared {
    pub(super) root: Utf8PathBuf,
    pub(super) moto: Upstream,
    pub(super) calls: Calls,
    pub(super) faults: Faults,
    pub(super) tokens: Tokens,
    pub(super) visibility: Visibility,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) machines: Machines,
    pub(super) balancers: Option<HostBalancers>,
}

impl Shared {
    /// Notes something for people.
    pub(super) fn log(&self, text: &str) {
        let file = OpenOptions::new().append(true).create(true).open(self.root.join("cloud.log"));
        // It is for people only, and the disk may be full.
        file.and_then(|mut file| writeln!(file, "{text}")).ok();
    }
}

/// Makes everything follow the records, as long as the cloud runs.
pub(super) async fn follow(shared: Arc<Shared>) {
    loop {
        if let Err(error) = once(&shared).await {
            shared.log(&format!("{error}: {:?}", std::error::Error::source(&error)));
        }
        // Either is a reason to look again.
        tokio::time::timeout(PULSE, shared.machines.bell.notified()).await.ok();
    }
}

async fn once(shared: &Arc<Shared>) -> Result<(), CloudError> {
    machines::reconcile(shared).await?;
    balancing::reconcile(shared).await?;
    shared.moto.record("tick", &json!({})).await?;
    let before = shared.snapshots.ids();
    let regions = shared.moto.record("snapshots", &json!({})).await?;
    let ids = regions.as_array().into_iter().flatten().filter_map(|region| region[1].as_array()).flatten();
    let there: BTreeSet<String> = ids.filter_map(|id| id.as_str().map(str::to_owned)).collect();
    shared.snapshots.keep(&there, &before).map_err(io_error("cannot remove snapshots in", &shared.root))
}
