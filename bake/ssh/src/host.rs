//! Who to talk to, and how it proves that it is the one. Main type: [`Host`].

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use camino::Utf8PathBuf;

/// A host and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Who and where.
    pub destination: Destination,
    /// The port; absent: OpenSSH's configuration says, or 22.
    pub port: Option<u16>,
    /// The private key to log in with, and no other; absent: what OpenSSH would use.
    pub identity: Option<Utf8PathBuf>,
    /// How the host proves who it is.
    pub trust: Trust,
    /// How long connecting may take.
    pub connect_timeout: Duration,
}

impl Host {
    /// A host that OpenSSH knows how to reach.
    pub fn new(destination: Destination) -> Self {
        Self {
            destination,
            port: None,
            identity: None,
            trust: Trust::User,
            connect_timeout: Duration::from_secs(15),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.destination.fmt(f)
    }
}

/// How a host proves who it is. There is no way without a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Its key is in the files that OpenSSH reads for the user.
    User,
    /// Its key is in this file.
    File(Utf8PathBuf),
    /// Its key is this one.
    Key(HostKey),
}

/// A user and an address: `root@10.0.0.1`; or a name that OpenSSH's configuration knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The user; absent: OpenSSH's configuration says, or the user here.
    pub user: Option<String>,
    /// A name or an address.
    pub address: String,
}

/// Why a text names no host.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` names no host: write `user@address`")]
pub struct DestinationError(String);

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, address) = match text.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, text),
        };
        // What begins with a dash would be an option of ssh.
        let plain = |part: &str| {
            let allowed = |c: char| c.is_alphanumeric() || "-._:%\\+".contains(c);
            !part.is_empty() && !part.starts_with('-') && part.chars().all(allowed)
        };
        if !plain(address) || !user.is_none_or(plain) {
            return Err(DestinationError(text.to_owned()));
        }
        Ok(Self { user: user.map(str::to_owned), address: address.to_owned() })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, address } = self;
        match user {
            Some(user) => write!(f, "{user}@{address}"),
            None => f.write_str(address),
        }
    }
}

/// A host's public key as `ssh-keygen` writes it, without a comment: `ssh-ed25519 AAAA…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKey(String);

/// Why a text is no key.
#[derive(Debug, thiserror::Error)]
#[error("this is no public host key: write it as `ssh-ed25519 AAAA…`")]
pub struct HostKeyError;

impl HostKey {
    /// The key as a line of a file.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostKey {
    type Err = HostKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut words = text.split_whitespace();
        let (kind, key) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let kinds = ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-ed25519", "sk-ecdsa-sha2-"];
        let known = kinds.iter().any(|known| kind.starts_with(known));
        let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
        if !known || !key.starts_with("AAAA") || !key.chars().all(base64) || text.trim().contains('\n') {
            return Err(HostKeyError);
        }
        Ok(Self(format!("{kind} {key}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let parsed = |text: &str| text.parse::<Destination>().map(|found| (found.user, found.address)).ok();
        assert_eq!(parsed("root@10.0.0.1"), Some((Some("root".into()), "10.0.0.1".into())));
        assert_eq!(parsed("web-1"), Some((None, "web-1".into())));
        assert_eq!(parsed("root@fe80::1%eth0"), Some((Some("root".into()), "fe80::1%eth0".into())));
        for wrong in ["", "root@", "@web", "-oProxyCommand=x", "root@-v", "a b@web", "web;id", "root@web\n"] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn host_keys() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 someone@somewhere".parse::<HostKey>().unwrap();
        assert_eq!(key.as_str(), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5");
        for wrong in ["", "ssh-ed25519", "AAAAC3Nz", "ssh-ed25519 $(id)", "ssh-ed25519 AAAA\nssh-rsa AAAA"] {
            assert!(wrong.parse::<HostKey>().is_err(), "{wrong:?}");
        }
    }
}
