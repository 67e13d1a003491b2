//! How a server is reached. Main type: [`Server`].

use std::fmt;
use std::net::IpAddr;

use olbake_core::secret::MARKER_START;
use olbake_engine::stack::provider::ProviderError;
use serde::Deserialize;
use zeroize::Zeroizing;

/// A password; it is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// A password.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The password in the open.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it is the marker of a secret that is not known here.
    pub(crate) fn is_unknown(&self) -> bool {
        self.0.contains(MARKER_START)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Whether the connection is by TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// It is, and SCRAM's channel binding shows that nobody stands between.
    #[default]
    Require,
    /// It is not: for Unix sockets and loopback addresses only.
    Disable,
}

/// A server and the account that things are done by.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Name, address, or the folder of a Unix socket.
    pub host: String,
    /// Its port.
    #[serde(default = "port")]
    pub port: u16,
    /// The account.
    pub user: String,
    /// Its password.
    pub password: Password,
    /// The database to log in to where none is named.
    #[serde(default = "database")]
    pub database: String,
    /// Whether by TLS.
    #[serde(default)]
    pub tls: Tls,
}

fn port() -> u16 {
    5432
}

fn database() -> String {
    "postgres".to_owned()
}

impl Server {
    /// Refuses what cannot be used safely.
    pub(crate) fn check(&self) -> Result<(), ProviderError> {
        if self.password.is_unknown() {
            return Err(ProviderError::Refused {
                message: format!("the password for {self} is not known here"),
                help: Some("the stack's configuration has it: give its passphrase or key".to_owned()),
            });
        }
        if self.tls == Tls::Disable && !self.is_here() {
            let message = format!("{self} is not on this machine: its connections need TLS");
            return Err(ProviderError::refused(message));
        }
        Ok(())
    }

    pub(crate) fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    fn is_here(&self) -> bool {
        let loopback = self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        self.is_socket() || loopback || self.host == "localhost"
    }

    /// Whether another is the same place, whoever logs in.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}@{}:{}`", self.user, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn server(host: &str, tls: &str) -> Server {
        let written = json!({"host": host, "user": "admin", "password": "hunter2", "tls": tls});
        serde_json::from_value(written).unwrap()
    }

    #[test]
    fn only_what_is_here_goes_without_tls() {
        for (host, fine) in [("127.0.0.1", true), ("/run/postgresql", true), ("10.0.0.4", false)] {
            assert_eq!(server(host, "disable").check().is_ok(), fine, "{host}");
            assert!(server(host, "require").check().is_ok(), "{host}");
        }
    }

    #[test]
    fn the_password_is_not_shown() {
        let server = server("10.0.0.4", "require");
        assert!(!format!("{server} {server:?}").contains("hunter2"));
    }
}
