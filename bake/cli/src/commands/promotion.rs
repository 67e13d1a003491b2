//! What the commands about channels share. Main type: [`Desk`].

use std::collections::BTreeMap;

use olbake_core::ImageRef;
use olbake_core::promotion::ChannelRecord;
use olbake_engine::promotion::Promotions;
use olbake_engine::registry::{Records, Registry, Version};

use super::Context;
use super::place::Place;
use crate::errors::{CliError, Result};
use crate::startup::Startup;
use crate::ui::human;

/// The registry and the configuration, and who asks.
pub(super) struct Desk {
    pub(super) place: Place,
    registry: Registry,
    by: String,
}

impl Desk {
    /// That of the workspace.
    pub(super) fn open(context: &mut Context) -> Result<Self> {
        let place = context.place()?;
        let registry = place.registry()?;
        Ok(Self { place, registry, by: who(&context.startup.env) })
    }

    /// What the registry holds.
    pub(super) fn records(&self) -> &Records {
        self.registry.records()
    }

    /// Promotions by this person, now.
    pub(super) fn promotions(&self, startup: &Startup) -> Promotions<'_> {
        Promotions {
            records: self.records(),
            config: &self.place.config,
            by: &self.by,
            now: human::timestamp(startup.now),
        }
    }

    /// Writes what a channel points to where readers look for it, if the workspace says where. Doing it again mends it.
    pub(super) fn tell_readers(&self, record: &ChannelRecord) -> Result {
        let ChannelRecord { image, channel, digest, .. } = record;
        super::ec2::tell_readers(&self.place, self.records(), image, channel, digest)
    }

    /// The version of an exact digest: a name alone means another one tomorrow.
    pub(super) fn exact(&self, reference: &str) -> Result<Version> {
        if reference.contains('@') || reference.starts_with("sha256:") {
            return Ok(self.records().resolve(reference)?);
        }
        // An image that is not there is the first thing to say.
        let newest = self.records().resolve(reference)?;
        let error = CliError::user(format!("say which version of `{reference}`"));
        Err(error.help(format!("its last is `{reference}@{}`", newest.digest.short())))
    }

    /// An image that has versions.
    pub(super) fn image(&self, image: &ImageRef) -> Result<ImageRef> {
        Ok(self.records().resolve(&image.to_string())?.image_ref())
    }
}

/// Who acts, as they say: `OLBAKE_BY`, or the user.
pub(super) fn who(env: &BTreeMap<String, String>) -> String {
    let said = ["OLBAKE_BY", "USER", "LOGNAME"].iter().find_map(|name| {
        let value = env.get(*name)?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    });
    said.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
