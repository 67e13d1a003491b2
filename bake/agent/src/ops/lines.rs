//! Parts of text files: a line, a block between markers, a key of an INI file. The functions on texts are pure;
//! the operations put the new text in place like any other file.

use camino::Utf8Path;
use olbake_core::operation::{Action, Argv, LinePlace};
use regex_lite::Regex;

use super::file::{AS_IT_IS, Wanted};
use super::{Decision, Work};
use crate::context::{Bytes, Context};
use crate::error::{OpError, Result};
use crate::world::{Node, Source};

/// A file to be edited, as it is.
struct Target {
    path: camino::Utf8PathBuf,
    text: Option<String>,
}

/// Reads the file, links followed: editing a file through a link changes the file.
fn read(context: &Context<'_>, path: &Utf8Path) -> Result<Target> {
    let (path, node) = context.world().follow(path)?;
    let text = match node {
        Node::Absent => None,
        Node::File { content, .. } => {
            let text = String::from_utf8(content.read()?);
            Some(text.map_err(|_| OpError::wrong(format!("`{path}` is not a text in UTF-8")))?)
        }
        other => return Err(OpError::wrong(format!("`{path}` is a {}, not a file", other.kind()))),
    };
    Ok(Target { path, text })
}

fn missing(path: &Utf8Path) -> OpError {
    OpError::Missing(format!("`{path}` does not exist, and is not to be created"))
}

/// Puts a new text in place of the old one.
fn replace<'a>(
    context: &Context<'_>,
    target: &Target,
    text: String,
    validate: Option<&Argv>,
    secret: bool,
) -> Result<Decision<'a>> {
    if target.text.as_deref() == Some(text.as_str()) {
        return Ok(Decision::Fine);
    }
    let label = secret.then(|| "a text with secrets in it, not shown".to_owned());
    let bytes = Bytes { source: Source::text(text), label };
    let mut work = Work::default();
    let wanted = Wanted { path: &target.path, bytes, ownership: &AS_IT_IS, default_mode: 0o644, validate };
    wanted.plan(context, &mut work)?;
    Ok(work.decide())
}

/// [`Action::FileLine`].
pub(crate) fn line<'a>(context: &Context<'_>, action: &Action) -> Result<Decision<'a>> {
    let Action::FileLine { path, line, matching, present, place, validate, create, secrets } = action else {
        return Ok(Decision::Fine);
    };
    let target = read(context, path)?;
    if target.text.is_none() && !present {
        return Ok(Decision::Fine);
    }
    if target.text.is_none() && !create {
        return Err(missing(path));
    }
    let line = context.run.secrets.reveal(line)?;
    let matching = matching.as_deref().map(expression).transpose()?;
    let old = target.text.clone().unwrap_or_default();
    let new = edit_line(&old, &line, matching.as_ref(), *present, &Place::new(place)?);
    replace(context, &target, new, validate.as_ref(), !secrets.is_empty())
}

/// [`Action::FileBlock`].
pub(crate) fn block<'a>(context: &Context<'_>, action: &Action) -> Result<Decision<'a>> {
    let Action::FileBlock { path, begin, end, content, place, validate, create } = action else {
        return Ok(Decision::Fine);
    };
    let target = read(context, path)?;
    if target.text.is_none() && content.is_none() {
        return Ok(Decision::Fine);
    }
    if target.text.is_none() && !create {
        return Err(missing(path));
    }
    let body = content.as_ref().map(|content| context.content_text(content)).transpose()?;
    let secret = content.as_ref().is_some_and(|content| !content.secrets.is_empty());
    let old = target.text.clone().unwrap_or_default();
    let new = edit_block(&old, begin, end, body.as_deref(), &Place::new(place)?)?;
    replace(context, &target, new, validate.as_ref(), secret)
}

/// [`Action::FileIni`].
pub(crate) fn ini<'a>(
    context: &Context<'_>,
    path: &Utf8Path,
    section: &str,
    key: &str,
    value: Option<&str>,
    validate: Option<&Argv>,
) -> Result<Decision<'a>> {
    let target = read(context, path)?;
    if target.text.is_none() && value.is_none() {
        return Ok(Decision::Fine);
    }
    let new = edit_ini(target.text.as_deref().unwrap_or_default(), section, key, value);
    replace(context, &target, new, validate, false)
}

