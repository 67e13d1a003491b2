//! The configuration of a stack: default, `ENVIRONMENT.toml`, `.env`, environment and `--set` over each other.
//!
//! Secrets are not opened here. Their value in the recipe is a marker, and what counts as a change is the digest of
//! the ciphertext.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use olbake_core::Digest;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::plan::{Provenance, Setting};
use olbake_core::secret::SecretId;
use olbake_core::settings::{
    Given, GivenValue, LayerKind, Schema, SetOption, Variables, did_you_mean, parse_dotenv, resolve,
};
use olbake_core::stack::StackName;
use serde_json::Value as Json;

use super::StackInputs;
use super::document::{Document, Entry};

/// A stack's configuration.
#[derive(Debug, Default)]
pub(crate) struct Configuration {
    /// Each value with its provenance; computed ones are absent.
    pub(crate) settings: BTreeMap<String, Setting>,
    /// The ciphertexts of secrets.
    pub(crate) sealed: BTreeMap<SecretId, String>,
    pub(crate) warnings: Vec<Diagnostic>,
    pub(crate) problems: Vec<Diagnostic>,
}

impl Configuration {
    /// The values in the order of the declaration.
    pub(crate) fn values(&self, schema: &Schema) -> Vec<Json> {
        let value = |name| self.settings.get(name).map_or(Json::Null, |setting| setting.value.clone());
        schema.fields.keys().map(value).collect()
    }

    /// What counts as a change of each secret.
    pub(crate) fn digests(&self) -> BTreeMap<SecretId, Digest> {
        self.sealed.iter().map(|(id, sealed)| (id.clone(), Digest::of(sealed.as_bytes()))).collect()
    }
}

/// What the configuration is read for.
pub(crate) struct Reading<'a> {
    pub(crate) stack: &'a StackName,
    pub(crate) schema: &'a Schema,
    /// The configuration's file, relative to the workspace.
    pub(crate) file: &'a str,
    pub(crate) document: &'a Document,
    pub(crate) inputs: &'a StackInputs,
    /// The names of all configurations of the workspace, for `--set`.
    pub(crate) names: &'a dyn Fn() -> Vec<String>,
}

