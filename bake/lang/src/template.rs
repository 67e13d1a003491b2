//! Templates: minijinja with Jinja's defaults, strict about what is undefined. Each is parsed once.
//!
//! Names are relative to the component's folder, or to the workspace after `//`; `include` and `extends` find
//! templates the same way. Methods that people know from Python (`items`, `keys`, `split`, …) work.

use std::sync::Arc;

use camino::Utf8Path;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, ObjectRepr, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use olbake_core::diagnostic::Diagnostic;
use olbake_core::secret;
use olbake_core::span::Span;
use serde_json::Value as Json;

use crate::sources::Sources;
use crate::values::SettingsData;

/// The templates of one component.
pub(crate) struct Templates {
    environment: Environment<'static>,
    sources: Arc<Sources>,
}

impl Templates {
    /// The templates in a component's folder.
    pub(crate) fn new(sources: &Arc<Sources>, folder: &Utf8Path) -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment
            .set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default());
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(crate::pymethods::call);
        let (files, folder) = (Arc::clone(sources), folder.to_owned());
        environment.set_loader(move |name| {
            let file = match name.strip_prefix("//") {
                Some(inner) => inner.to_owned(),
                None => folder.join(name).into_string(),
            };
            if file.split('/').any(|part| part == "..") {
                return Err(Error::new(ErrorKind::TemplateNotFound, format!("`{name}` leaves the workspace")));
            }
            match files.read(&file) {
                Ok(text) if text.contains([secret::MARKER_START, secret::MARKER_END]) => Err(Error::new(
                    ErrorKind::SyntaxError,
                    "the private-use characters U+E000 and U+E001 stand for secrets and are refused elsewhere",
                )),
                Ok(text) => Ok(Some(text.to_string())),
                Err(_) => Ok(None),
            }
        });
        Self { environment, sources: Arc::clone(sources) }
    }

    /// Renders a template. `file` is its path in the workspace, for places in it.
    pub(crate) fn render(&self, name: &str, file: &Utf8Path, variables: Value) -> Result<String, Diagnostic> {
        let template =
            self.environment.get_template(name).map_err(|error| self.diagnose(name, file, &error))?;
        template.render(variables).map_err(|error| self.diagnose(name, file, &error))
    }

    fn diagnose(&self, name: &str, file: &Utf8Path, error: &Error) -> Diagnostic {
        if error.kind() == ErrorKind::TemplateNotFound && error.line().is_none() {
            return match self.sources.read(file.as_str()) {
                Ok(_) => Diagnostic::error("template", format!("the template `{name}` leaves the workspace")),
                Err(reason) => {
                    Diagnostic::error("missing-template", format!("the template is missing: {reason}"))
                        .help(format!("make `{file}`"))
                }
            };
        }
        let inner = innermost(error);
        let place = inner.name().or(error.name()).map_or(file.as_str().to_owned(), |found| {
            if found == name { file.as_str().to_owned() } else { found.to_owned() }
        });
        let span = inner.line().or(error.line()).map(|line| self.place(&place, line, inner.range()));
        let detail = inner.detail().map(str::to_owned);
        let undefined = inner.kind() == ErrorKind::UndefinedError;
        let expression = span.as_ref().and_then(|span| self.excerpt(span));
        let message = match (undefined, detail, expression) {
            (true, None, Some(expression)) => format!("`{expression}` is undefined in this template"),
            (true, Some(detail), _) => format!("undefined in this template: {detail}"),
            (_, Some(detail), _) => format!("{}: {detail}", inner.kind()),
            (_, None, _) => inner.kind().to_string(),
        };
        let code = if undefined { "undefined-variable" } else { "template" };
        let problem = Diagnostic::error(code, message).at(span);
        if undefined {
            problem.help("pass it in `vars`, or give it a default: `{{ x | default(\"…\") }}`")
        } else {
            problem
        }
    }

    /// A line of a template, and the part of it that the byte range names.
    fn place(&self, file: &str, line: usize, range: Option<std::ops::Range<usize>>) -> Span {
        let text = self.sources.read(file).unwrap_or_else(|_| "".into());
        let start_of_line: usize =
            text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
        let content = text[start_of_line..].lines().next().unwrap_or_default();
        let indent = content.len() - content.trim_start().len();
        let (from, to) = match range {
            Some(range) if range.start >= start_of_line && range.end <= start_of_line + content.len() => {
                (range.start - start_of_line, range.end - start_of_line)
            }
            _ => (indent, content.len()),
        };
        let column = |byte: usize| {
            u32::try_from(content.get(..byte).unwrap_or(content).chars().count() + 1).unwrap_or(1)
        };
        let line = u32::try_from(line).unwrap_or(u32::MAX);
        Span { file: file.to_owned(), line, column: column(from), end_line: line, end_column: column(to) }
    }

    fn excerpt(&self, span: &Span) -> Option<String> {
        let text = self.sources.read(&span.file).ok()?;
        let line = text.lines().nth(span.line as usize - 1)?;
        let width = (span.end_column - span.column) as usize;
        let part: String = line.chars().skip(span.column as usize - 1).take(width).collect();
        Some(part.trim().trim_start_matches("{{").trim_end_matches("}}").trim().to_owned())
    }
}

/// The error in the included template, where there is one.
fn innermost(error: &Error) -> &Error {
    let mut found = error;
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<Error>() {
            found = inner;
        }
        source = inner.source();
    }
    found
}

/// Data as a template sees it.
pub(crate) fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => Value::from(number),
            (None, number) => Value::from(number.unwrap_or_default()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(entries) => {
            Value::from_pairs(entries.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// The settings as a template sees them; what it reads counts as read.
#[derive(Debug)]
pub(crate) struct SettingsObject(pub(crate) Arc<SettingsData>);

impl Object for SettingsObject {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_str()?).map(|(value, _)| from_json(value))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.schema.fields.keys().map(|name| Value::from(name.as_str())).collect())
    }
}
