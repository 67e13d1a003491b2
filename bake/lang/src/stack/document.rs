//! `ENVIRONMENT.toml`: the configuration of one stack, with the place of every value. Main type: [`Document`].
//!
//! ```toml
//! instances = 3
//! db_password = { secure = "v1:…" }
//!
//! [images]
//! web = "sha256:…"        # this version, whatever the channel says
//!
//! [channels]
//! web = "CI"              # another channel than that of the environment's name
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

use olbake_core::diagnostic::Diagnostic;
use olbake_core::span::Span;
use olbake_core::{Digest, ImageRef};
use serde_json::{Map, Value as Json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Tables that are no settings.
pub(crate) const RESERVED: [&str; 3] = ["images", "channels", "encryption"];

/// A stack's configuration as it is written.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// Values of settings, with the places of key and value.
    pub(crate) values: Vec<Entry>,
    /// Images with the digest to use.
    pub(crate) pins: BTreeMap<ImageRef, Digest>,
    /// Images with the channel to look in.
    pub(crate) channels: BTreeMap<ImageRef, String>,
    /// What is wrong.
    pub(crate) problems: Vec<Diagnostic>,
}

/// A value at the top of the document.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Json,
    pub(crate) value_span: Span,
}

impl Document {
    /// Reads the text of `file`.
    pub(crate) fn parse(file: &str, text: &str) -> Self {
        let mut reader = Reader { file, text, document: Self::default() };
        match DeTable::parse(text) {
            Ok(table) => reader.top(table.get_ref()),
            Err(error) => reader.wrong(error.span().unwrap_or_default(), error.message()),
        }
        reader
            .document
            .problems
            .sort_by_key(|problem| problem.span.as_ref().map_or((0, 0), |span| (span.line, span.column)));
        reader.document
    }
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    document: Document,
}

impl Reader<'_> {
    fn top(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "images" => self.by_image(value, |reader, image, text, range| match text.parse_digest() {
                    Some(digest) => drop(reader.document.pins.insert(image, digest)),
                    None => reader.wrong(range, &format!("expected a digest `sha256:…`, found `{}`", text.0)),
                }),
                "channels" => self.by_image(value, |reader, image, text, _| {
                    reader.document.channels.insert(image, text.0.to_owned());
                }),
                // The key of the secrets, wrapped: for whoever opens them.
                "encryption" => {}
                name => {
                    let Some(json) = self.json(value) else { continue };
                    let entry = Entry {
                        key: name.to_owned(),
                        key_span: self.span(key.span()),
                        value: json,
                        value_span: self.span(value.span()),
                    };
                    self.document.values.push(entry);
                }
            }
        }
    }

    /// A table of texts by image.
    fn by_image(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        keep: impl Fn(&mut Self, ImageRef, Text<'_>, Range<usize>),
    ) {
        let DeValue::Table(table) = value.get_ref() else {
            return self.wrong(value.span(), "expected a table of images");
        };
        for (key, value) in table {
            let image = match key.get_ref().parse::<ImageRef>() {
                Ok(image) => image,
                Err(error) => {
                    self.wrong(key.span(), &error.to_string());
                    continue;
                }
            };
            match value.get_ref() {
                DeValue::String(text) if !text.is_empty() => keep(self, image, Text(text), value.span()),
                other => {
                    let text = format!("expected a text, found {}", other.type_str());
                    self.wrong(value.span(), &text);
                }
            }
        }
    }

    fn json(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Json> {
        match value.get_ref() {
            DeValue::String(text) => Some(Json::from(text.as_ref())),
            DeValue::Boolean(truth) => Some(Json::from(*truth)),
            DeValue::Integer(integer) => {
                let digits = integer.as_str().replace('_', "");
                match i64::from_str_radix(&digits, integer.radix()) {
                    Ok(number) => Some(Json::from(number)),
                    Err(_) => self.refuse(value, "expected a whole number of 64 bits"),
                }
            }
            DeValue::Float(float) => match float.as_str().replace('_', "").parse::<f64>() {
                Ok(number) if number.is_finite() => Some(Json::from(number)),
                _ => self.refuse(value, "expected a finite number"),
            },
            DeValue::Datetime(_) => self.refuse(value, "dates and times are written as text"),
            DeValue::Array(items) => {
                // Not `collect`: every item is looked at, so that all that is wrong is reported.
                let items: Vec<Option<Json>> = items.iter().map(|item| self.json(item)).collect();
                items.into_iter().collect::<Option<Vec<Json>>>().map(Json::Array)
            }
            DeValue::Table(table) => {
                let entries: Vec<(String, Option<Json>)> =
                    table.iter().map(|(key, item)| (key.get_ref().to_string(), self.json(item))).collect();
                entries
                    .into_iter()
                    .map(|(key, item)| Some((key, item?)))
                    .collect::<Option<Map<_, _>>>()
                    .map(Json::Object)
            }
        }
    }

    fn refuse(&mut self, value: &Spanned<DeValue<'_>>, message: &str) -> Option<Json> {
        self.wrong(value.span(), message);
        None
    }

    fn wrong(&mut self, range: Range<usize>, message: &str) {
        let problem = Diagnostic::error("configuration", message).at(self.span(range));
        self.document.problems.push(problem);
    }

    fn span(&self, range: Range<usize>) -> Span {
        let place = |at: usize| {
            let before = self.text.get(..at.min(self.text.len())).unwrap_or(self.text);
            let start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            (number(before.matches('\n').count() + 1), number(before[start..].chars().count() + 1))
        };
        let ((line, column), (end_line, end_column)) = (place(range.start), place(range.end));
        Span { file: self.file.to_owned(), line, column, end_line, end_column }
    }
}

struct Text<'a>(&'a str);

impl Text<'_> {
    fn parse_digest(&self) -> Option<Digest> {
        Digest::from_hex(self.0.strip_prefix("sha256:")?).ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_keep_their_places() {
        let text = "instances = 0x10\n\n[tags]\nteam = 'web'\n[images]\n\"web/large\" = 'sha256:1'\n";
        let document = Document::parse("QA.toml", text);
        let found: Vec<_> =
            document.values.iter().map(|entry| (entry.key.as_str(), entry.value.clone())).collect();
        assert_eq!(found, [("instances", json!(16)), ("tags", json!({"team": "web"}))]);
        assert_eq!(document.values[0].value_span.location(), "QA.toml:1:13");
        let problems: Vec<String> = document.problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems, ["QA.toml:6:15: expected a digest `sha256:…`, found `sha256:1`"]);
    }

    #[test]
    fn everything_wrong_is_found() {
        let document = Document::parse("QA.toml", "at = 2020-01-01\nxs = [nan, 1, inf]\nchannels = 3\n");
        assert_eq!(document.problems.len(), 4, "{:?}", document.problems);
        assert_eq!(Document::parse("QA.toml", "a = \n").problems.len(), 1);
    }
}