impl Reading<'_> {
    /// Lays the layers over each other.
    pub(crate) fn read(&self) -> Configuration {
        let mut configuration = Configuration::default();
        let given = self.given(&mut configuration);
        let is_secret = |name: &str| self.schema.fields.get(name).is_some_and(|field| field.ty.is_secret());
        let (secret, open): (Vec<Given>, Vec<Given>) =
            given.into_iter().partition(|given| is_secret(&given.path[0]));
        let fields: IndexMap<_, _> = self
            .schema
            .fields
            .iter()
            .filter(|(_, field)| !field.ty.is_secret())
            .map(|(name, field)| (name.clone(), field.clone()))
            .collect();
        let resolved = resolve(&Schema { name: self.schema.name.clone(), fields }, &open);
        configuration.settings = resolved.settings;
        // One that is given and refused is not missing.
        let given = |problem: &Diagnostic| {
            self.document
                .values
                .iter()
                .any(|entry| problem.message == format!("`{}.{}` has no value", self.schema.name, entry.key))
        };
        let problems = resolved.problems.into_iter().filter(|problem| !given(problem));
        configuration.problems.extend(problems.map(|problem| self.reworded(problem)));
        self.secrets(&secret, &mut configuration);
        configuration
    }

    /// Everything that says something about the settings, lowest layer first.
    fn given(&self, configuration: &mut Configuration) -> Vec<Given> {
        let mut given = Vec::new();
        for entry in &self.document.values {
            match self.in_file(entry) {
                Ok(one) => given.push(one),
                Err(problem) => configuration.problems.push(problem),
            }
        }
        let mut variables = |variables: &Variables, layer| {
            let (found, problems) = variables.given(self.schema, layer);
            given.extend(found);
            for problem in problems {
                match problem.severity {
                    olbake_core::diagnostic::Severity::Error => configuration.problems.push(problem),
                    olbake_core::diagnostic::Severity::Warning => configuration.warnings.push(problem),
                }
            }
        };
        let mut wrong = Vec::new();
        if let Some((file, text)) = &self.inputs.dotenv {
            let (entries, problems) = parse_dotenv(file, text);
            wrong = problems;
            let entries = entries.into_iter().map(|entry| (entry.name, entry.value, Some(entry.span)));
            variables(&Variables::new(entries), LayerKind::Dotenv);
        }
        let environment = self.inputs.environment.iter();
        let environment = environment.map(|(name, value)| (name.clone(), value.clone(), None));
        variables(&Variables::new(environment), LayerKind::Environment);
        configuration.problems.extend(wrong);
        for written in &self.inputs.sets {
            match self.set(written) {
                Ok(one) => given.extend(one),
                Err(problem) => configuration.problems.push(problem),
            }
        }
        given
    }

    fn in_file(&self, entry: &Entry) -> Result<Given, Diagnostic> {
        let Some(field) = self.schema.fields.get(&entry.key) else {
            let text = format!("`{}` has no setting `{}`", self.schema.name, entry.key);
            let mut problem = Diagnostic::error("unknown-setting", text).at(entry.key_span.clone());
            problem.help = did_you_mean(&entry.key, self.schema.fields.keys().map(String::as_str))
                .or_else(|| Some("the project declares no settings".to_owned()));
            return Err(problem);
        };
        if sealed(&entry.value).is_some() && !field.ty.is_secret() {
            let text = format!("`{}.{}` is no secret", self.schema.name, entry.key);
            return Err(Diagnostic::error("setting-value", text)
                .at(entry.value_span.clone())
                .help(format!("declare it as `\"{}\": setting(secret)`", entry.key)));
        }
        Ok(Given {
            layer: LayerKind::EnvironmentFile,
            name: None,
            span: Some(entry.value_span.clone()),
            path: vec![entry.key.clone()],
            value: GivenValue::Value(entry.value.clone()),
        })
    }

    /// What a `--set` gives to this stack.
    fn set(&self, written: &str) -> Result<Option<Given>, Diagnostic> {
        let set = SetOption::parse(written)?;
        if set.component == self.schema.name.as_str() {
            let whole = self.stack.as_str();
            let for_this = set.image.as_deref().is_none_or(|image| image == whole);
            return Ok(for_this.then(|| set.given()));
        }
        let names = (self.names)();
        if names.contains(&set.component) {
            return Ok(None);
        }
        let text = format!("`--set {}`: no project has a configuration `{}`", set.written, set.component);
        let mut problem = Diagnostic::error("unknown-component", text);
        problem.help = did_you_mean(&set.component, names.iter().map(String::as_str));
        Err(problem)
    }

    /// The words of settings of components, for stacks.
    fn reworded(&self, mut problem: Diagnostic) -> Diagnostic {
        match problem.code.as_str() {
            "missing-setting" => {
                let name = problem.message.split('`').nth(1).and_then(|name| name.split('.').nth(1));
                problem.help = name.map(|name| format!("write `{name} = …` in `{}`", self.file));
            }
            "unknown-setting" => {
                let name = problem.message.split('`').nth(3).unwrap_or_default();
                problem.help = did_you_mean(name, self.schema.fields.keys().map(String::as_str));
            }
            _ => {}
        }
        problem
    }

    fn secrets(&self, given: &[Given], configuration: &mut Configuration) {
        for (name, field) in self.schema.fields.iter().filter(|(_, field)| field.ty.is_secret()) {
            // What a project calls its configuration is no part of the identity: the stack is.
            let id = SecretId(format!("config.{name}"));
            let marker = Json::from(id.marker());
            let mut provenance = Vec::new();
            for one in given.iter().filter(|one| one.path[0] == *name) {
                let ciphertext = match &one.value {
                    GivenValue::Value(value) if one.layer == LayerKind::EnvironmentFile => sealed(value),
                    _ => None,
                };
                match ciphertext {
                    Some(text) => {
                        configuration.sealed.insert(id.clone(), text.to_owned());
                        let (layer, span) = (one.layer.as_str().to_owned(), one.span.clone());
                        provenance.push(Provenance { layer, name: None, span, value: marker.clone() });
                    }
                    None => configuration.problems.push(self.in_the_open(name, one)),
                }
            }
            let value = match configuration.sealed.contains_key(&id) {
                true => marker,
                false if field.ty.is_optional() => Json::Null,
                false => {
                    if !given.iter().any(|one| one.path[0] == *name) {
                        let text = format!("`{}.{name}` has no value", self.schema.name);
                        let problem = Diagnostic::error("missing-setting", text).at(field.span.clone());
                        configuration.problems.push(problem.help(self.how_to_seal(name)));
                    }
                    continue;
                }
            };
            configuration.settings.insert(name.clone(), Setting { value, provenance });
        }
    }

    fn in_the_open(&self, name: &str, given: &Given) -> Diagnostic {
        let by = match (&given.name, &given.span) {
            (Some(name), _) => format!(" by `{name}`"),
            // Not as the diagnostic's place: what stands there would be drawn.
            (None, Some(span)) => format!(" in `{}`", span.location()),
            (None, None) => String::new(),
        };
        let text = format!("`{}.{name}` is secret and is given in the open{by}", self.schema.name);
        Diagnostic::error("secret-in-the-open", text).help(self.how_to_seal(name))
    }

    fn how_to_seal(&self, name: &str) -> String {
        format!("`olbake config set --stack {} --secret {name}` encrypts it in `{}`", self.stack, self.file)
    }
}

/// The ciphertext of `{ secure = "…" }`.
fn sealed(value: &Json) -> Option<&str> {
    let table = value.as_object().filter(|table| table.len() == 1)?;
    table.get("secure")?.as_str().filter(|text| !text.is_empty())
}
