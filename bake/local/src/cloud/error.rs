//! Why the local cloud could not do what it was asked for. Main type: [`CloudError`].

use camino::Utf8PathBuf;
use olbake_engine::machine::MachineError;

use super::instance::State;
use super::{Cidr, Id, Kind};

/// The kind decides the exit code and the hint.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    /// The host lacks something, or a command or file of it failed.
    #[error(transparent)]
    Host(#[from] MachineError),
    /// A word is no id.
    #[error("`{id}` is no id: 1 to 40 of a-z, 0-9 and `-`, neither first nor last a `-`")]
    Id {
        /// The word.
        id: String,
    },
    /// A specification contradicts itself.
    #[error("{kind} `{id}`: {problem}")]
    Spec {
        /// Of what.
        kind: Kind,
        /// Which.
        id: Id,
        /// What is wrong with it.
        problem: String,
    },
    /// A network would share addresses with something else.
    #[error("network `{id}`: {cidr} overlaps {with}")]
    Overlap {
        /// The network.
        id: Id,
        /// Its addresses.
        cidr: Cidr,
        /// What has some of them already.
        with: String,
    },
    /// A network has no address left.
    #[error("network `{id}`: none of the addresses of {cidr} is free")]
    Full {
        /// The network.
        id: Id,
        /// Its addresses.
        cidr: Cidr,
    },
    /// Something does not exist.
    #[error("there is no {kind} `{id}`")]
    Missing {
        /// Of which kind.
        kind: Kind,
        /// Which.
        id: Id,
    },
    /// Something exists and cannot become what was asked for.
    #[error("{kind} `{id}` exists with another {what}; it has to be replaced")]
    Different {
        /// Of which kind.
        kind: Kind,
        /// Which.
        id: Id,
        /// The part that differs.
        what: String,
    },
    /// Something is used by something else.
    #[error("{kind} `{id}` is used by {by}")]
    InUse {
        /// Of which kind.
        kind: Kind,
        /// Which.
        id: Id,
        /// By what: `instance web-1`.
        by: String,
    },
    /// An instance is not in a state in which it can be asked.
    #[error("instance `{id}` is {state}")]
    NotRunning {
        /// Which.
        id: Id,
        /// What it is instead.
        state: State,
    },
    /// Something did not start.
    #[error("{kind} `{id}` did not start")]
    Start {
        /// Of which kind.
        kind: Kind,
        /// Which.
        id: Id,
        /// The end of what it wrote.
        console: String,
    },
    /// The load balancer refused a command, or did not answer.
    #[error("load balancer `{id}`: {problem}")]
    Balancer {
        /// Which.
        id: Id,
        /// What happened.
        problem: String,
    },
    /// A file of the cloud's is not what this version of olbake writes.
    #[error("`{path}` cannot be understood")]
    Unreadable {
        /// The file.
        path: Utf8PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}
