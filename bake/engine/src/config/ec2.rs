//! How images are baked on instances of EC2: `[ec2]` of `olbake.toml`. Main type: [`Ec2`].
//!
//! ```toml
//! [ec2]
//! region = "eu-west-1"                      # by default that of the environment
//! instance_types = ["c7i.large"]            # tried in this order where there is no capacity
//! spot = true                               # and on demand where there is no spot capacity
//! subnet = "subnet-0123"                    # or `tag:Name=build`; by default one of the default network
//! security_groups = ["sg-0123"]             # by default one of the bake's own, removed with it
//! allow_from = "10.0.0.0/8"                 # who may reach the bake's own group
//! instance_profile = "build"
//! disk_size = "8 GiB"
//! kms_key = "arn:aws:kms:…"                 # encrypts the disk
//! address = "private"                       # how instances are reached: `private`, `public`
//! port = 22022                              # of the SSH server that the bake starts on them
//! ssh_timeout = "5m"                        # how long an instance may take to answer
//! image_timeout = "40m"                     # how long a snapshot or an image may be pending
//! deadline = "2h"                           # after which an instance ends by itself
//! copy_to = ["us-east-1"]
//! share_with = ["123456789012"]
//! deprecate_after = 90                      # days
//!
//! [ec2.sources.bookworm]                    # what `debian("bookworm")` is on EC2
//! owner = "136693071363"
//! name = "debian-12-amd64-*"
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use olbake_core::time::parse_duration;
use toml::de::DeValue;

use super::{Reader, Value, bytes};

/// The account that Debian's public images belong to.
const DEBIAN: &str = "136693071363";
/// The numbers of Debian's releases, as its images on EC2 have them.
const RELEASES: [(&str, &str); 3] = [("bullseye", "11"), ("bookworm", "12"), ("trixie", "13")];

pub(super) const KEYS: [&str; 18] = [
    "region",
    "instance_types",
    "spot",
    "subnet",
    "security_groups",
    "allow_from",
    "instance_profile",
    "disk_size",
    "kms_key",
    "address",
    "port",
    "ssh_timeout",
    "image_timeout",
    "deadline",
    "copy_to",
    "share_with",
    "deprecate_after",
    "sources",
];

/// How an instance is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Address {
    /// At its public address where it has one, else at its private one.
    #[default]
    Any,
    /// At its private address.
    Private,
    /// At its public address.
    Public,
}

/// An image of EC2 to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The account that owns it.
    pub owner: String,
    /// Its name, with `*` and `?`: of several the newest.
    pub name: String,
}

/// How images are baked on instances of EC2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ec2 {
    /// The region; none: that of the environment.
    pub region: Option<String>,
    /// Instance types, in the order in which they are tried.
    pub instance_types: Vec<String>,
    /// Whether spot instances are asked for first.
    pub spot: bool,
    /// The subnet's id, or a tag of it as `tag:NAME=VALUE`; none: one of the default network.
    pub subnet: Option<String>,
    /// Security groups; none: one of the bake's own.
    pub security_groups: Vec<String>,
    /// The network from which the bake's own security group lets in.
    pub allow_from: String,
    /// The name of the instance profile.
    pub instance_profile: Option<String>,
    /// Bytes of the disk at least; none: those of the source.
    pub disk_size: Option<u64>,
    /// The key that encrypts the disk.
    pub kms_key: Option<String>,
    /// How instances are reached.
    pub address: Address,
    /// The port of the bake's SSH server.
    pub port: u16,
    /// How long an instance that runs may take to answer by SSH.
    pub ssh_timeout: Duration,
    /// How long a snapshot or an image may be pending, before it is left for a later bake to go on with.
    pub image_timeout: Duration,
    /// How long an instance may be there.
    pub deadline: Duration,
    /// The regions that an image is copied to.
    pub copy_to: Vec<String>,
    /// Who else may start images: accounts, or ARNs of organisations and of their units.
    pub share_with: Vec<String>,
    /// Days after which AWS is to call an image deprecated.
    pub deprecate_after: Option<u16>,
    /// What Debian's suites are on EC2, where it is not Debian's own image.
    pub sources: BTreeMap<String, Source>,
}

