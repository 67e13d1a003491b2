//! Why a host could not be worked on. Main type: [`SshError`].

use std::io;

use camino::Utf8PathBuf;
use olbake_engine::session::SessionError;

/// Why a host could not be worked on.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The host did not prove that it is the one.
    #[error("`{host}` did not prove who it is: {reason}")]
    HostKey {
        /// The host.
        host: String,
        /// What was wrong with its key.
        reason: String,
    },
    /// The host does not let this user in.
    #[error("`{host}` refused the login: {reason}")]
    Login {
        /// The host.
        host: String,
        /// What OpenSSH says.
        reason: String,
    },
    /// The host does not answer.
    #[error("cannot reach `{host}`: {reason}")]
    Unreachable {
        /// The host.
        host: String,
        /// What OpenSSH says.
        reason: String,
    },
    /// The connection ended, and did not come back.
    #[error("lost the connection to `{host}`")]
    Lost {
        /// The host.
        host: String,
        /// How it ended.
        #[source]
        source: SessionError,
        /// The last lines that the agent or the host wrote beside the stream.
        output: String,
    },
    /// The user is not root there, and may not become it without being asked.
    #[error("`{host}`: {reason}")]
    Privilege {
        /// The host.
        host: String,
        /// What is missing.
        reason: String,
    },
    /// The agent did not start.
    #[error("the agent did not start on `{host}`: {reason}")]
    Agent {
        /// The host.
        host: String,
        /// What the host says.
        reason: String,
    },
    /// The host's root file system did not hold still.
    #[error("the root file system of `{host}` cannot be frozen")]
    Freeze {
        /// The host.
        host: String,
        /// What the host says.
        output: String,
    },
    /// The host did not boot again in time.
    #[error("`{host}` did not come back from its reboot in {seconds} seconds")]
    Reboot {
        /// The host.
        host: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// This machine lacks OpenSSH.
    #[error("the program `ssh` is not installed here")]
    NoClient,
    /// A file of this machine could not be used.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The talk with the agent failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// It was asked to stop.
    #[error("stopped")]
    Cancelled,
}

impl SshError {
    /// Whether trying again later may help: nothing was refused.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost { .. })
    }

    /// What OpenSSH's words come to.
    pub(crate) fn of_client(host: &str, said: &str) -> Self {
        let host = host.to_owned();
        let reason = last_line(said);
        let has = |text: &str| said.contains(text);
        if has("IDENTIFICATION HAS CHANGED") {
            return Self::HostKey { host, reason: "its key is not the one that is known".to_owned() };
        }
        if has("host key is known for") {
            return Self::HostKey { host, reason: "its key is not known".to_owned() };
        }
        if has("Host key verification failed")
            || has("No matching host key")
            || has("no matching host key type")
        {
            return Self::HostKey { host, reason };
        }
        if has("Permission denied (") || has("Too many authentication failures") {
            return Self::Login { host, reason };
        }
        Self::Unreachable {
            host,
            reason: if reason.is_empty() { "ssh ended without a word".to_owned() } else { reason },
        }
    }

    /// What the last words of a command come to that did not become the agent.
    pub(crate) fn of_start(host: &str, said: &str) -> Self {
        let host = host.to_owned();
        let reason = last_line(said);
        let has = |text: &str| said.contains(text);
        if has("sudo: ") && (has("password is required") || has("a terminal is required")) {
            let reason = "the user is not root, and sudo asks for a password there".to_owned();
            return Self::Privilege { host, reason };
        }
        if has("not in the sudoers") || has("may not run sudo") || has("not allowed to execute") {
            return Self::Privilege {
                host,
                reason: "the user is not root, and sudo refuses it there".to_owned(),
            };
        }
        if has("sudo: not found") || has("sudo: command not found") {
            return Self::Privilege { host, reason: "the user is not root, and there is no sudo".to_owned() };
        }
        Self::Agent {
            host,
            reason: if reason.is_empty() { "it ended without a word".to_owned() } else { reason },
        }
    }
}

/// The last line that says something.
fn last_line(text: &str) -> String {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.strip_prefix("ssh: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: &SshError, expect: &str) {
        assert_eq!(error.to_string(), expect);
    }

    #[test]
    fn openssh_is_understood() {
        let client = |said| SshError::of_client("web", said);
        check(
            &client(
                "@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.\n",
            ),
            "`web` did not prove who it is: its key is not the one that is known",
        );
        check(
            &client(
                "No ED25519 host key is known for web and you have requested strict checking.\nHost key verification failed.\n",
            ),
            "`web` did not prove who it is: its key is not known",
        );
        check(
            &client("root@web: Permission denied (publickey).\n"),
            "`web` refused the login: root@web: Permission denied (publickey).",
        );
        let gone = client("ssh: connect to host web port 22: No route to host\n");
        check(&gone, "cannot reach `web`: connect to host web port 22: No route to host");
        assert!(gone.is_passing());
    }

    #[test]
    fn what_stands_in_for_the_agent_is_understood() {
        let start = |said| SshError::of_start("web", said);
        check(
            &start("sudo: a password is required\n"),
            "`web`: the user is not root, and sudo asks for a password there",
        );
        check(
            &start("/bin/sh: 1: exec: sudo: not found\n"),
            "`web`: the user is not root, and there is no sudo",
        );
        check(
            &start("cannot execute: required file not found\n"),
            "the agent did not start on `web`: cannot execute: required file not found",
        );
    }
}
