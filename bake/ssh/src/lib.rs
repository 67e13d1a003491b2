//! Any host over SSH: one connection, the agent pushed once by its digest, and one stream for everything else.
//!
//! | file | what it has |
//! |---|---|
//! | `host` | who to talk to and how its key is known: [`Host`] |
//! | `connection` | a connection of OpenSSH's, checked, with errors a person understands: [`Connection`] |
//! | `agent` | the agent on the host: there already, or pushed on the same channel: [`Agent`] |
//! | `work` | a run of operations, through dropped connections and reboots: [`Remote`] |
//!
//! A run takes one connection and one command on it, however many operations it has: the command says whether the host
//! has the agent, takes it from its own input where it has not, and becomes the agent. Beyond what connecting takes, that
//! is one round trip where the agent is there, and two where it is not.

mod agent;
mod connection;
mod error;
mod frozen;
mod host;
mod work;

pub use agent::{Agent, Started};
pub use connection::Connection;
pub use error::SshError;
pub use frozen::Frozen;
pub use host::{Destination, DestinationError, Host, HostKey, HostKeyError, Trust};
pub use work::{Notice, Remote};
