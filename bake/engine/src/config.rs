//! The workspace's `olbake.toml`. Main type: [`Config`].
//!
//! ```toml
//! environments = ["QA", "Production"]
//!
//! [registry]
//! url = "file://.olbake/registry"   # relative to the workspace
//!
//! [cache]
//! dir = ".olbake/cache"
//! max_size = "10 GiB"
//!
//! [state]
//! url = "file://.olbake/state"      # the states of stacks
//!
//! [local]
//! dir = ".olbake/local"             # the local cloud
//!
//! [channels]
//! order = ["QA", "Production"]      # in the order of promotion; by default the environments
//! parameters = "/olbake/channels"   # SSM parameters that tell readers what channels point to; by default none
//! rollback_depth = 3                # versions that a channel can go back to and `gc` keeps
//!
//! [gates.Production]                # what must hold before a version enters the channel
//! verified = true                   # its checks passed on a fresh boot
//! soak = "24h"                      # it was in the channel before for so long
//! approvals = 2                     # so many people signed, of those in the file
//! allowed_signers = "allowed_signers"
//!
//! [ec2]                             # bakes on instances of EC2, see `Ec2`
//! instance_types = ["c7i.large", "c6i.large"]
//! ```
//!
//! Every key has a default, and so has the file. What is not known is an error, and all errors come together.

mod ec2;
mod gates;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::diagnostic::{Diagnostic, Diagnostics};
use olbake_core::promotion::Channel;
use olbake_core::settings::did_you_mean;
use olbake_core::span::Span;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use ec2::{Address, Ec2, Source};
pub use gates::{ChannelGates, ROLLBACK_DEPTH, UnknownChannel};

/// The file's name.
pub const FILE: &str = "olbake.toml";
/// Where the registry is, unless the file says otherwise.
pub const REGISTRY: &str = "file://.olbake/registry";
/// Where the cache is, unless the file says otherwise.
pub const CACHE: &str = ".olbake/cache";
/// Where the states of stacks are, unless the file says otherwise.
pub const STATE: &str = "file://.olbake/state";
/// Where the local cloud is, unless the file says otherwise.
pub const LOCAL: &str = ".olbake/local";
/// What the cache holds at most, unless the file says otherwise.
pub const CACHE_SIZE: u64 = 10 << 30;

/// A workspace's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The workspace.
    pub root: Utf8PathBuf,
    /// The URL of the registry; a relative `file://` is relative to the workspace.
    pub registry: String,
    /// The cache's directory, absolute if the workspace's is.
    pub cache: Utf8PathBuf,
    /// Bytes of disks that the cache keeps.
    pub cache_size: u64,
    /// The URL of the states of stacks; a relative `file://` is relative to the workspace.
    pub state: String,
    /// The local cloud's directory, absolute if the workspace's is.
    pub local: Utf8PathBuf,
    /// The environments, in the order in which images are promoted.
    pub environments: Vec<String>,
    /// The channels, in the order in which images are promoted; every environment is one.
    pub channels: Vec<Channel>,
    /// What must hold before a version enters a channel.
    pub gates: BTreeMap<Channel, ChannelGates>,
    /// The versions before its current one that a channel can go back to and `gc` keeps.
    pub rollback_depth: usize,
    /// What the names of SSM parameters begin with that tell readers what channels point to.
    pub parameters: Option<String>,
    /// How images are baked on instances of EC2.
    pub ec2: Ec2,
}

impl Config {
    /// Reads the configuration of a workspace. `OLBAKE_REGISTRY`, `OLBAKE_CACHE` and `OLBAKE_STATE` in `environment`
    /// count more than the file.
    pub fn load(root: &Utf8Path, environment: &BTreeMap<String, String>) -> Result<Self, Diagnostics> {
        let path = root.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(Diagnostic::error("config", format!("cannot read `{path}`: {error}")).into());
            }
        };
        let mut config = Self::parse(root, &text)?;
        if let Some(url) = environment.get("OLBAKE_REGISTRY").filter(|url| !url.is_empty()) {
            check_url(url)
                .map_err(|problem| Diagnostic::error("config", format!("OLBAKE_REGISTRY {problem}")))?;
            config.registry = url.clone();
        }
        if let Some(dir) = environment.get("OLBAKE_CACHE").filter(|dir| !dir.is_empty()) {
            config.cache = root.join(dir);
        }
        if let Some(url) = environment.get("OLBAKE_STATE").filter(|url| !url.is_empty()) {
            check_url(url)
                .map_err(|problem| Diagnostic::error("config", format!("OLBAKE_STATE {problem}")))?;
            config.state = url.clone();
        }
        Ok(config)
    }

    /// Reads the text of a configuration.
    pub fn parse(root: &Utf8Path, text: &str) -> Result<Self, Diagnostics> {
        let config = Self {
            root: root.to_owned(),
            registry: REGISTRY.to_owned(),
            cache: root.join(CACHE),
            cache_size: CACHE_SIZE,
            state: STATE.to_owned(),
            local: root.join(LOCAL),
            environments: vec!["QA".to_owned(), "Production".to_owned()],
            channels: Vec::new(),
            gates: BTreeMap::new(),
            rollback_depth: ROLLBACK_DEPTH,
            parameters: None,
            ec2: Ec2::default(),
        };
        let mut reader = Reader { text, found: Diagnostics::default(), config };
        match DeTable::parse(text) {
            Ok(table) => {
                reader.document(table.get_ref());
                reader.promotion(table.get_ref());
            }
            Err(error) => reader.error(error.span().unwrap_or_default(), error.message().to_owned(), None),
        }
        if reader.found.has_errors() { Err(reader.found) } else { Ok(reader.config) }
    }
}

