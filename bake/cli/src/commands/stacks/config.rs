//! `olbake config list|set|rewrap|unset`: the configuration of a stack, in place.

use std::collections::BTreeMap;

use olbake_core::settings::{Field, Problem, Type, did_you_mean};
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
        ConfigAct::Rewrap { recipients } => rewrap(&desk, context, &stack, recipients),
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
    let evaluated = desk.evaluate_offline(context, stack, &Settings::default())?;
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
    let declared = must_be_declared(desk, stack, &path, secret)?;
    let mut file = open(desk, stack)?;
    if !secret {
        let value = value.ok_or_else(|| CliError::user("say which value"))?;
        file.set(&path, fitting(&path, declared.as_ref(), value)?)?;
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

/// What is declared for a place of the configuration.
struct Declared {
    /// The types that a value may have there.
    types: Vec<Type>,
    /// The setting, where the place is all of it.
    field: Option<Field>,
}

/// The value in the form that fits the place: as TOML reads it, or else as a text.
fn fitting(path: &KeyPath, declared: Option<&Declared>, written: &str) -> Result<NewValue> {
    let toml = NewValue::Toml(written.to_owned());
    let text = NewValue::Text(written.to_owned());
    let Some(declared) = declared else {
        return Ok(if toml.json().is_ok() { toml } else { text });
    };
    let mut first = None;
    for value in [toml, text] {
        let Ok(json) = value.json() else { continue };
        match declared.problems(&json) {
            None => return Ok(value),
            Some(problem) => drop(first.get_or_insert(problem)),
        }
    }
    let problem = first.expect("a text can be read as one");
    let error = CliError::user(format!("`{path}`{}: {}", problem.path, problem.message));
    Err(match problem.help {
        Some(help) => error.help(help),
        None => error,
    })
}

impl Declared {
    /// The first thing that is wrong with a value; none where it fits.
    fn problems(&self, value: &serde_json::Value) -> Option<Problem> {
        let mut found = None;
        for ty in &self.types {
            let problems = match (ty.coerce(value), &self.field) {
                (Ok(value), Some(field)) => field.broken_rules(&value),
                (Ok(_), None) => Vec::new(),
                (Err(problems), _) => problems,
            };
            let problem = problems.into_iter().next()?;
            found.get_or_insert(problem);
        }
        found
    }
}

/// The key is a setting of the project, and a secret is only ever written sealed. None: it is olbake's own.
fn must_be_declared(
    desk: &Desk,
    stack: &StackName,
    path: &KeyPath,
    secret: bool,
) -> Result<Option<Declared>> {
    let (first, below) = path.keys().split_first().expect("a path has a key");
    if Workspace::is_own_configuration(first) {
        return Ok(None);
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
    if types.is_empty() {
        return Err(CliError::user(format!("the configuration of `{stack}` has no `{path}`")));
    }
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
    let whole = below.is_empty();
    // The whole of an optional setting may be absent, which its parts do not say.
    let types = if whole { vec![field.ty.clone()] } else { types.into_iter().cloned().collect() };
    Ok(Some(Declared { types, field: whole.then(|| field.clone()) }))
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
    let phrase = new_passphrase(desk, context, stack, environment(context))?.ok_or_else(|| {
        CliError::user(format!("`{stack}` has no key for secrets yet, and one needs a passphrase")).help(
            "give it by OLBAKE_PASSPHRASE or OLBAKE_PASSPHRASE_FILE, or name recipients: `--recipient age1…`",
        )
    })?;
    Ok(DataKey::create(stack, &Wrapping::Passphrase(phrase, Work::default()))?)
}

/// A passphrase that the environment gives, or that a person types twice; none where there is nobody.
fn new_passphrase(
    desk: &Desk,
    context: &Context,
    stack: &StackName,
    environment: &BTreeMap<String, String>,
) -> Result<Option<Zeroizing<String>>> {
    if let Some(Identity::Passphrase(phrase)) =
        Identity::find(Kind::Passphrase, environment, &desk.place.root)?
    {
        return Ok(Some(phrase));
    }
    if !context.startup.terminal.asks() {
        return Ok(None);
    }
    let first = passphrase(&format!("new passphrase of {stack}: "))?;
    let second = passphrase("once more: ")?;
    if *first == *second { Ok(Some(first)) } else { Err(CliError::user("the two are not the same")) }
}

/// Wraps the key of a stack's secrets for others.
fn rewrap(desk: &Desk, context: &Context, stack: &StackName, recipients: &[String]) -> Result {
    let mut file = open(desk, stack)?;
    let header = file.header()?;
    let header = header.ok_or_else(|| CliError::user(format!("`{stack}` has no key for secrets yet")))?;
    if recipients.iter().any(|who| who.starts_with(KMS)) {
        return Err(CliError::user("KMS wraps only keys that it made itself").help(
            "set the secrets anew in a file without `[encryption]`: `config set --secret --recipient kms:…`",
        ));
    }
    let key = data_key(desk, context, stack, &header)?;
    let wrapping = if recipients.is_empty() {
        let given = environment(context);
        let renamed = [("OLBAKE_PASSPHRASE", "OLBAKE_NEW_PASSPHRASE")]
            .into_iter()
            .chain([("OLBAKE_PASSPHRASE_FILE", "OLBAKE_NEW_PASSPHRASE_FILE")])
            .filter_map(|(name, new)| Some((name.to_owned(), given.get(new)?.clone())));
        let phrase = new_passphrase(desk, context, stack, &renamed.collect())?.ok_or_else(|| {
            CliError::user("the new passphrase is missing")
                .help("give it by OLBAKE_NEW_PASSPHRASE or OLBAKE_NEW_PASSPHRASE_FILE, or name recipients")
        })?;
        Wrapping::Passphrase(phrase, Work::default())
    } else {
        Wrapping::Recipients(recipients.to_vec())
    };
    file.set_header(&key.wrap(&wrapping)?)?;
    file.save()?;
    context.ui.say(&format!(
        "the secrets of `{stack}` are opened anew; who has an earlier copy of the file can open that as before: \
         where that matters, change the secrets, too"
    ));
    Ok(())
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
