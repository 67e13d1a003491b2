//! Changes a TOML file in place: what a person wrote around a value stays. Main type: [`TomlFile`].

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::str::FromStr;

use camino::{Utf8Path, Utf8PathBuf};
use toml_edit::{DocumentMut, InlineTable, Item, Key, Table, TableLike, Value};

use crate::envelope::{Header, SECURE, TABLE};
use crate::store::StoreError;
use crate::store::file::{read_whole, write_whole};

/// Why a file could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The text is no path.
    #[error("`{text}` is no key: write `name` or `table.name`")]
    BadPath {
        /// The text.
        text: String,
    },
    /// The text is no value.
    #[error("`{text}` is no TOML value")]
    BadValue {
        /// The text.
        text: String,
        /// Why not.
        #[source]
        source: toml_edit::TomlError,
    },
    /// The file is no TOML.
    #[error("`{file}` is no TOML")]
    Parse {
        /// The file.
        file: Utf8PathBuf,
        /// Where and why.
        #[source]
        source: toml_edit::TomlError,
    },
    /// The file is no UTF-8.
    #[error("`{file}` is no text")]
    NotText {
        /// The file.
        file: Utf8PathBuf,
    },
    /// Something else has the place.
    #[error("`{path}` in `{file}` is {found}")]
    Occupied {
        /// The file.
        file: Utf8PathBuf,
        /// The place.
        path: String,
        /// What has it: `a table`.
        found: &'static str,
    },
    /// Another process wrote the file meanwhile.
    #[error("`{file}` was changed meanwhile; nothing was written")]
    Changed {
        /// The file.
        file: Utf8PathBuf,
    },
    /// A value that TOML has and nothing else does, such as a date.
    #[error("`{}` is no value", text.trim())]
    Unreadable {
        /// As it was written.
        text: String,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// The file system.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Result<T> = std::result::Result<T, EditError>;

/// The place of a value: `database.password`. As text it is what a sealed value is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPath(Vec<String>);

impl KeyPath {
    /// The keys from the outermost to the innermost; never empty.
    pub fn keys(&self) -> &[String] {
        &self.0
    }
}

impl FromStr for KeyPath {
    type Err = EditError;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || EditError::BadPath { text: text.to_owned() };
        let keys = Key::parse(text).map_err(|_| bad())?;
        let keys: Vec<String> = keys.iter().map(|key| key.get().to_owned()).collect();
        if keys.is_empty() || keys.iter().any(String::is_empty) { Err(bad()) } else { Ok(Self(keys)) }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// What to put at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewValue {
    /// A text.
    Text(String),
    /// A value as TOML writes it: `3`, `["a", "b"]`, `"text"`.
    Toml(String),
    /// A sealed value: [`crate::envelope::DataKey::seal`].
    Secure(String),
}

impl NewValue {
    /// What it says, in JSON; an error where TOML cannot read it.
    pub fn json(&self) -> Result<serde_json::Value> {
        let value = self.clone().value()?;
        let mut line = DocumentMut::new();
        line.insert("value", Item::Value(value));
        let text = line.to_string();
        let table: BTreeMap<String, serde_json::Value> = toml::from_str(&text)
            .map_err(|source| EditError::Unreadable { text, source: Box::new(source) })?;
        Ok(table.into_values().next().unwrap_or_default())
    }

    fn value(self) -> Result<Value> {
        match self {
            Self::Text(text) => Ok(Value::from(text)),
            Self::Toml(text) => text.trim().parse().map_err(|source| EditError::BadValue { text, source }),
            Self::Secure(sealed) => Ok(Value::from(InlineTable::from_iter([(SECURE, sealed)]))),
        }
    }
}

/// A file that is being changed. Nothing is written before [`TomlFile::save`].
#[derive(Debug)]
pub struct TomlFile {
    path: Utf8PathBuf,
    /// As it was read; none: it was not there.
    before: Option<Vec<u8>>,
    document: DocumentMut,
}

impl TomlFile {
    /// Reads a file; one that is not there is empty.
    pub fn open(path: &Utf8Path) -> Result<Self> {
        let before = read_whole(path)?;
        let text = match &before {
            Some(bytes) => {
                std::str::from_utf8(bytes).map_err(|_| EditError::NotText { file: path.to_owned() })?
            }
            None => "",
        };
        let document = text.parse().map_err(|source| EditError::Parse { file: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), before, document })
    }

    /// Sets a value. Comments and the order of what is there stay; tables that are not there are made.
    pub fn set(&mut self, path: &KeyPath, value: NewValue) -> Result<()> {
        let mut value = value.value()?;
        let (last, tables) = path.0.split_last().expect("a path has a key");
        let file = self.path.clone();
        let occupied = |found| EditError::Occupied { file: file.clone(), path: path.to_string(), found };
        let mut at: &mut dyn TableLike = self.document.as_table_mut();
        for name in tables {
            let item = at.entry(name).or_insert_with(new_table);
            let found = if item.is_array_of_tables() { "below a list of tables" } else { "below a value" };
            at = item.as_table_like_mut().ok_or_else(|| occupied(found))?;
        }
        match at.get_mut(last) {
            None => drop(at.insert(last, Item::Value(value))),
            Some(Item::Value(there)) if !there.is_inline_table() || is_secure(there) => {
                *value.decor_mut() = there.decor().clone();
                *there = value;
            }
            Some(Item::None) => drop(at.insert(last, Item::Value(value))),
            Some(_) => return Err(occupied("a table: name a key in it")),
        }
        Ok(())
    }

    /// Removes a value or table; false where there is none.
    pub fn unset(&mut self, path: &KeyPath) -> bool {
        let (last, tables) = path.0.split_last().expect("a path has a key");
        let mut at: &mut dyn TableLike = self.document.as_table_mut();
        for name in tables {
            let Some(next) = at.get_mut(name).and_then(Item::as_table_like_mut) else { return false };
            at = next;
        }
        at.remove(last).is_some()
    }

    /// What the file says of the key of its secrets; none where it says nothing.
    pub fn header(&self) -> Result<Option<Header>> {
        let Some(item) = self.document.get(TABLE) else { return Ok(None) };
        let occupied = || EditError::Occupied {
            file: self.path.clone(),
            path: TABLE.to_owned(),
            found: "not a wrapped key: `key` and perhaps `recipients`",
        };
        let table = item.as_table_like().ok_or_else(occupied)?;
        let mut header = Header { key: String::new(), recipients: Vec::new() };
        for (name, item) in table.iter() {
            match (name, item.as_str(), item.as_array()) {
                ("key", Some(key), _) => key.clone_into(&mut header.key),
                ("recipients", _, Some(texts)) => {
                    let text = |text: &Value| text.as_str().map(str::to_owned).ok_or_else(occupied);
                    header.recipients = texts.iter().map(text).collect::<Result<_>>()?;
                }
                _ => return Err(occupied()),
            }
        }
        if header.key.is_empty() { Err(occupied()) } else { Ok(Some(header)) }
    }

    /// Writes what [`TomlFile::header`] reads.
    pub fn set_header(&mut self, header: &Header) -> Result<()> {
        let Header { key, recipients } = header;
        let path = |name: &str| KeyPath(vec![TABLE.to_owned(), name.to_owned()]);
        self.set(&path("key"), NewValue::Text(key.clone()))?;
        if recipients.is_empty() {
            self.unset(&path("recipients"));
            return Ok(());
        }
        let list = Value::from_iter(recipients.iter().map(String::as_str));
        self.set(&path("recipients"), NewValue::Toml(list.to_string()))
    }

    /// The text as it would be written.
    pub fn text(&self) -> String {
        self.document.to_string()
    }

    /// Writes the file, whole or not at all. Where another process changed it meanwhile, that is an error.
    pub fn save(&mut self) -> Result<()> {
        if read_whole(&self.path)? != self.before {
            return Err(EditError::Changed { file: self.path.clone() });
        }
        let mode =
            std::fs::metadata(&self.path).map_or(0o644, |metadata| metadata.permissions().mode() & 0o7777);
        let bytes = self.text().into_bytes();
        write_whole(&self.path, &bytes, mode)?;
        self.before = Some(bytes);
        Ok(())
    }
}

