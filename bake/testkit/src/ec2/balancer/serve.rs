//! The HAProxy of one load balancer: started, and replaced when it is to do something else. Main type: [`Serving`].

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_local::disk_machine::HostProcess;

/// How long a new process may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
const SOCKET: &str = "admin.sock";
const CONFIGURATION: &str = "haproxy.cfg";

/// The new process takes over the listeners of the one before, which ends its connections.
const SCRIPT: &str = r#"# Written by olbake.
serve() {
    haproxy -db -f haproxy.cfg "$@" &
    child=$!
}
trap 'serve -x admin.sock -sf "$child"' HUP
serve
while :; do
    wait "$child"
    kill -0 "$child" 2>/dev/null && continue
    sleep 0.2
    serve
done
"#;

/// A balancer's process. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Serving {
    folder: Utf8PathBuf,
    process: Option<HostProcess>,
    served: String,
}

impl Serving {
    pub(super) fn new(folder: Utf8PathBuf) -> Self {
        Self { folder, process: None, served: String::new() }
    }

    /// Serves by a configuration, which may be the one that is served already; why not, if it cannot be.
    pub(super) async fn serve(&mut self, text: String) -> Result<(), String> {
        let runs = self.process.as_mut().is_some_and(HostProcess::runs);
        if runs && self.served == text {
            return Ok(());
        }
        let Self { folder, process, .. } = self;
        let (folder, taken) = (folder.clone(), process.take());
        let marked = mark(&text);
        let done = tokio::task::spawn_blocking(move || {
            let mut process = taken.filter(|_| runs);
            let served = replace(&folder, &mut process, &marked);
            (process, served)
        });
        let (process, served) = done.await.map_err(|error| error.to_string())?;
        self.process = process;
        if served.is_ok() {
            self.served = text;
        }
        served
    }
}

/// A configuration with a word that tells it from others, and the word.
fn mark(text: &str) -> (String, String) {
    let word = Digest::of(text.as_bytes()).short();
    (text.replacen("global\n", &format!("global\n    description olbake:{word}\n"), 1), word)
}

fn replace(
    folder: &Utf8Path,
    process: &mut Option<HostProcess>,
    (text, word): &(String, String),
) -> Result<(), String> {
    let write = || {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("serve.sh"), SCRIPT)?;
        let new = folder.join("haproxy.new");
        std::fs::write(&new, text)?;
        std::fs::rename(new, folder.join(CONFIGURATION))
    };
    write().map_err(|error| format!("cannot write the configuration in `{folder}`: {error}"))?;
    match process {
        Some(process) => process.hang_up().map_err(|error| error.to_string())?,
        None => {
            let started = HostProcess::start("sh", ["serve.sh"], folder, "haproxy.log");
            *process = Some(started.map_err(|error| error.to_string())?);
        }
    }
    let end = Instant::now() + ANSWER;
    while !description(folder).is_ok_and(|found| found == *word) {
        if Instant::now() >= end {
            let log = std::fs::read_to_string(folder.join("haproxy.log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            return Err(format!(
                "HAProxy does not serve: {}",
                last.into_iter().rev().collect::<Vec<_>>().join("; ")
            ));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// The word of the configuration that is served. By way of the open folder, because a socket's path must be short.
fn description(folder: &Utf8Path) -> std::io::Result<String> {
    let opened = File::open(folder)?;
    let mut stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()))?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"show info\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let word = answer.lines().find_map(|line| line.strip_prefix("description: olbake:"));
    Ok(word.unwrap_or_default().trim().to_owned())
}
