//! `olbake config list|set|unset`: the configuration of a stack, in place.

use olbake_core::settings::{Type, did_you_mean};
use olbake_core::stack::StackName;
use olbake_engine::edit::{KeyPath, NewValue, TomlFile};
use olbake_engine::envelope::{DataKey, Header, Identity, KMS, Kind, Work, Wrapping};
use olbake_lang::Workspace;
use zeroize::Zeroizing;

use super::super::Context;
use super::secrets::{data_key, passphrase};
use super::{Desk, environment};
use crate::args::{ConfigAct, ConfigArgs, Settings};
use crate::errors::{CliError, Result};
use crate::ui::stack as ui;

pub(super) fn run(args: &ConfigArgs, context: &mut Context) -> Result {
    let desk = Desk::open(context)?;
    let stack = desk.choose(&args.stack, context)?;
    match &args.act {
        ConfigAct::List => list(&desk, context, &stack),
        ConfigAct::Set { key, value, secret, recipients } => {
            set(&desk, context, &stack, key, value.as_deref(), *secret, recipients)
        }
        ConfigAct::Unset { key } => {
            let mut file = open(&desk, &stack)?;
            if !file.unset(&key.parse()?) {
                return Err(CliError::user(format!("the configuration of `{stack}` does not set `{key}`")));
            }
            Ok(file.save()?)
        }
    }
}

fn open(desk: &Desk, stack: &StackName) -> Result<TomlFile> {
    Ok(TomlFile::open(&desk.place.root.join(desk.workspace.configuration_file(stack)))?)
}

fn list(desk: &Desk, context: &Context, stack: &StackName) -> Result {
    let evaluated = desk.evaluate(context, stack, &Settings::default())?;
    if context.ui.json {
        context.ui.document(&evaluated.config);
    } else {
        context.ui.print(&ui::config(&evaluated.config, context.ui.out));
    }
    Ok(())
}

fn set(
    desk: &Desk,
    context: &Context,
    stack: &StackName,
    key: &str,
    value: Option<&str>,
    secret: bool,
    recipients: &[String],
) -> Result {
    let path: KeyPath = key.parse()?;
    must_be_declared(desk, stack, &path, secret)?;
    let mut file = open(desk, stack)?;
    if !secret {
        let value = value.ok_or_else(|| CliError::user("say which value"))?;
        // What TOML cannot read as a value is a text.
        let toml = file.set(&path, NewValue::Toml(value.to_owned()));
        if toml.is_err() {
            file.set(&path, NewValue::Text(value.to_owned()))?;
        }
        return Ok(file.save()?);
    }
    if value.is_some() {
        return Err(CliError::user("a secret on the command line is seen by everyone on this machine").help(
            format!("write it to the command's standard input: `… config set --secret {key} < FILE`"),
        ));
    }
    let key = match file.header()? {
        Some(header) => data_key(desk, context, stack, &header)?,
        None => {
            let (key, header) = new_key(desk, context, stack, recipients)?;
            file.set_header(&header)?;
            key
        }
    };
    let typed = typed(context, &path)?;
    file.set(&path, NewValue::Secure(key.seal(&path.to_string(), &typed)?))?;
    Ok(file.save()?)
}

/// The key is a setting of the project, and a secret is only ever written sealed.
fn must_be_declared(desk: &Desk, stack: &StackName, path: &KeyPath, secret: bool) -> Result {
    let (first, below) = path.keys().split_first().expect("a path has a key");
    if Workspace::is_own_configuration(first) {
        return Ok(());
    }
    let schema = desk.workspace.configuration_schema(stack.project())?;
    let Some(field) = schema.fields.get(first) else {
        let error = CliError::user(format!("the configuration of `{stack}` has no `{first}`"));
        return Err(match did_you_mean(first, schema.fields.keys().map(String::as_str)) {
            Some(help) => error.help(help),
            None => error,
        });
    };
    let mut types = Vec::new();
    types_at(&field.ty, below, &mut types);
    let secrets = types.iter().filter(|ty| matches!(ty, Type::Secret)).count();
    if !secret && secrets > 0 && secrets == types.len() {
        let error = format!("`{path}` is a secret, which everyone who reads the file would know");
        return Err(CliError::user(error).help(format!(
            "`olbake config set --secret {path}` seals it; the value comes on standard input"
        )));
    }
    if secret && secrets == 0 {
        return Err(CliError::user(format!("`{path}` is no secret"))
            .help(format!("`olbake config set {path} VALUE`, or declare it as `secret`")));
    }
    Ok(())
}

/// The types that a value at a place below a value of a type may have.
fn types_at<'a>(ty: &'a Type, below: &[String], found: &mut Vec<&'a Type>) {
    match (ty, below) {
        (Type::Optional(inner), _) => types_at(inner, below, found),
        (Type::Union(types), _) => types.iter().for_each(|ty| types_at(ty, below, found)),
        (Type::Map(_, value), [_, below @ ..]) => types_at(value, below, found),
        (Type::Record(fields), [name, below @ ..]) => {
            fields
                .iter()
                .filter(|field| field.name == *name)
                .for_each(|field| types_at(&field.ty, below, found));
        }
        (ty, []) => found.push(ty),
        _ => {}
    }
}

/// A new key for a stack, wrapped for those who may open it, or for a passphrase.
fn new_key(
    desk: &Desk,
    context: &Context,
    stack: &StackName,
    recipients: &[String],
) -> Result<(DataKey, Header)> {
    if let [one] = recipients
        && let Some(kms_key) = one.strip_prefix(KMS)
    {
        return super::super::ec2::new_key(stack, kms_key);
    }
    if !recipients.is_empty() {
        return Ok(DataKey::create(stack, &Wrapping::Recipients(recipients.to_vec()))?);
    }
    let found = Identity::find(Kind::Passphrase, environment(context), &desk.place.root)?;
    let phrase = match found {
        Some(Identity::Passphrase(phrase)) => phrase,
        _ if context.startup.terminal.asks() => {
            let first = passphrase(&format!("new passphrase of {stack}: "))?;
            let second = passphrase("once more: ")?;
            if *first != *second {
                return Err(CliError::user("the two are not the same"));
            }
            first
        }
        _ => {
            return Err(CliError::user(format!("`{stack}` has no key for secrets yet, and one needs a passphrase"))
                .help("give it by OLBAKE_PASSPHRASE or OLBAKE_PASSPHRASE_FILE, or name recipients: `--recipient age1…`"));
        }
    };
    Ok(DataKey::create(stack, &Wrapping::Passphrase(phrase, Work::default()))?)
}

/// A secret from standard input; a person types it unseen.
fn typed(context: &Context, path: &KeyPath) -> Result<Zeroizing<String>> {
    if context.startup.terminal.asks() {
        return passphrase(&format!("value of {path}: "));
    }
    let mut text = Zeroizing::new(String::new());
    std::io::Read::read_to_string(&mut std::io::stdin(), &mut text).map_err(|error| {
        CliError::environment(anyhow::Error::new(error).context("cannot read the secret from standard input"))
    })?;
    let trimmed = text.strip_suffix('\n').unwrap_or(&text);
    if trimmed.is_empty() {
        return Err(CliError::user("the secret is empty"));
    }
    Ok(Zeroizing::new(trimmed.to_owned()))
}
