//! Why an operation failed, and how that becomes the [`Failure`] that people read.

use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::report::Failure;

/// The result of a part of an operation.
pub(crate) type Result<T> = std::result::Result<T, OpError>;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpError {
    /// A system call on a path.
    #[error("cannot {action} `{path}`")]
    Io {
        action: &'static str,
        path: Utf8PathBuf,
        #[source]
        source: io::Error,
    },
    /// A command ended otherwise than expected.
    #[error("{message}")]
    Command { message: String, command: String, status: String, output: String },
    /// The operation cannot be done as it is written, or a check does not hold.
    #[error("{0}")]
    Wrong(String),
    /// Something is not there that an earlier operation could bring: in check mode, after an operation whose
    /// result cannot be predicted, this is no failure.
    #[error("{0}")]
    Missing(String),
    /// A search found what must not be there.
    #[error("{message}")]
    Found { message: String, lines: Vec<String> },
    /// The run was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl OpError {
    /// A failure in words.
    pub(crate) fn wrong(message: impl Into<String>) -> Self {
        Self::Wrong(message.into())
    }

    /// What the failure looks like on the wire.
    pub(crate) fn failure(&self) -> Failure {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        let mut failure = Failure { message, command: None, status: None, output: None };
        if let Self::Command { command, status, output, .. } = self {
            failure.command = Some(command.clone());
            failure.status = Some(status.clone());
            failure.output = (!output.is_empty()).then(|| output.clone());
        }
        if let Self::Found { lines, .. } = self {
            failure.output = Some(lines.join("\n"));
        }
        failure
    }
}

/// Gives a path and a verb to errors of system calls.
pub(crate) trait At<T> {
    /// `action` completes `cannot … PATH`.
    fn at(self, action: &'static str, path: &Utf8Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: &Utf8Path) -> Result<T> {
        self.map_err(|error| OpError::Io { action, path: path.to_owned(), source: error.into() })
    }
}
