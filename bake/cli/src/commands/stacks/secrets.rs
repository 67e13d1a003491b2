//! The secrets of a stack's configuration, opened when a provider needs them. Main type: [`Unsealed`].

use std::collections::BTreeMap;

use olbake_core::redact::Redactor;
use olbake_core::secret::SecretId;
use olbake_core::stack::StackName;
use olbake_engine::edit::TomlFile;
use olbake_engine::envelope::{DataKey, Header, Identity, Kind};
use olbake_lang::Evaluated;
use zeroize::Zeroizing;

use super::super::Context;
use super::Desk;
use crate::errors::{CliError, Result};

/// The place of a setting among a stack's secrets.
const PREFIX: &str = "config.";

/// The secrets of one stack, in memory.
pub(crate) struct Unsealed(BTreeMap<SecretId, Zeroizing<String>>);

impl Unsealed {
    /// Opens every secret that a stack's configuration has, and hides them in all that is said from now on. Where
    /// there is none, no passphrase is needed.
    pub(crate) fn open(
        desk: &Desk,
        context: &Context,
        stack: &StackName,
        evaluated: &Evaluated,
    ) -> Result<Self> {
        if evaluated.sealed.is_empty() {
            return Ok(Self(BTreeMap::new()));
        }
        let file = TomlFile::open(&desk.place.root.join(desk.workspace.configuration_file(stack)))?;
        let header = file.header()?.ok_or_else(|| {
            CliError::user(format!("the secrets of `{stack}` have no key"))
                .help("`olbake config set --secret` makes one and seals a value under it")
        })?;
        let key = data_key(desk, context, stack, &header)?;
        let mut values = BTreeMap::new();
        for (id, sealed) in &evaluated.sealed {
            let path = id.0.strip_prefix(PREFIX).unwrap_or(&id.0);
            values.insert(id.clone(), key.open(path, sealed)?);
        }
        context.ui.hide(Redactor::new(values.values().map(|value| value.as_str())));
        Ok(Self(values))
    }

    /// The value of a secret.
    pub(crate) fn value(&self, id: &SecretId) -> std::result::Result<Zeroizing<String>, String> {
        let Self(values) = self;
        values.get(id).cloned().ok_or_else(|| "the configuration has no such secret".to_owned())
    }
}

/// A stack's key, by what the environment gives; a passphrase may be typed.
pub(super) fn data_key(
    desk: &Desk,
    context: &Context,
    stack: &StackName,
    header: &Header,
) -> Result<DataKey> {
    let kind = header.kind();
    let found = Identity::find(kind, super::environment(context), &desk.place.root)?;
    let identity = match (found, kind) {
        (_, Kind::Kms) => return super::super::ec2::unwrap(stack, header),
        (Some(identity), _) => identity,
        (None, Kind::Passphrase) if context.startup.terminal.asks() => {
            Identity::Passphrase(passphrase(&format!("passphrase of {stack}: "))?)
        }
        (None, Kind::Passphrase) => {
            return Err(CliError::user(format!("the secrets of `{stack}` need a passphrase"))
                .help("give it by OLBAKE_PASSPHRASE or OLBAKE_PASSPHRASE_FILE"));
        }
        (None, Kind::KeyFile) => {
            return Err(CliError::user(format!("the secrets of `{stack}` need a key file"))
                .help("name it by OLBAKE_KEY_FILE"));
        }
    };
    Ok(DataKey::unwrap(stack, header, &identity)?)
}

/// A passphrase typed on the terminal, which does not show it.
pub(super) fn passphrase(question: &str) -> Result<Zeroizing<String>> {
    let read = rpassword::prompt_password(question);
    read.map(Zeroizing::new).map_err(|error| {
        CliError::environment(anyhow::Error::new(error).context("cannot ask for a passphrase"))
    })
}
