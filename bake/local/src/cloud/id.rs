//! The words of the local cloud: what an id is, what kinds of things there are, what addresses a network has.
//!
//! Main types: [`Id`], [`Kind`], [`Cidr`].

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::CloudError;

/// What the caller calls a thing: 1 to 40 of `a-z`, `0-9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

impl Id {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Id {
    type Err = CloudError;

    fn from_str(text: &str) -> Result<Self, CloudError> {
        let fits = (1..=40).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if fits { Ok(Self(text.to_owned())) } else { Err(CloudError::Id { id: text.to_owned() }) }
    }
}

impl TryFrom<String> for Id {
    type Error = CloudError;

    fn try_from(text: String) -> Result<Self, CloudError> {
        text.parse()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// What kinds of things a local cloud has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A bridge with addresses.
    Network,
    /// A name in a network.
    Record,
    /// A file system that outlives instances.
    Volume,
    /// A baked disk that instances start from.
    Disk,
    /// A machine.
    Instance,
    /// A load balancer.
    Balancer,
}

impl Kind {
    /// All of them, in the order in which they can be removed.
    pub(super) const ALL: [Self; 6] =
        [Self::Balancer, Self::Instance, Self::Record, Self::Volume, Self::Disk, Self::Network];

    /// The folder that things of this kind are in.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Network => "networks",
            Self::Record => "records",
            Self::Volume => "volumes",
            Self::Disk => "disks",
            Self::Instance => "instances",
            Self::Balancer => "balancers",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Network => "network",
            Self::Record => "name",
            Self::Volume => "volume",
            Self::Disk => "disk",
            Self::Instance => "instance",
            Self::Balancer => "load balancer",
        })
    }
}

/// IPv4 addresses that begin with the same bits: `10.20.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

/// Why a text names no network.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is no network of IPv4 addresses: {problem}")]
pub struct CidrError {
    text: String,
    problem: &'static str,
}

impl Cidr {
    /// How many of the first bits are the same.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The address that the host has in it: the first.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base + 1)
    }

    /// How many addresses machines can have.
    pub fn hosts(self) -> u32 {
        self.size() - 3
    }

    /// The address that a machine of this number has, from 0.
    pub(super) fn host(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base + 2 + number)
    }

    /// Whether two networks have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        let (one, two) = (u64::from(self.base), u64::from(other.base));
        one < two + u64::from(other.size()) && two < one + u64::from(self.size())
    }

    fn size(self) -> u32 {
        u32::MAX.checked_shr(u32::from(self.prefix)).map_or(1, |most| most.saturating_add(1))
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let bad = |problem| CidrError { text: text.to_owned(), problem };
        let (address, prefix) = text.split_once('/').ok_or_else(|| bad("expected ADDRESS/BITS"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad("the address cannot be read"))?;
        let prefix: u8 = prefix.parse().map_err(|_| bad("the number of bits cannot be read"))?;
        if !(8..=29).contains(&prefix) {
            return Err(bad("8 to 29 bits can be the same"));
        }
        let cidr = Self { base: address.to_bits(), prefix };
        if cidr.base.is_multiple_of(cidr.size()) {
            Ok(cidr)
        } else {
            Err(bad("bits after the prefix are set"))
        }
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { base, prefix } = self;
        write!(formatter, "{}/{prefix}", Ipv4Addr::from_bits(*base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_plain() {
        for good in ["a", "web-1", "0", &"x".repeat(40)] {
            assert_eq!(good.parse::<Id>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", "..", &"x".repeat(41)] {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_are_read_and_counted() {
        let cidr: Cidr = "10.20.0.0/24".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.20.0.0/24");
        assert_eq!(cidr.gateway().to_string(), "10.20.0.1");
        assert_eq!((cidr.host(0).to_string(), cidr.hosts()), ("10.20.0.2".to_owned(), 253));
        assert_eq!(cidr.host(cidr.hosts() - 1).to_string(), "10.20.0.254");
        for bad in ["10.20.0.1/24", "10.0.0.0/30", "10.0.0.0", "x/24", "0.0.0.0/0"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_that_share_an_address_overlap() {
        let overlap = |one: &str, two: &str| one.parse::<Cidr>().unwrap().overlaps(two.parse().unwrap());
        assert!(overlap("10.0.0.0/8", "10.20.0.0/24"));
        assert!(overlap("10.20.0.0/24", "10.20.0.0/16"));
        assert!(!overlap("10.20.0.0/24", "10.20.1.0/24"));
    }
}
