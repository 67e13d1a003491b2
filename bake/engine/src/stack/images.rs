//! What rollouts need to know of images, from the registry. Main type: [`RegistryImages`].

use std::time::Duration;

use async_trait::async_trait;
use olbake_core::Digest;
use olbake_core::operation::{Action, Run};
use olbake_core::rollout::Availability;

use super::error::StackError;
use super::site::{HookCommand, Images};
use crate::registry::Registry;

/// How long a command of an `upgrade` function may take, unless it says otherwise.
const LIMIT: Duration = Duration::from_secs(3600);

/// The images of a registry.
#[derive(Clone, Debug)]
pub struct RegistryImages(pub Registry);

#[async_trait]
impl Images for RegistryImages {
    async fn availability(&self, image: &Digest) -> Result<Availability, StackError> {
        let Self(registry) = self;
        Ok(match registry.by_digest(image).await? {
            Some(_) => Availability::Launchable,
            None => Availability::Missing,
        })
    }

    async fn upgrade_hooks(&self, image: &Digest) -> Result<Vec<HookCommand>, StackError> {
        let Self(registry) = self;
        let Some(version) = registry.by_digest(image).await? else { return Ok(Vec::new()) };
        let Some(plan) = registry.plan(&version).await? else { return Ok(Vec::new()) };
        let operations = plan.upgrade.into_iter().flat_map(|upgrade| upgrade.operations);
        Ok(operations
            .filter_map(|operation| match operation.action {
                Action::Run(run) => Some(hook(&run)),
                _ => None,
            })
            .collect())
    }
}

fn hook(run: &Run) -> HookCommand {
    let mut argv: Vec<String> = Vec::new();
    if let Some(user) = &run.user {
        argv.extend(["runuser", "-u", user, "--"].map(str::to_owned));
    }
    if !run.env.is_empty() {
        argv.push("env".to_owned());
        argv.extend(run.env.iter().map(|(name, value)| format!("{name}={value}")));
    }
    if run.shell {
        argv.extend(["/bin/sh", "-c"].map(str::to_owned));
    }
    argv.extend(run.argv.iter().cloned());
    let limit = run.timeout_seconds.map_or(LIMIT, |seconds| Duration::from_secs(seconds.into()));
    HookCommand { argv, limit }
}
