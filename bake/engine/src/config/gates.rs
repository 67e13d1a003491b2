//! The tables `[channels]` and `[gates.CHANNEL]` of `olbake.toml`. Main type: [`ChannelGates`].

use std::collections::BTreeMap;
use std::ops::Range;

use camino::Utf8PathBuf;
use olbake_core::promotion::{Channel, Gate, channel_before};
use olbake_core::settings::did_you_mean;
use olbake_core::time::parse_duration;
use toml::de::{DeTable, DeValue};

use super::{Reader, Value};

/// The versions that a channel can go back to and `gc` keeps, unless the file says otherwise.
pub const ROLLBACK_DEPTH: usize = 3;

/// What must hold before a version enters a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelGates {
    /// The gates; that nothing is revoked is asked for in any case.
    pub gates: Vec<Gate>,
    /// Who may approve; absolute if the workspace is. There wherever approvals are asked for.
    pub allowed_signers: Option<Utf8PathBuf>,
}

/// No such channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no channel `{name}`")]
pub struct UnknownChannel {
    /// What was asked for.
    pub name: String,
    /// The one that was meant, or those there are.
    pub help: Option<String>,
}

impl super::Config {
    /// The channel of a name.
    pub fn channel(&self, name: &str) -> Result<Channel, UnknownChannel> {
        match self.channels.iter().find(|channel| channel.as_str() == name) {
            Some(channel) => Ok(channel.clone()),
            None => {
                let known = self.channels.iter().map(Channel::as_str);
                Err(UnknownChannel { name: name.to_owned(), help: did_you_mean(name, known) })
            }
        }
    }

    /// The gates before a channel.
    pub fn gates(&self, channel: &Channel) -> ChannelGates {
        self.gates.get(channel).cloned().unwrap_or_default()
    }
}

