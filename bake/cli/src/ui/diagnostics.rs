//! Recipe mistakes as people read them: file, line, underlined text, what was expected, related places, help.
//! Also a failed operation: the recipe line, the command as typed, its status and the end of its output.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};
use camino::Utf8PathBuf;
use olbake_core::diagnostic::{Diagnostic, Diagnostics, Severity};
use olbake_core::report::Failure;
use olbake_core::span::Span;

use super::human::{mask, plural};
use super::style::{Palette, clean};

/// How diagnostics are drawn.
#[derive(Clone, Debug)]
pub(crate) struct Drawing {
    /// Colours.
    pub(crate) palette: Palette,
    /// Columns.
    pub(crate) width: usize,
    /// Where the files of spans are; absent: spans are told without their text.
    pub(crate) root: Option<Utf8PathBuf>,
}

/// The lines of a command's output that are shown.
const OUTPUT_LINES: usize = 30;

impl Drawing {
    /// All diagnostics, then how many there are.
    pub(crate) fn diagnostics(&self, Diagnostics(all): &Diagnostics) -> String {
        let mut text = String::new();
        for diagnostic in all {
            text.push_str(&self.diagnostic(diagnostic));
            text.push_str("\n\n");
        }
        if let Some(summary) = summary(all) {
            text.push_str(&summary);
            text.push('\n');
        }
        text
    }

    /// One diagnostic, without a line end at its end.
    pub(crate) fn diagnostic(&self, diagnostic: &Diagnostic) -> String {
        let Diagnostic { severity, code, message, span, label, related, help } = diagnostic;
        if span.is_none() && related.is_empty() {
            return self.without_place(diagnostic);
        }
        let level = match severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(printable(message)).id(printable(code));
        let mut group = Group::with_title(title);
        let mut places: Vec<Place<'_>> = Vec::new();
        places.extend(span.as_ref().map(|span| Place { span, text: label.as_deref(), primary: true }));
        places.extend(related.iter().map(|(span, text)| Place { span, text: Some(text), primary: false }));
        for element in self.snippets(&places) {
            group = group.element(element);
        }
        if let Some(help) = help {
            group = group.element(Level::HELP.message(printable(help)));
        }
        self.render(group)
    }

    fn without_place(&self, Diagnostic { severity, code, message, help, .. }: &Diagnostic) -> String {
        let palette = self.palette;
        let level = match severity {
            Severity::Error => palette.bad(format!("error[{}]:", printable(code))),
            Severity::Warning => palette.warn(format!("warning[{}]:", printable(code))),
        };
        let mut text = format!("{level} {}", printable(message));
        if let Some(help) = help {
            text.push_str(&format!("\n{} {}", palette.hint("help:"), printable(help)));
        }
        text
    }

    /// A failed operation, with a line end at its end.
    pub(crate) fn failure(&self, title: &str, span: Option<&Span>, failure: &Failure) -> String {
        let Failure { message, command, status, output } = failure;
        let mut group =
            Group::with_title(Level::ERROR.primary_title(format!("`{}` failed", printable(title))));
        match span {
            Some(span) => {
                for element in self.snippets(&[Place { span, text: Some(message), primary: true }]) {
                    group = group.element(element);
                }
            }
            None => group = group.element(Level::NOTE.message(printable(message))),
        }
        let mut text = self.render(group) + "\n";
        for (name, value) in [("command", command), ("status", status)] {
            if let Some(value) = value {
                text.push_str(&format!("  {}: {}\n", self.palette.bold(name), printable(value)));
            }
        }
        if let Some(output) = output.as_deref().map(str::trim_end).filter(|output| !output.is_empty()) {
            text.push_str(&self.output(output));
        }
        text
    }

    /// The end of a command's output, each line behind a bar.
    pub(crate) fn output(&self, output: &str) -> String {
        let output = printable(output);
        let lines: Vec<&str> = output.lines().collect();
        let hidden = lines.len().saturating_sub(OUTPUT_LINES);
        let mut text = format!("  {}:\n", self.palette.bold("output"));
        if hidden > 0 {
            text.push_str(&format!("  {} … {} before\n", self.palette.dim("|"), plural(hidden, "line")));
        }
        for line in &lines[hidden..] {
            text.push_str(format!("  {} {line}", self.palette.dim("|")).trim_end());
            text.push('\n');
        }
        text
    }

    fn render(&self, group: Group<'_>) -> String {
        let renderer = if self.palette.enabled { Renderer::styled() } else { Renderer::plain() };
        renderer.term_width(self.width).render(&[group])
    }

    /// A snippet for each file, in the order the files first come; a place whose text cannot be had is told by
    /// line and column.
    fn snippets(&self, places: &[Place<'_>]) -> Vec<Element<'static>> {
        let mut files: Vec<&str> = Vec::new();
        for place in places {
            if !files.contains(&place.span.file.as_str()) {
                files.push(&place.span.file);
            }
        }
        files
            .into_iter()
            .flat_map(|file| {
                let here: Vec<&Place<'_>> = places.iter().filter(|place| place.span.file == file).collect();
                match self.source(file) {
                    Some(source) => vec![snippet(file, &source, &here)],
                    None => here.iter().flat_map(|place| origin(place)).collect(),
                }
            })
            .collect()
    }

    /// The text of a recipe, with characters that would steer the terminal replaced by as many others.
    fn source(&self, file: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.root.as_ref()?.join(file)).ok()?;
        let harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
        Some(text.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect())
    }
}

/// A place to underline.
struct Place<'a> {
    span: &'a Span,
    text: Option<&'a str>,
    primary: bool,
}

