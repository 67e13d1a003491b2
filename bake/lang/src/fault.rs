//! What went wrong in the interpreter, as diagnostics with places.

use std::fmt;

use olbake_core::diagnostic::Diagnostic;
use olbake_core::settings::nearest;
use olbake_core::span::Span;
use starlark::codemap::FileSpan;

use crate::values::STAND_IN;
use crate::watch::{STEP_LIMIT, too_large};

/// A diagnostic on its way through the interpreter.
#[derive(Debug)]
struct Raised(Diagnostic);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Raised {}

/// Stops the evaluation with a diagnostic.
#[cold]
pub(crate) fn raise(diagnostic: Diagnostic) -> starlark::Error {
    starlark::Error::new_other(Raised(diagnostic))
}

/// Stops the evaluation with a message, at the place where it is.
#[cold]
pub(crate) fn raise_text(message: impl Into<String>) -> starlark::Error {
    raise(Diagnostic::error("recipe", message))
}

/// A place in a recipe.
pub(crate) fn span(at: &FileSpan) -> Span {
    let range = at.resolve_span();
    let number = |index: usize| u32::try_from(index + 1).unwrap_or(u32::MAX);
    Span {
        file: at.filename().to_owned(),
        line: number(range.begin.line),
        column: number(range.begin.column),
        end_line: number(range.end.line),
        end_column: number(range.end.column),
    }
}

/// Whether an evaluation took too many steps.
pub(crate) fn is_out_of_steps(error: &starlark::Error) -> bool {
    error.to_string().contains(OUT_OF_STEPS)
}

/// What the interpreter says where an evaluation took too many steps.
const OUT_OF_STEPS: &str = "ticks has been exceeded";

/// The place where a function of a file is defined.
pub(crate) fn definition(file: &str, text: &str, function: &str) -> Option<Span> {
    let (index, line) = text.lines().enumerate().find(|(_, line)| {
        line.strip_prefix("def ")
            .and_then(|rest| rest.strip_prefix(function))
            .is_some_and(|rest| rest.starts_with('('))
    })?;
    let (line_number, end) = (u32::try_from(index + 1).ok()?, u32::try_from(line.chars().count() + 1).ok()?);
    Some(Span { file: file.to_owned(), line: line_number, column: 1, end_line: line_number, end_column: end })
}

/// An error of the interpreter as a diagnostic.
pub(crate) fn diagnose(error: starlark::Error) -> Diagnostic {
    let place = error.span().map(span);
    let frames: Vec<(String, Option<Span>)> = error
        .call_stack()
        .frames
        .iter()
        .map(|frame| (frame.name.clone(), frame.location.as_ref().map(span)))
        .collect();
    let kind = match error.kind() {
        starlark::ErrorKind::Fail(_) => "fail",
        starlark::ErrorKind::Parser(_) => "syntax",
        starlark::ErrorKind::Scope(_) => "unknown-name",
        starlark::ErrorKind::StackOverflow(_) => "endless",
        _ => "recipe",
    };
    let mut diagnostic = match raised(error.kind()) {
        Some(Raised(diagnostic)) => diagnostic.clone(),
        None => reworded(kind, &error.without_diagnostic().to_string()),
    };
    let innermost = frames.iter().rev().find_map(|(_, place)| place.clone());
    let diagnostic_span = diagnostic.span.take().or(place).or(innermost);
    // An error inside a helper is easier to understand with the call that led there.
    let callers = frames.iter().rev().filter_map(|(name, place)| Some((name, place.clone()?)));
    let elsewhere = |place: &Span| diagnostic_span.as_ref().is_none_or(|inner| !contains(place, inner));
    for (name, place) in callers.filter(|(_, place)| elsewhere(place)).take(3) {
        diagnostic.related.push((place, format!("in `{name}`")));
    }
    diagnostic.at(diagnostic_span)
}

/// Whether one place lies inside another.
fn contains(outer: &Span, inner: &Span) -> bool {
    outer.file == inner.file
        && (outer.line, outer.column) <= (inner.line, inner.column)
        && (inner.end_line, inner.end_column) <= (outer.end_line, outer.end_column)
}

fn raised(kind: &starlark::ErrorKind) -> Option<&Raised> {
    match kind {
        starlark::ErrorKind::Other(error)
        | starlark::ErrorKind::Native(error)
        | starlark::ErrorKind::Value(error)
        | starlark::ErrorKind::Function(error)
        | starlark::ErrorKind::Fail(error) => error.downcast_ref::<Raised>(),
        _ => None,
    }
}

/// Whether an error only follows from a call that was refused, of which something was said already.
pub(crate) fn follows(problem: &Diagnostic) -> bool {
    problem.message.contains(&format!("`{STAND_IN}`"))
}

/// A name that nothing defines.
pub(crate) fn not_found<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Diagnostic {
    let mut problem = Diagnostic::error("unknown-name", format!("variable `{name}` not found"));
    problem.help = match name {
        "print" => Some(NO_PRINT.to_owned()),
        _ => nearest(name, known).map(|known| format!("did you mean `{known}`?")),
    };
    problem
}

/// Recipes have no output.
const NO_PRINT: &str = "a recipe prints nothing: to see a value, end the evaluation with `fail(repr(value))`";

/// The interpreter's words as ours: a fragment, and its suggestion as help.
fn reworded(kind: &str, message: &str) -> Diagnostic {
    if message.contains(OUT_OF_STEPS) {
        return Diagnostic::error("endless", format!("the recipe did not end within {STEP_LIMIT} steps"))
            .help("a loop or recursion here has no end that is near enough");
    }
    if kind == "endless" {
        return Diagnostic::error("endless", "the recipe calls itself too deeply")
            .help("recipes describe a machine; write the repetition as a loop over a list");
    }
    if message.contains("Heap memory limit") {
        return too_large();
    }
    let message = message.strip_prefix("fail:").unwrap_or(message).trim();
    let message = message.strip_prefix("fail: ").unwrap_or(message);
    let (message, suggestion) = match message.split_once(", did you mean ") {
        Some((message, rest)) => {
            (message, Some(format!("did you mean {}?", rest.trim_end_matches(['?', '.']))))
        }
        None => (message, None),
    };
    let mut diagnostic = Diagnostic::error(kind, lower_first(message));
    let prints = kind == "unknown-name" && message.contains("`print`");
    diagnostic.help = if prints { Some(NO_PRINT.to_owned()) } else { suggestion };
    diagnostic
}

/// Messages are fragments; names and quoted text keep their case.
fn lower_first(message: &str) -> String {
    let mut characters = message.chars();
    match (characters.next(), characters.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(characters).collect()
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_interpreter_become_fragments() {
        let problem = reworded("unknown-name", "Variable `cady` not found, did you mean `caddy`?");
        assert_eq!(problem.to_string(), "variable `cady` not found (did you mean `caddy`?)");
        assert_eq!(reworded("fail", "fail:fail: No way").message, "no way");
        assert_eq!(reworded("fail", "SSH is off").message, "SSH is off");
    }
}