impl Default for Ec2 {
    fn default() -> Self {
        Self {
            region: None,
            instance_types: vec!["t3.medium".to_owned()],
            spot: false,
            subnet: None,
            security_groups: Vec::new(),
            allow_from: "0.0.0.0/0".to_owned(),
            instance_profile: None,
            disk_size: None,
            kms_key: None,
            address: Address::Any,
            port: 22022,
            ssh_timeout: Duration::from_secs(5 * 60),
            image_timeout: Duration::from_secs(40 * 60),
            deadline: Duration::from_secs(2 * 3600),
            copy_to: Vec::new(),
            share_with: Vec::new(),
            deprecate_after: None,
            sources: BTreeMap::new(),
        }
    }
}

impl Ec2 {
    /// What a suite of Debian is on EC2; none where nobody says.
    pub fn source(&self, suite: &str, architecture: &str) -> Option<Source> {
        if let Some(source) = self.sources.get(suite) {
            return Some(source.clone());
        }
        let (_, number) = RELEASES.iter().find(|(name, _)| *name == suite)?;
        Some(Source { owner: DEBIAN.to_owned(), name: format!("debian-{number}-{architecture}-*") })
    }
}

impl Reader<'_> {
    pub(super) fn ec2(&mut self, key: &str, value: &Value<'_>) {
        match key {
            "region" => self.config.ec2.region = self.string(value),
            "instance_types" => {
                let types = self.strings(value);
                if types.is_empty() {
                    self.error(value.span(), "expected at least one instance type".to_owned(), None);
                }
                self.config.ec2.instance_types = types;
            }
            "spot" => match value.get_ref() {
                DeValue::Boolean(spot) => self.config.ec2.spot = *spot,
                other => self.expected(value, "`true` or `false`", other),
            },
            "subnet" => self.config.ec2.subnet = self.subnet(value),
            "security_groups" => self.config.ec2.security_groups = self.strings(value),
            "allow_from" => self.config.ec2.allow_from = self.string(value).unwrap_or_default(),
            "instance_profile" => self.config.ec2.instance_profile = self.string(value),
            "kms_key" => self.config.ec2.kms_key = self.string(value),
            "copy_to" => self.config.ec2.copy_to = self.strings(value),
            "share_with" => self.config.ec2.share_with = self.strings(value),
            "disk_size" => self.config.ec2.disk_size = self.disk_size(value),
            "address" => self.address(value),
            "port" => self.config.ec2.port = self.at_least(value, 1).unwrap_or_default(),
            "deprecate_after" => self.config.ec2.deprecate_after = self.at_least(value, 1),
            "ssh_timeout" => self.config.ec2.ssh_timeout = self.lasting(value, "5m", 1),
            "image_timeout" => self.config.ec2.image_timeout = self.lasting(value, "40m", 1),
            "deadline" => self.config.ec2.deadline = self.lasting(value, "2h", 600),
            _ => self.sources(value),
        }
    }

    fn strings(&mut self, value: &Value<'_>) -> Vec<String> {
        let DeValue::Array(items) = value.get_ref() else {
            self.expected(value, "a list of texts", value.get_ref());
            return Vec::new();
        };
        items.iter().filter_map(|item| self.string(item)).collect()
    }

    fn at_least(&mut self, value: &Value<'_>, least: u16) -> Option<u16> {
        let number = match value.get_ref() {
            DeValue::Integer(integer) => integer.as_str().replace('_', "").parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| *number >= least);
        if number.is_none() {
            let message = format!("expected a number from {least} to {}", u16::MAX);
            self.error(value.span(), message, None);
        }
        number
    }

    fn subnet(&mut self, value: &Value<'_>) -> Option<String> {
        let subnet = self.string(value)?;
        let is_tag = subnet.strip_prefix("tag:").is_some_and(|tag| tag.contains('='));
        if is_tag || subnet.starts_with("subnet-") {
            return Some(subnet);
        }
        let help = Some("write `subnet-0123…` or `tag:NAME=VALUE`".to_owned());
        self.error(value.span(), format!("`{subnet}` names no subnet"), help);
        None
    }

    fn disk_size(&mut self, value: &Value<'_>) -> Option<u64> {
        let text = self.string(value)?;
        let size = bytes(&text);
        if size.is_none() {
            let help = Some("write `8 GiB`".to_owned());
            self.error(value.span(), format!("expected a size, found `{text}`"), help);
        }
        size
    }

    fn address(&mut self, value: &Value<'_>) {
        let Some(text) = self.string(value) else { return };
        self.config.ec2.address = match text.as_str() {
            "private" => Address::Private,
            "public" => Address::Public,
            _ => {
                let message = format!("expected `private` or `public`, found `{text}`");
                return self.error(value.span(), message, None);
            }
        };
    }

    /// A duration of so many seconds at least.
    fn lasting(&mut self, value: &Value<'_>, example: &str, least: u64) -> Duration {
        let Some(text) = self.string(value) else { return Duration::ZERO };
        match parse_duration(&text) {
            Ok(duration) if duration >= Duration::from_secs(least) => duration,
            _ => {
                let help = Some(format!("write `{example}`, and no less than {least} s"));
                self.error(value.span(), format!("expected a duration, found `{text}`"), help);
                Duration::ZERO
            }
        }
    }

    fn sources(&mut self, value: &Value<'_>) {
        let DeValue::Table(table) = value.get_ref() else {
            return self.expected(value, "tables `[ec2.sources.SUITE]`", value.get_ref());
        };
        for (suite, entry) in table {
            let (mut owner, mut name) = (None, None);
            self.section("ec2.sources", entry, &["owner", "name"], |reader, key, value| match key {
                "owner" => owner = reader.string(value),
                _ => name = reader.string(value),
            });
            match (owner, name) {
                (Some(owner), Some(name)) => {
                    let source = Source { owner, name };
                    self.config.ec2.sources.insert(suite.get_ref().to_string(), source);
                }
                _ => self.error(entry.span(), "a source has `owner` and `name`".to_owned(), None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

    use camino::Utf8Path;

    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<Ec2, String> {
        Config::parse(Utf8Path::new("/w"), text).map(|config| config.ec2).map_err(|found| found.to_string())
    }

    #[test]
    fn values_are_read_and_suites_have_sources() {
        let text = "[ec2]\nregion = 'eu-west-1'\ninstance_types = ['a', 'b']\nspot = true\nsubnet = 'tag:Name=build'\n\
                    disk_size = '8 GiB'\naddress = 'private'\nport = 2222\ndeadline = '30m'\nssh_timeout = '20s'\n\
                    [ec2.sources.bookworm]\nowner = 'self'\nname = 'golden-*'\n";
        let ec2 = parse(text).unwrap();
        assert_eq!((ec2.instance_types.len(), ec2.spot, ec2.port), (2, true, 2222));
        assert_eq!((ec2.disk_size, ec2.deadline), (Some(8 << 30), Duration::from_secs(1800)));
        assert_eq!(
            (ec2.ssh_timeout, ec2.image_timeout),
            (Duration::from_secs(20), Duration::from_secs(2400))
        );
        assert_eq!(ec2.source("bookworm", "amd64").unwrap().name, "golden-*");
        let default = Ec2::default();
        assert_eq!(default.source("bookworm", "arm64").unwrap().name, "debian-12-arm64-*");
        assert_eq!(default.source("sid", "amd64"), None);
    }

    #[test]
    fn mistakes_come_together() {
        let text = "[ec2]\nsubnet = 'vpc-1'\naddress = 'near'\nport = 0\ndeadline = '1s'\nimage_timeout = 'soon'\nspott = true\n[ec2.sources]\nx = {}\n";
        assert_eq!(parse(text).unwrap_err().lines().count(), 7, "{}", parse(text).unwrap_err());
    }
}
