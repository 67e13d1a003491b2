//! Templates: minijinja with Jinja's defaults, strict about what is undefined. Each is parsed once.
//!
//! Names are relative to the component's folder, or to the workspace after `//`; `include` and `extends` find
//! templates the same way. Methods that people know from Python (`items`, `keys`, `split`, …) work.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use camino::{Utf8Path, Utf8PathBuf};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, ObjectRepr, Value, merge_maps};
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
    folder: Utf8PathBuf,
}

/// Texts that take the place of templates, by the templates' names.
type Instead = Arc<Mutex<HashMap<String, String>>>;

/// The most undefined variables that are reported of one template.
const MOST_UNDEFINED: usize = 50;

impl Templates {
    /// The templates in a component's folder.
    pub(crate) fn new(sources: &Arc<Sources>, folder: &Utf8Path) -> Self {
        let environment = environment(sources, folder, Instead::default());
        Self { environment, sources: Arc::clone(sources), folder: folder.to_owned() }
    }

    /// Renders a template. `file` is its path in the workspace, for places in it.
    pub(crate) fn render(
        &self,
        name: &str,
        file: &Utf8Path,
        variables: Value,
    ) -> Result<String, Vec<Diagnostic>> {
        let rendered = self.environment.get_template(name).and_then(|found| found.render(&variables));
        rendered.map_err(|error| self.problems(name, file, error, variables))
    }

    /// What is wrong with a template. Each undefined expression gives way to one that is not, and the template is
    /// rendered again, until nothing else is undefined.
    fn problems(&self, name: &str, file: &Utf8Path, error: Error, variables: Value) -> Vec<Diagnostic> {
        let instead = Instead::default();
        let mut environment = environment(&self.sources, &self.folder, Arc::clone(&instead));
        // Errors know what was undefined, which costs time that no other rendering has to take.
        environment.set_debug(true);
        let variables =
            merge_maps([Value::from_pairs([(ANYTHING, Value::from_object(Anything))]), variables]);
        let again = environment.get_template(name).and_then(|found| found.render(&variables)).err();
        let mut error = again.unwrap_or(error);
        let mut problems = vec![self.diagnose(name, file, &error)];
        while is_undefined(&error) && problems.len() < MOST_UNDEFINED {
            let Some((template, text)) = self.without(&instead, &error) else { break };
            instead.lock().unwrap_or_else(PoisonError::into_inner).insert(template, text);
            environment.clear_templates();
            match environment.get_template(name).and_then(|found| found.render(&variables)) {
                Err(next) if is_undefined(&next) => {
                    problems.push(self.diagnose(name, file, &next));
                    error = next;
                }
                _ => break,
            }
        }
        problems
    }

    /// A template's name, and its text with something of the same length in place of what is undefined.
    fn without(&self, instead: &Instead, error: &Error) -> Option<(String, String)> {
        let inner = innermost(error);
        let template = inner.name().or(error.name())?;
        let known = instead.lock().unwrap_or_else(PoisonError::into_inner).get(template).cloned();
        let text = match known {
            Some(text) => text,
            None => self.sources.text(&file_of(&self.folder, template))?.to_string(),
        };
        let range = what_is_undefined(&text, inner).or_else(|| inner.range())?;
        let undefined = text.get(range.clone()).filter(|part| !part.starts_with(ANYTHING))?;
        let blank = undefined.bytes().skip(1).map(|byte| if byte == b'\n' { '\n' } else { ' ' });
        let blank: String = ANYTHING.chars().chain(blank).collect();
        Some((template.to_owned(), [&text[..range.start], &blank, &text[range.end..]].concat()))
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
            if found == name { file.as_str().to_owned() } else { file_of(&self.folder, found) }
        });
        let text = self.sources.text(&place).unwrap_or_else(|| "".into());
        let range = what_is_undefined(&text, inner).or_else(|| inner.range());
        let span = inner.line().or(error.line()).map(|line| self.place(&place, line, range));
        let detail = inner.detail().map(str::to_owned);
        let undefined = is_undefined(error);
        let expression = span.as_ref().and_then(|span| self.excerpt(span));
        let message = match (undefined, detail, expression) {
            (true, None, Some(expression)) => format!("`{expression}` is undefined in this template"),
            (true, Some(detail), _) => format!("undefined in this template: {detail}"),
            (_, Some(detail), _) if inner.kind() == ErrorKind::BadInclude => detail,
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
    fn place(&self, file: &str, line: usize, range: Option<Range<usize>>) -> Span {
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

/// The path in the workspace of a template.
fn file_of(folder: &Utf8Path, name: &str) -> String {
    match name.strip_prefix("//") {
        Some(inner) => inner.to_owned(),
        None => folder.join(name).into_string(),
    }
}

/// How templates are read and rendered; texts in `instead` count more than files.
fn environment(sources: &Arc<Sources>, folder: &Utf8Path, instead: Instead) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default());
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(crate::pymethods::call);
    let (files, folder) = (Arc::clone(sources), folder.to_owned());
    environment.set_loader(move |name| {
        let other = instead.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if other.is_some() {
            return Ok(other);
        }
        let file = file_of(&folder, name);
        if file.split('/').any(|part| part == "..") {
            return Err(Error::new(ErrorKind::TemplateNotFound, format!("`{name}` leaves the workspace")));
        }
        match files.read(&file) {
            Ok(text) if text.contains([secret::MARKER_START, secret::MARKER_END]) => Err(Error::new(
                ErrorKind::SyntaxError,
                "the private-use characters U+E000 and U+E001 stand for secrets and are refused elsewhere",
            )),
            Ok(text) => Ok(Some(text.to_string())),
            Err(_) if files.is_missing(&file) => Ok(None),
            Err(reason) => Err(Error::new(ErrorKind::BadInclude, reason)),
        }
    });
    environment
}

/// Where the expression stands of which an error says that it is undefined: the error itself points at the filter or
/// operator that could do nothing with it.
fn what_is_undefined(text: &str, error: &Error) -> Option<Range<usize>> {
    let said = error.detail()?;
    let said = &said[..said.find("` is undefined")?];
    let expression = &said[said.rfind('`')? + 1..];
    let before = text.get(..error.range()?.end)?;
    let tag = before.rfind("{{").max(before.rfind("{%"))?;
    let start = tag + before[tag..].rfind(expression)?;
    Some(start..start + expression.len())
}

fn is_undefined(error: &Error) -> bool {
    innermost(error).kind() == ErrorKind::UndefinedError
}

/// The name of what takes the place of undefined variables: short enough to fit into any.
const ANYTHING: &str = "_";

/// Takes the place of what is undefined: it has every attribute, no elements and no text.
#[derive(Debug)]
struct Anything;

impl Object for Anything {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        Some(Value::from_dyn_object(Arc::clone(self)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Empty
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