fn expression(text: &str) -> Result<Regex> {
    Regex::new(text).map_err(|error| OpError::wrong(format!("`{text}` is not a regular expression: {error}")))
}

/// A [`LinePlace`] with its expression compiled.
enum Place {
    End,
    Start,
    After(Regex),
    Before(Regex),
}

impl Place {
    fn new(place: &LinePlace) -> Result<Self> {
        Ok(match place {
            LinePlace::End => Self::End,
            LinePlace::Start => Self::Start,
            LinePlace::After(text) => Self::After(expression(text)?),
            LinePlace::Before(text) => Self::Before(expression(text)?),
        })
    }

    /// The index that a new line gets.
    fn index(&self, lines: &[String]) -> usize {
        let end = lines.len();
        match self {
            Self::End => end,
            Self::Start => 0,
            Self::After(regex) => {
                lines.iter().rposition(|line| regex.is_match(line)).map_or(end, |at| at + 1)
            }
            Self::Before(regex) => lines.iter().position(|line| regex.is_match(line)).unwrap_or(end),
        }
    }
}

fn split(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn join(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A text with a line in it, or without. A text that need not change keeps its last byte too.
fn edit_line(text: &str, line: &str, matching: Option<&Regex>, present: bool, place: &Place) -> String {
    let mut lines = split(text);
    let fits = |candidate: &String| matching.map_or(candidate == line, |regex| regex.is_match(candidate));
    if !present {
        let before = lines.len();
        lines.retain(|candidate| !fits(candidate) && candidate != line);
        return if lines.len() == before { text.to_owned() } else { join(&lines) };
    }
    match lines.iter().rposition(fits) {
        Some(at) if lines[at] == line => return text.to_owned(),
        Some(at) => line.clone_into(&mut lines[at]),
        None if lines.iter().any(|candidate| candidate == line) => return text.to_owned(),
        None => lines.insert(place.index(&lines), line.to_owned()),
    }
    join(&lines)
}

/// A text with a block between two marker lines, or without.
fn edit_block(text: &str, begin: &str, end: &str, body: Option<&str>, place: &Place) -> Result<String> {
    let mut lines = split(text);
    let start = lines.iter().position(|line| line == begin);
    let at = match start {
        Some(start) => {
            let length = lines[start..].iter().position(|line| line == end).ok_or_else(|| {
                OpError::wrong(format!("the block that begins with `{begin}` has no end `{end}`"))
            })?;
            lines.drain(start..=start + length);
            start
        }
        None if body.is_none() => return Ok(text.to_owned()),
        None => place.index(&lines),
    };
    if let Some(body) = body {
        let block = std::iter::once(begin).chain(body.lines()).chain([end]).map(str::to_owned);
        lines.splice(at..at, block);
    }
    let new = join(&lines);
    // Only the end of the last line differs: nothing to do.
    Ok(if new.strip_suffix('\n') == Some(text) { text.to_owned() } else { new })
}

/// A text with a key of a section set, or without it. Comments and order stay.
fn edit_ini(text: &str, section: &str, key: &str, value: Option<&str>) -> String {
    let mut lines = split(text);
    let header = |line: &str| {
        line.trim()
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .map(|name| name.trim().to_owned())
    };
    let is_key = |line: &str| {
        line.split_once('=').is_some_and(|(name, _)| name.trim() == key) && !line.starts_with(['#', ';'])
    };
    let start = if section.is_empty() {
        Some(0)
    } else {
        lines.iter().position(|line| header(line).as_deref() == Some(section)).map(|at| at + 1)
    };
    let Some(start) = start else {
        let Some(value) = value else { return text.to_owned() };
        if lines.last().is_some_and(|line| !line.trim().is_empty()) {
            lines.push(String::new());
        }
        lines.extend([format!("[{section}]"), format!("{key}={value}")]);
        return join(&lines);
    };
    let end =
        lines[start..].iter().position(|line| header(line).is_some()).map_or(lines.len(), |at| start + at);
    let found = lines[start..end].iter().rposition(|line| is_key(line)).map(|at| start + at);
    match (found, value) {
        (None, None) => return text.to_owned(),
        (Some(at), Some(value)) => {
            let (name, old) = lines[at].split_once('=').unwrap_or((key, ""));
            if old.trim() == value {
                return text.to_owned();
            }
            let space = if name.ends_with(' ') { " " } else { "" };
            lines[at] = format!("{name}={space}{value}");
        }
        (Some(_), None) => {
            let mut index = 0;
            lines.retain(|line| {
                let inside = (start..end).contains(&index);
                index += 1;
                !(inside && is_key(line))
            });
        }
        (None, Some(value)) => {
            let last = lines[start..end].iter().rposition(|line| !line.trim().is_empty());
            lines.insert(last.map_or(start, |at| start + at + 1), format!("{key}={value}"));
        }
    }
    join(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(text: &str, line: &str, matching: Option<&str>, present: bool, place: &LinePlace) -> String {
        let matching = matching.map(|text| Regex::new(text).unwrap());
        let place = Place::new(place).unwrap();
        let once = edit_line(text, line, matching.as_ref(), present, &place);
        assert_eq!(
            edit_line(&once, line, matching.as_ref(), present, &place),
            once,
            "the second time changes nothing"
        );
        once
    }

    #[test]
    fn lines() {
        use LinePlace::{After, Before, End, Start};
        assert_eq!(line_of("a\nb", "c", None, true, &End), "a\nb\nc\n");
        assert_eq!(line_of("a\nb", "a", None, true, &End), "a\nb");
        assert_eq!(line_of("a\nb\n", "c", None, true, &Start), "c\na\nb\n");
        assert_eq!(line_of("a1\na2\nb\n", "c", None, true, &After("^a".into())), "a1\na2\nc\nb\n");
        assert_eq!(line_of("a1\na2\nb\n", "c", None, true, &Before("^a2".into())), "a1\nc\na2\nb\n");
        assert_eq!(line_of("x=1\nx=2\n", "x=3", Some("^x="), true, &End), "x=1\nx=3\n");
        assert_eq!(line_of("x=1\ny\nx=2\n", "x=9", Some("^x="), false, &End), "y\n");
        assert_eq!(line_of("y", "x", None, false, &End), "y");
        assert_eq!(line_of("", "x", Some("^z"), true, &After("q".into())), "x\n");
    }

    fn block_of(text: &str, body: Option<&str>) -> String {
        let once = edit_block(text, "# {", "# }", body, &Place::End).unwrap();
        assert_eq!(edit_block(&once, "# {", "# }", body, &Place::End).unwrap(), once);
        once
    }

    #[test]
    fn blocks() {
        assert_eq!(block_of("a\n", Some("x\ny\n")), "a\n# {\nx\ny\n# }\n");
        assert_eq!(block_of("a\n# {\nold\n# }\nb\n", Some("x")), "a\n# {\nx\n# }\nb\n");
        assert_eq!(block_of("a\n# {\nold\n# }\nb\n", None), "a\nb\n");
        assert_eq!(block_of("a", None), "a");
        assert!(edit_block("# {\nx\n", "# {", "# }", None, &Place::End).is_err());
    }

    fn ini_of(text: &str, section: &str, key: &str, value: Option<&str>) -> String {
        let once = edit_ini(text, section, key, value);
        assert_eq!(edit_ini(&once, section, key, value), once);
        once
    }

    #[test]
    fn ini_keys() {
        assert_eq!(ini_of("", "s", "k", Some("v")), "[s]\nk=v\n");
        assert_eq!(ini_of("[s]\nk = 1\n\n[t]\nk=2\n", "s", "k", Some("9")), "[s]\nk = 9\n\n[t]\nk=2\n");
        assert_eq!(ini_of("[s]\na=1\n\n[t]\nk=2\n", "s", "k", Some("9")), "[s]\na=1\nk=9\n\n[t]\nk=2\n");
        assert_eq!(ini_of("[s]\n#k=1\nk=1\n", "s", "k", None), "[s]\n#k=1\n");
        assert_eq!(ini_of("a=1\n[s]\na=2\n", "", "a", Some("3")), "a=3\n[s]\na=2\n");
        assert_eq!(ini_of("a=1\n", "s", "k", None), "a=1\n");
    }
}
