//! What an operation reports when it has run, on a machine or as a prediction.

use serde::{Deserialize, Serialize};

use crate::names::OperationId;

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was as it should be.
    Ok,
    /// It was changed; in check mode: it would be.
    Changed,
    /// It was not to run: a guard said so, or there is no running systemd.
    Skipped,
    /// It could not be done, or a check did not hold.
    Failed,
}

/// A package that is installed on a machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name: `caddy`.
    pub name: String,
    /// Its version, as Debian writes it.
    pub version: String,
    /// Its architecture: `amd64`, `all`.
    pub architecture: String,
}

/// One difference between what is and what should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What differs: `content`, `mode`, `owner`, `package caddy`, `enabled`.
    pub what: String,
    /// As it was; absent: there was nothing.
    pub from: Option<String>,
    /// As it is now; absent: nothing is left.
    pub to: Option<String>,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong, a lower-case fragment.
    pub message: String,
    /// The command that failed, as it would be typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// How it ended: `exit status 1`, `signal 9`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The end of what it wrote, secrets masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationReport {
    /// The operation.
    pub id: OperationId,
    /// How it ended.
    pub outcome: Outcome,
    /// What differed, in a fixed order; never holds a secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// Why it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Microseconds it took on the machine.
    pub micros: u64,
    /// It ran before an interruption and was not run again: the journal had it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
}
