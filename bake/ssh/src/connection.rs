//! A connection of OpenSSH's own client. The host's key is always checked. Main type: [`Connection`].

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use openssh::{ControlPersist, KnownHosts, OwningCommand, Session, SessionBuilder};

use crate::error::SshError;
use crate::host::{Host, Trust};

/// How often the host is asked whether it is still there; three questions without an answer end the connection.
const ALIVE: Duration = Duration::from_secs(15);
/// How long ssh stays when nobody uses it: when this process was killed, nobody tells it to end.
const IDLE: NonZeroUsize = NonZeroUsize::new(10).expect("ten is not zero");
/// The name that a given host key is filed under.
const ALIAS: &str = "olbake-host";
/// Directories of connections begin with this and the process.
const PREFIX: &str = "olbake-ssh-";

/// A connection to a host. Dropping it ends it.
#[derive(Clone, Debug)]
pub struct Connection {
    session: Arc<Session>,
    host: String,
    /// ssh's configuration, keys and socket; removed after the session has ended.
    _directory: Arc<tempfile::TempDir>,
}

impl Connection {
    /// Connects: the host proved who it is, and let the user in.
    pub async fn open(host: &Host) -> Result<Self, SshError> {
        let directory = directory()?;
        let path = Utf8Path::from_path(directory.path()).ok_or_else(|| {
            let source = io::Error::new(io::ErrorKind::InvalidFilename, "its name is not UTF-8");
            io_error("use", Utf8Path::new("TMPDIR"))(source)
        })?;
        let session = builder(host, path)?.connect_mux(&host.destination.address).await;
        let session = session.map_err(|error| understood(host, &error))?;
        Ok(Self { session: Arc::new(session), host: host.to_string(), _directory: Arc::new(directory) })
    }

    /// The host, for people.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A command for the host's login shell.
    pub(crate) fn command(&self, text: &str) -> OwningCommand<Arc<Session>> {
        Arc::clone(&self.session).arc_raw_command(text)
    }
}

fn builder(host: &Host, directory: &Utf8Path) -> Result<SessionBuilder, SshError> {
    let Host { destination, port, identity, trust, connect_timeout } = host;
    let config = directory.join("config");
    write(&config, &configuration(trust, directory))?;
    if let Trust::Key(key) = trust {
        write(&known_hosts(directory), &format!("{ALIAS} {}\n", key.as_str()))?;
    }
    let mut builder = SessionBuilder::default();
    builder
        .known_hosts_check(KnownHosts::Strict)
        .control_directory(directory)
        .control_persist(ControlPersist::IdleFor(IDLE))
        .connect_timeout(*connect_timeout)
        .server_alive_interval(ALIVE)
        .config_file(config);
    if let Some(user) = &destination.user {
        builder.user(user.clone());
    }
    if let Some(port) = port {
        builder.port(*port);
    }
    if let Some(identity) = identity {
        builder.keyfile(identity);
    }
    Ok(builder)
}

fn known_hosts(directory: &Utf8Path) -> Utf8PathBuf {
    directory.join("known_hosts")
}

/// ssh's configuration. The first value of an option counts, so what must be comes before what the user says.
fn configuration(trust: &Trust, directory: &Utf8Path) -> String {
    let mut text = String::from(
        "LogLevel INFO\nForwardAgent no\nForwardX11 no\nPermitLocalCommand no\nClearAllForwardings yes\n\
         VisualHostKey no\nUpdateHostKeys no\nTCPKeepAlive yes\n",
    );
    let only = |file: &Utf8Path| {
        format!("UserKnownHostsFile \"{file}\"\nGlobalKnownHostsFile none\nVerifyHostKeyDNS no\n")
    };
    match trust {
        Trust::User => {}
        Trust::File(file) => text.push_str(&only(file)),
        Trust::Key(_) => {
            text.push_str(&only(&known_hosts(directory)));
            text.push_str(&format!("HostKeyAlias {ALIAS}\nCheckHostIP no\n"));
        }
    }
    text.push_str("Include ~/.ssh/config\nMatch all\nInclude /etc/ssh/ssh_config\n");
    text
}

/// A directory for ssh's socket, which must have a short path. Those of processes that were killed are removed.
fn directory() -> Result<tempfile::TempDir, SshError> {
    let place = std::env::temp_dir();
    let place = Utf8PathBuf::from_path_buf(place).unwrap_or_else(|_| "/tmp".into());
    let place = if place.as_str().len() > 40 { Utf8PathBuf::from("/tmp") } else { place };
    sweep(&place);
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(&place);
    made.map_err(io_error("make a directory in", &place))
}

fn sweep(place: &Utf8Path) {
    for entry in place.read_dir_utf8().into_iter().flatten().filter_map(Result::ok) {
        let process = entry.file_name().strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let is_gone =
            |process: &str| process.parse::<u32>().is_ok() && !Utf8Path::new("/proc").join(process).exists();
        if process.is_some_and(is_gone) {
            // Another user's is not ours to remove.
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn write(path: &Utf8Path, text: &str) -> Result<(), SshError> {
    fs::write(path, text).map_err(io_error("write", path))
}

pub(crate) fn io_error(action: &'static str, path: &Utf8Path) -> impl FnOnce(io::Error) -> SshError {
    let path = path.to_owned();
    move |source| SshError::Io { action, path, source }
}

fn understood(host: &Host, error: &openssh::Error) -> SshError {
    match error {
        openssh::Error::Connect(cause) if cause.kind() == io::ErrorKind::NotFound => SshError::NoClient,
        openssh::Error::Connect(cause) => SshError::of_client(&host.to_string(), &cause.to_string()),
        other => SshError::Unreachable { host: host.to_string(), reason: chain(other) },
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_key_is_the_only_one_that_counts() {
        let key = Trust::Key("ssh-ed25519 AAAAC3".parse().unwrap());
        let text = configuration(&key, Utf8Path::new("/d"));
        let options: Vec<&str> = text.lines().collect();
        let place = |line: &str| options.iter().position(|option| *option == line);
        let user = place("Include ~/.ssh/config");
        for option in
            ["UserKnownHostsFile \"/d/known_hosts\"", "GlobalKnownHostsFile none", "HostKeyAlias olbake-host"]
        {
            assert!(place(option).is_some() && place(option) < user, "{option}");
        }
    }
}