impl Reader<'_> {
    /// Reads what depends on the environments: they are known by now.
    pub(super) fn promotion(&mut self, table: &DeTable<'_>) {
        let find = |name: &str| {
            table.iter().find(|(key, _)| AsRef::<str>::as_ref(key.get_ref()) == name).map(|(_, value)| value)
        };
        let environments = self.config.environments.iter();
        self.config.channels = environments.filter_map(|name| name.parse().ok()).collect();
        if let Some(value) = find("channels") {
            self.section("channels", value, &["order", "parameters", "rollback_depth"], Self::channels);
        }
        if let Some(value) = find("gates") {
            self.gates(value);
        }
    }

    fn channels(&mut self, key: &str, value: &Value<'_>) {
        if key == "parameters" {
            let Some(prefix) = self.string(value) else { return };
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
            match prefix.starts_with('/') && prefix.chars().all(allowed) {
                true => self.config.parameters = Some(prefix),
                false => self.error(value.span(), format!("`{prefix}` begins no name of a parameter"), None),
            }
            return;
        }
        if key == "rollback_depth" {
            if let Some(depth) = self.number(value, "a number of versions") {
                self.config.rollback_depth = depth as usize;
            }
            return;
        }
        let DeValue::Array(items) = value.get_ref() else {
            return self.expected(value, "a list of names", value.get_ref());
        };
        let mut order: Vec<Channel> = Vec::new();
        for item in items.iter() {
            let Some(name) = self.string(item) else { continue };
            match name.parse::<Channel>() {
                Err(error) => self.error(item.span(), error.to_string(), None),
                Ok(channel) if order.contains(&channel) => {
                    self.error(item.span(), format!("`{name}` is there twice"), None);
                }
                Ok(channel) => order.push(channel),
            }
        }
        for environment in self.config.environments.clone() {
            if !order.iter().any(|channel| channel.as_str() == environment) {
                let problem = format!("the environment `{environment}` is missing: each has its channel");
                self.error(value.span(), problem, None);
            }
        }
        self.config.channels = order;
    }

    fn gates(&mut self, value: &Value<'_>) {
        let DeValue::Table(tables) = value.get_ref() else {
            return self.expected(value, "tables `[gates.CHANNEL]`", value.get_ref());
        };
        let mut found = BTreeMap::new();
        for (key, value) in tables {
            let name: &str = key.get_ref();
            match self.config.channel(name) {
                Ok(channel) => {
                    let gates = self.channel_gates(&channel, key.span(), value);
                    found.insert(channel, gates);
                }
                Err(unknown) => self.error(key.span(), unknown.to_string(), unknown.help),
            }
        }
        self.config.gates = found;
    }

    fn channel_gates(&mut self, channel: &Channel, at: Range<usize>, value: &Value<'_>) -> ChannelGates {
        let first = channel_before(&self.config.channels, channel).is_none();
        let mut found = ChannelGates::default();
        let section = format!("gates.{channel}");
        let keys = ["verified", "soak", "approvals", "allowed_signers"];
        self.section(&section, value, &keys, |reader, key, value| match key {
            "verified" => match value.get_ref() {
                DeValue::Boolean(true) => found.gates.push(Gate::Verified),
                DeValue::Boolean(false) => {}
                other => reader.expected(value, "true or false", other),
            },
            "soak" if first => {
                let problem = format!("{channel} is the first channel: there is none before it to soak in");
                reader.error(value.span(), problem, None);
            }
            "soak" => found.gates.extend(reader.soak(value)),
            "approvals" => {
                let count = reader.number(value, "a number of people").filter(|count| *count > 0);
                found.gates.extend(count.map(|signers| Gate::Approved { signers }));
            }
            _ => found.allowed_signers = reader.string(value).map(|path| reader.config.root.join(path)),
        });
        let order = |gate: &Gate| match gate {
            Gate::NotRevoked => 0,
            Gate::Verified => 1,
            Gate::Soaked { .. } => 2,
            Gate::Approved { .. } => 3,
        };
        found.gates.sort_by_key(order);
        let approvals = found.gates.iter().any(|gate| matches!(gate, Gate::Approved { .. }));
        if approvals && found.allowed_signers.is_none() {
            let help = "add `allowed_signers = \"FILE\"`, in the form of ssh-keygen(1)".to_owned();
            self.error(at, format!("[{section}] wants approvals and does not say whose"), Some(help));
        }
        found
    }

    fn soak(&mut self, value: &Value<'_>) -> Option<Gate> {
        let text = self.string(value)?;
        match parse_duration(&text) {
            Ok(time) => Some(Gate::Soaked { seconds: time.as_secs() }),
            Err(expected) => {
                self.error(value.span(), format!("expected {expected}, found `{text}`"), None);
                None
            }
        }
    }

    /// A whole number from 0 on.
    fn number(&mut self, value: &Value<'_>, what: &str) -> Option<u32> {
        let number = match value.get_ref() {
            DeValue::Integer(integer) => integer.as_str().replace('_', "").parse().ok(),
            _ => None,
        };
        if number.is_none() {
            self.expected(value, what, value.get_ref());
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::super::Config;
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Utf8Path::new("/w"), text).map_err(|found| found.to_string())
    }

    fn channel(name: &str) -> Channel {
        name.parse().unwrap()
    }

    #[test]
    fn environments_are_the_channels_unless_said_otherwise() {
        let config = parse("").unwrap();
        assert_eq!(config.channels, [channel("QA"), channel("Production")]);
        assert_eq!(config.rollback_depth, 3);
        assert_eq!(config.gates(&channel("Production")), ChannelGates::default());
        let config = parse("[channels]\norder = ['CI', 'QA', 'Production']\nrollback_depth = 5").unwrap();
        assert_eq!(config.channels[0], channel("CI"));
        assert_eq!(config.rollback_depth, 5);
        let unknown = config.channel("production").unwrap_err();
        assert_eq!(unknown.to_string(), "there is no channel `production`");
        assert_eq!(unknown.help.as_deref(), Some("did you mean `Production`?"));
    }

    #[test]
    fn gates_are_read_in_their_order() {
        let text =
            "[gates.Production]\nallowed_signers = 'a/signers'\napprovals = 2\nsoak = '24h'\nverified = true";
        let gates = parse(text).unwrap().gates(&channel("Production"));
        let expect = [Gate::Verified, Gate::Soaked { seconds: 86_400 }, Gate::Approved { signers: 2 }];
        assert_eq!(gates.gates, expect);
        assert_eq!(gates.allowed_signers.unwrap(), "/w/a/signers");
        let none = parse("[gates.Production]\nverified = false\napprovals = 0").unwrap();
        assert_eq!(none.gates(&channel("Production")).gates, []);
    }

    #[test]
    fn all_mistakes_in_gates_come_together() {
        let text = "[channels]\norder = ['QA', 'QA', '-']\n[gates.Prod]\nverified = true\n\
                    [gates.QA]\nsoak = '1h'\nverifid = true\n";
        let expect = [
            "olbake.toml:2:16: `QA` is there twice",
            "olbake.toml:2:22: `-` is not a valid channel name: names start with a letter and go on with letters, \
             digits, `_` or `-`, 64 characters at most",
            "olbake.toml:2:9: the environment `Production` is missing: each has its channel",
            "olbake.toml:3:8: there is no channel `Prod` (known names: QA)",
            "olbake.toml:6:8: QA is the first channel: there is none before it to soak in",
            "olbake.toml:7:1: unknown key `verifid` in [gates.QA] (did you mean `verified`?)",
        ];
        let found = parse(text).unwrap_err();
        let mut found: Vec<&str> = found.lines().collect();
        found.sort_unstable();
        assert_eq!(found, expect);

        let text =
            "[gates.Production]\napprovals = 2\nsoak = 3\nverified = 'yes'\n[gates.QA]\napprovals = -1";
        let found = parse(text).unwrap_err();
        let mut found: Vec<&str> = found.lines().collect();
        found.sort_unstable();
        let expect = [
            "olbake.toml:1:8: [gates.Production] wants approvals and does not say whose \
             (add `allowed_signers = \"FILE\"`, in the form of ssh-keygen(1))",
            "olbake.toml:3:8: expected a text, found integer",
            "olbake.toml:4:12: expected true or false, found string",
            "olbake.toml:6:13: expected a number of people, found integer",
        ];
        assert_eq!(found, expect);
    }
}
