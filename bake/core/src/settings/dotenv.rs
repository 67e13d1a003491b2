//! `.env` files: `NAME=value` lines, with quotes, comments and `export`.

use crate::diagnostic::Diagnostic;
use crate::span::Span;

/// One assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DotenvEntry {
    /// The variable.
    pub name: String,
    /// Its value, without quotes and escapes.
    pub value: String,
    /// The assignment's place.
    pub span: Span,
}

/// The assignments of a `.env` file, and what could not be read.
pub fn parse_dotenv(file: &str, text: &str) -> (Vec<DotenvEntry>, Vec<Diagnostic>) {
    let (mut entries, mut problems) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let column = u32::try_from(line.chars().take_while(|c| c.is_whitespace()).count() + 1).unwrap_or(1);
        let width = u32::try_from(trimmed.chars().count()).unwrap_or(0);
        let span = Span {
            file: file.to_owned(),
            line: number,
            column,
            end_line: number,
            end_column: column + width,
        };
        let assignment = trimmed.strip_prefix("export ").unwrap_or(trimmed);
        match assignment.split_once('=').map(|(name, value)| (name.trim(), unquote(value.trim()))) {
            Some((name, Some(value))) if is_name(name) => {
                entries.push(DotenvEntry { name: name.to_owned(), value, span });
            }
            Some((name, None)) if is_name(name) => {
                problems.push(Diagnostic::error("dotenv", "the quote is not closed").at(span));
            }
            _ => problems.push(Diagnostic::error("dotenv", "expected `NAME=value`").at(span)),
        }
    }
    (entries, problems)
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A value without its quotes; `None` when a quote is not closed. Without quotes a ` #` starts a comment.
fn unquote(value: &str) -> Option<String> {
    let mut characters = value.chars();
    match characters.next() {
        Some('\'') => value[1..].split_once('\'').map(|(inner, _)| inner.to_owned()),
        Some('"') => {
            let mut inner = String::new();
            while let Some(character) = characters.next() {
                match character {
                    '"' => return Some(inner),
                    '\\' => match characters.next()? {
                        'n' => inner.push('\n'),
                        't' => inner.push('\t'),
                        other => inner.push(other),
                    },
                    other => inner.push(other),
                }
            }
            None
        }
        _ => Some(value.split_once(" #").map_or(value, |(before, _)| before.trim_end()).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_and_the_rest_is_pointed_at() {
        let text = "# c\nA=1\nexport B = \"x\\n\\\"y\\\"\" # z\nC='q # r'\nD=a b # c\nbad\nE=\"open\n";
        let (entries, problems) = parse_dotenv(".env", text);
        let pairs: Vec<(&str, &str)> = entries.iter().map(|e| (e.name.as_str(), e.value.as_str())).collect();
        assert_eq!(pairs, [("A", "1"), ("B", "x\n\"y\""), ("C", "q # r"), ("D", "a b")]);
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems, [".env:6:1: expected `NAME=value`", ".env:7:1: the quote is not closed"]);
    }
}