struct Reader<'a> {
    text: &'a str,
    found: Diagnostics,
    config: Config,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    fn document(&mut self, table: &DeTable<'_>) {
        let keys = ["registry", "cache", "state", "local", "environments", "channels", "gates", "ec2"];
        self.table(table, "", &keys, |reader, key, value| match key {
            "registry" => reader.section(key, value, &["url"], Self::registry),
            "cache" => reader.section(key, value, &["dir", "max_size"], Self::cache),
            "state" => reader.section(key, value, &["url"], Self::state),
            "local" => reader.section(key, value, &["dir"], Self::local),
            "ec2" => reader.section(key, value, &ec2::KEYS, Self::ec2),
            "environments" => reader.environments(value),
            // They name environments, and are read after them.
            _ => {}
        });
    }

    fn section(
        &mut self,
        name: &str,
        value: &Value<'_>,
        keys: &[&str],
        act: impl FnMut(&mut Self, &str, &Value<'_>),
    ) {
        match value.get_ref() {
            DeValue::Table(table) => self.table(table, name, keys, act),
            other => self.expected(value, &format!("a table `[{name}]`"), other),
        }
    }

    fn table(
        &mut self,
        table: &DeTable<'_>,
        name: &str,
        keys: &[&str],
        mut act: impl FnMut(&mut Self, &str, &Value<'_>),
    ) {
        for (key, value) in table {
            let text: &str = key.get_ref();
            if keys.contains(&text) {
                act(self, text, value);
            } else {
                let place = if name.is_empty() { String::new() } else { format!(" in [{name}]") };
                let help = did_you_mean(text, keys.iter().copied());
                self.error(key.span(), format!("unknown key `{text}`{place}"), help);
            }
        }
    }

    fn registry(&mut self, _key: &str, value: &Value<'_>) {
        let Some(url) = self.string(value) else { return };
        match check_url(&url) {
            Ok(()) => self.config.registry = url,
            Err(problem) => self.error(value.span(), problem, None),
        }
    }

    fn state(&mut self, _key: &str, value: &Value<'_>) {
        let Some(url) = self.string(value) else { return };
        match check_url(&url) {
            Ok(()) => self.config.state = url,
            Err(problem) => self.error(value.span(), problem, None),
        }
    }

    fn local(&mut self, _key: &str, value: &Value<'_>) {
        if let Some(dir) = self.string(value) {
            self.config.local = self.config.root.join(dir);
        }
    }

    fn cache(&mut self, key: &str, value: &Value<'_>) {
        match (key, value.get_ref()) {
            ("dir", _) => {
                if let Some(dir) = self.string(value) {
                    self.config.cache = self.config.root.join(dir);
                }
            }
            (_, DeValue::Integer(integer)) => match integer.as_str().replace('_', "").parse() {
                Ok(size) => self.config.cache_size = size,
                Err(_) => self.error(value.span(), "expected a number of bytes".to_owned(), None),
            },
            (_, DeValue::String(text)) => match bytes(text) {
                Some(size) => self.config.cache_size = size,
                None => {
                    let help = Some("write `40 GiB`, `500 MB` or a number of bytes".to_owned());
                    self.error(value.span(), format!("expected a size, found `{text}`"), help);
                }
            },
            (_, other) => self.expected(value, "a size", other),
        }
    }

    fn environments(&mut self, value: &Value<'_>) {
        let DeValue::Array(items) = value.get_ref() else {
            return self.expected(value, "a list of names", value.get_ref());
        };
        let mut names = Vec::new();
        for item in items.iter() {
            let Some(name) = self.string(item) else { continue };
            let valid = name.starts_with(|c: char| c.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            if !valid {
                self.error(item.span(), format!("`{name}` is no name of an environment"), None);
            } else if names.contains(&name) {
                self.error(item.span(), format!("`{name}` is there twice"), None);
            } else {
                names.push(name);
            }
        }
        self.config.environments = names;
    }

    fn string(&mut self, value: &Value<'_>) -> Option<String> {
        match value.get_ref() {
            DeValue::String(text) if !text.is_empty() => return Some(text.to_string()),
            DeValue::String(_) => {
                self.error(value.span(), "expected a text, found an empty one".to_owned(), None)
            }
            other => self.expected(value, "a text", other),
        }
        None
    }

    fn expected(&mut self, at: &Value<'_>, what: &str, found: &DeValue<'_>) {
        self.error(at.span(), format!("expected {what}, found {}", found.type_str()), None);
    }

    fn error(&mut self, range: Range<usize>, message: String, help: Option<String>) {
        let diagnostic = Diagnostic::error("config", message).at(span(self.text, range));
        self.found.push(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
    }
}

fn check_url(url: &str) -> Result<(), String> {
    let known = ["file://", "s3://"];
    match known.iter().find_map(|scheme| url.strip_prefix(scheme)) {
        Some(path) if !path.is_empty() => Ok(()),
        _ => {
            let found = crate::payload::public_url(url);
            Err(format!("expected a URL `file://PATH` or `s3://BUCKET/PREFIX`, found `{found}`"))
        }
    }
}

/// Bytes from `40 GiB`, `500MB`, `1024`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000_u64.pow(2),
        "GB" => 1000_u64.pow(3),
        "TB" => 1000_u64.pow(4),
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(unit)
}

/// A range of bytes as lines and columns.
fn span(text: &str, range: Range<usize>) -> Span {
    let place = |at: usize| {
        let before = text.get(..at.min(text.len())).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        (number(line), number(before[start..].chars().count() + 1))
    };
    let ((line, column), (end_line, end_column)) = (place(range.start), place(range.end));
    Span { file: FILE.to_owned(), line, column, end_line, end_column }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Utf8Path::new("/w"), text).map_err(|found| found.to_string())
    }

    #[test]
    fn an_empty_file_has_every_default() {
        let config = parse("").unwrap();
        assert_eq!(config.registry, "file://.olbake/registry");
        assert_eq!(config.cache, "/w/.olbake/cache");
        assert_eq!(config.environments, ["QA", "Production"]);
    }

    #[test]
    fn values_are_read() {
        let text = "environments = ['Test']\n[registry]\nurl = 'file:///srv/r'\n[cache]\ndir = '/c'\nmax_size = '2 GiB'";
        let config = parse(text).unwrap();
        assert_eq!((config.registry.as_str(), config.cache.as_str()), ("file:///srv/r", "/c"));
        assert_eq!((config.cache_size, config.environments), (2 << 30, vec!["Test".to_owned()]));
        assert_eq!(parse("cache = { max_size = 1_000 }").unwrap().cache_size, 1000);
    }

    #[test]
    fn all_mistakes_come_together_with_their_places() {
        let text = "enviroments = []\n\n[cache]\nmax_sise = 1\nmax_size = 'many'\n[registry]\nurl = 's3+x://u:p@b'\n";
        let expect = [
            "olbake.toml:1:1: unknown key `enviroments` (did you mean `environments`?)",
            "olbake.toml:4:1: unknown key `max_sise` in [cache] (did you mean `max_size`?)",
            "olbake.toml:5:12: expected a size, found `many` (write `40 GiB`, `500 MB` or a number of bytes)",
            "olbake.toml:7:7: expected a URL `file://PATH` or `s3://BUCKET/PREFIX`, found `s3+x://b`",
        ];
        let found = parse(text).unwrap_err();
        let mut found: Vec<&str> = found.lines().collect();
        found.sort_unstable();
        assert_eq!(found, expect);
    }

    #[test]
    fn what_is_no_toml_says_where() {
        assert!(parse("[cache\n").unwrap_err().starts_with("olbake.toml:1:7: "));
        assert_eq!(
            parse("cache = 3").unwrap_err(),
            "olbake.toml:1:9: expected a table `[cache]`, found integer"
        );
        assert_eq!(parse("environments = ['QA', 'QA', 7, '-']").unwrap_err().lines().count(), 3);
    }

    #[test]
    fn the_environment_counts_more_than_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        std::fs::write(root.join(FILE), "[registry]\nurl = 'file://r'").unwrap();
        let load = |variables: &[(&str, &str)]| {
            let environment = variables.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            Config::load(root, &environment)
        };
        assert_eq!(load(&[]).unwrap().registry, "file://r");
        let config = load(&[("OLBAKE_REGISTRY", "file:///x"), ("OLBAKE_CACHE", "c")]).unwrap();
        assert_eq!((config.registry, config.cache), ("file:///x".to_owned(), root.join("c")));
        assert!(load(&[("OLBAKE_REGISTRY", "http://x")]).is_err());
    }

    #[test]
    fn sizes_have_units() {
        for (text, expect) in
            [("7", Some(7)), ("2 kB", Some(2000)), ("3MiB", Some(3 << 20)), ("1.5 GB", None), ("", None)]
        {
            assert_eq!(bytes(text), expect, "{text}");
        }
    }
}