fn printable(text: &str) -> String {
    clean(&mask(text)).into_owned()
}

fn snippet(file: &str, source: &str, places: &[&Place<'_>]) -> Element<'static> {
    let mut snippet = Snippet::source(source.to_owned()).path(file.to_owned());
    for place in places {
        let kind = if place.primary { AnnotationKind::Primary } else { AnnotationKind::Context };
        let annotation = kind.span(bytes(source, place.span)).label(place.text.map(printable));
        snippet = snippet.annotation(annotation);
    }
    snippet.into()
}

fn origin(place: &Place<'_>) -> Vec<Element<'static>> {
    let Span { file, line, column, .. } = place.span;
    let origin = Origin::path(file.clone()).line(*line as usize).char_column(*column as usize);
    let text = place.text.map(|text| Level::NOTE.message(printable(text)).into());
    std::iter::once(origin.into()).chain(text).collect()
}

/// The bytes of a span. A span beyond the text (the file changed since) ends where the text does.
fn bytes(source: &str, span: &Span) -> Range<usize> {
    let start = offset(source, span.line, span.column);
    let end = offset(source, span.end_line, span.end_column);
    start..end.max(start)
}

fn offset(source: &str, line: u32, column: u32) -> usize {
    let mut start = 0;
    for _ in 1..line {
        match source[start..].find('\n') {
            Some(end) => start += end + 1,
            None => return source.len(),
        }
    }
    let end = source[start..].find('\n').map_or(source.len(), |end| start + end);
    let characters = (column as usize).saturating_sub(1);
    source[start..end].char_indices().nth(characters).map_or(end, |(index, _)| start + index)
}

/// `2 errors, 1 warning`; nothing where there are none.
pub(crate) fn summary(all: &[Diagnostic]) -> Option<String> {
    let count = |severity| all.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let counts = [(count(Severity::Error), "error"), (count(Severity::Warning), "warning")];
    let parts: Vec<String> =
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, noun)| plural(count, noun)).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(line: u32, column: u32, end_line: u32, end_column: u32) -> Span {
        Span { file: "components/a/component.star".into(), line, column, end_line, end_column }
    }

    fn drawing() -> (tempfile::TempDir, Drawing) {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
        std::fs::create_dir_all(root.join("components/a")).unwrap();
        let recipe = "A = settings(\n    \"größe\": setting(int, defualt = 1),\n)\nx = A\n";
        std::fs::write(root.join("components/a/component.star"), recipe).unwrap();
        (directory, Drawing { palette: Palette { enabled: false }, width: 80, root: Some(root) })
    }

    #[test]
    fn a_mistake_points_at_its_text() {
        let (_directory, drawing) = drawing();
        let diagnostic = Diagnostic::error("unknown-argument", "there is no argument `defualt`")
            .at(span(2, 27, 2, 34))
            .label("not an argument of `setting`")
            .related(span(4, 5, 4, 6), "used here")
            .help("did you mean `default`?");
        insta::assert_snapshot!(drawing.diagnostic(&diagnostic));
    }

    #[test]
    fn places_without_text_are_told_by_line() {
        let (_directory, drawing) = drawing();
        let mut elsewhere = span(7, 3, 7, 9);
        elsewhere.file = "images/gone/image.star".into();
        let all = Diagnostics(vec![
            Diagnostic::error("parse", "unexpected end").at(elsewhere),
            Diagnostic::error("unknown-variable", "CADDY_VERSON names no setting")
                .help("did you mean CADDY_VERSION?"),
            Diagnostic::warning("unread-setting", "`größe` is never read").at(span(99, 1, 99, 4)),
        ]);
        insta::assert_snapshot!(drawing.diagnostics(&all));
    }

    #[test]
    fn a_failed_operation_shows_command_status_and_output() {
        let (_directory, drawing) = drawing();
        let output = (1..=40).map(|n| format!("line {n}\u{1b}[31m")).collect::<Vec<_>>().join("\n");
        let failure = Failure {
            message: "the command failed".into(),
            command: Some("make -C /opt/a install".into()),
            status: Some("exit status 2".into()),
            output: Some(output),
        };
        insta::assert_snapshot!(drawing.failure("run.command make", Some(&span(2, 14, 2, 39)), &failure));
    }

    #[test]
    fn spans_beyond_the_text_end_with_it() {
        assert_eq!(bytes("ab\nc", &span(1, 2, 1, 9)), 1..2);
        assert_eq!(bytes("ab\nc", &span(5, 1, 5, 2)), 4..4);
        assert_eq!(bytes("äb", &span(1, 2, 1, 3)), 2..3);
        assert_eq!(bytes("ab", &span(1, 2, 1, 1)), 1..1);
    }
}
