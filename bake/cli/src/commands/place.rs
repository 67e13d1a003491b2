//! The workspace's directory and what its configuration names: registry, cache, secrets. Main type: [`Place`].

use std::collections::BTreeMap;

use camino::Utf8PathBuf;
use olbake_core::settings::parse_dotenv;
use olbake_engine::cache::Cache;
use olbake_engine::config::Config;
use olbake_engine::registry::Registry;
use olbake_engine::secrets::SecretReader;
use olbake_lang::Workspace;

use super::{Context, backends};
use crate::errors::{CliError, Result};
use crate::exit_codes::Kind;
use crate::startup::Startup;

/// A workspace's directory and configuration. Nothing is opened before it is asked for.
pub(super) struct Place {
    /// The directory.
    pub(super) root: Utf8PathBuf,
    /// What `olbake.toml` says.
    pub(super) config: Config,
}

impl Place {
    /// The workspace of a directory: the nearest one above that has an `olbake.toml`.
    pub(super) fn find(context: &mut Context) -> Result<Self> {
        let Context { startup, ui, directory } = context;
        let root = Workspace::find(directory)
            .map_err(|problems| CliError { kind: Kind::User, ..problems.into() })?;
        ui.set_root(&root);
        let config = Config::load(&root, &startup.env)?;
        Ok(Self { root, config })
    }

    /// The registry.
    pub(super) fn registry(&self) -> Result<Registry> {
        backends::registry(self)
    }

    /// The cache.
    pub(super) fn cache(&self) -> Result<Cache> {
        Ok(Cache::open(&self.config.cache, Some(self.config.cache_size))?)
    }

    /// What reads secrets: `env:NAME` means the environment's variable, or else that of `.env`. Mistakes in that
    /// file are told where settings are read from it.
    pub(super) fn secrets(&self, startup: &Startup) -> SecretReader {
        let text = std::fs::read_to_string(self.root.join(".env")).unwrap_or_default();
        let (entries, _) = parse_dotenv(".env", &text);
        let mut variables: BTreeMap<String, String> =
            entries.into_iter().map(|entry| (entry.name, entry.value)).collect();
        variables.extend(startup.env.clone());
        SecretReader::new(variables, &self.root, &self.config.cache)
    }
}