fn new_table() -> Item {
    Item::Table(Table::new())
}

/// Whether it is `{ secure = … }`.
fn is_secure(value: &Value) -> bool {
    value.as_inline_table().is_some_and(|table| table.len() == 1 && table.contains_key(SECURE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(text: &str, act: impl FnOnce(&mut TomlFile)) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(directory.path()).unwrap().join("QA.toml");
        std::fs::write(&path, text).unwrap();
        let mut file = TomlFile::open(&path).unwrap();
        act(&mut file);
        file.save().unwrap();
        std::fs::read_to_string(&path).unwrap()
    }

    fn path(text: &str) -> KeyPath {
        text.parse().unwrap()
    }

    fn set(text: &str, at: &str, value: NewValue) -> String {
        edit(text, |file| file.set(&path(at), value).unwrap())
    }

    #[test]
    fn comments_and_order_stay() {
        let text = "# of the web\ninstances = 3 # three\n\n[database]  # main\nname = \"a\"\n# last\n";
        let expect = "# of the web\ninstances = 4 # three\n\n[database]  # main\nname = \"a\"\n# last\n";
        assert_eq!(set(text, "instances", NewValue::Toml("4".into())), expect);
        let sealed = set(text, "database.name", NewValue::Secure("v1:x".into()));
        assert_eq!(sealed, text.replace("\"a\"", "{ secure = \"v1:x\" }"));
        assert_eq!(set(&sealed, "database.name", NewValue::Text("a".into())), text);
        assert_eq!(
            edit(text, |file| assert!(file.unset(&path("database.name")))),
            text.replace("name = \"a\"\n", "")
        );
        assert_eq!(edit(text, |file| assert!(!file.unset(&path("nothing.here")))), text);
    }

    #[test]
    fn what_is_not_there_is_made() {
        assert_eq!(set("", "a", NewValue::Text("x\"y".into())), "a = 'x\"y'\n");
        assert_eq!(set("a = 1\n", "t.b", NewValue::Toml("[1, 2]".into())), "a = 1\n\n[t]\nb = [1, 2]\n");
        assert_eq!(set("t = { a = 1 }\n", "t.b", NewValue::Toml("2".into())), "t = { a = 1 , b = 2 }\n");
        assert_eq!(set("t.a = 1\n", "t.a", NewValue::Toml("2".into())), "t.a = 2\n");
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        for (text, at) in
            [("[t]\na = 1\n", "t"), ("t = { a = 1 }\n", "t"), ("t = 1\n", "t.a"), ("[[t]]\n", "t.a")]
        {
            edit(text, |file| {
                let error = file.set(&path(at), NewValue::Text("x".into())).unwrap_err();
                assert!(matches!(error, EditError::Occupied { .. }), "{text} {at}: {error}");
            });
        }
        for bad in ["", "a.", ".a", "a b", "a..b"] {
            assert!(bad.parse::<KeyPath>().is_err(), "{bad}");
        }
        assert!(NewValue::Toml("[1".into()).value().is_err());
    }

    #[test]
    fn a_file_that_another_changed_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let at = Utf8Path::from_path(directory.path()).unwrap().join("QA.toml");
        let mut file = TomlFile::open(&at).unwrap();
        file.set(&path("a"), NewValue::Text("mine".into())).unwrap();
        std::fs::write(&at, "a = \"theirs\"\n").unwrap();
        assert!(matches!(file.save(), Err(EditError::Changed { .. })));
        assert_eq!(std::fs::read_to_string(&at).unwrap(), "a = \"theirs\"\n");
        std::fs::write(&at, "a = \n").unwrap();
        assert!(matches!(TomlFile::open(&at), Err(EditError::Parse { .. })));
    }

    #[test]
    fn the_wrapped_key_has_its_table() {
        let header = Header { key: "age:AAAA".into(), recipients: vec!["age1x".into(), "age1y".into()] };
        let text = edit("a = 1\n", |file| {
            assert_eq!(file.header().unwrap(), None);
            file.set_header(&header).unwrap();
            assert_eq!(file.header().unwrap(), Some(header.clone()));
        });
        assert_eq!(text, "a = 1\n\n[encryption]\nkey = \"age:AAAA\"\nrecipients = [\"age1x\", \"age1y\"]\n");
        let text = edit(&text, |file| {
            file.set_header(&Header { recipients: Vec::new(), ..header.clone() }).unwrap();
        });
        assert_eq!(text, "a = 1\n\n[encryption]\nkey = \"age:AAAA\"\n");
        edit("encryption = 3\n", |file| assert!(file.header().is_err()));
    }
}
