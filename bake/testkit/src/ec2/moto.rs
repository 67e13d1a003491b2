//! moto, as a child process: installed from PyPI once, mended by `moto/mends.py`, ended with its owner.

use std::fs::File;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::error::{CloudError, io_error};

/// What is installed. `mends.py` changes its classes, so the minor version is fixed.
const REQUIREMENT: &str = "moto[server]==5.2.*";
/// Its file is there when the installation is whole.
const MARK: &str = "installed-5.2";
/// How long it may take to import itself, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is run, and what it needs beside it.
const FILES: [(&str, &str); 10] = [
    ("launch.py", include_str!("moto/launch.py")),
    ("mends.py", include_str!("moto/mends.py")),
    ("common.py", include_str!("moto/common.py")),
    ("images.py", include_str!("moto/images.py")),
    ("instances.py", include_str!("moto/instances.py")),
    ("groups.py", include_str!("moto/groups.py")),
    ("balancers.py", include_str!("moto/balancers.py")),
    ("models.py", include_str!("moto/models.py")),
    ("rest.py", include_str!("moto/rest.py")),
    ("services.py", include_str!("moto/services.py")),
];

/// A running moto. It ends when this is dropped, and when this process ends, however it does: its standard input
/// is then at its end.
pub(super) struct Moto {
    /// Where it answers, on the loopback.
    pub(super) port: u16,
    _alive: ChildStdin,
    _output: ChildStdout,
    _child: Child,
}

impl Moto {
    /// Installs moto if it is not there, starts it and waits until it answers.
    pub(super) async fn start(root: &Utf8Path, environment: &[(&str, &str)]) -> Result<Self, CloudError> {
        let python = installed().await?;
        let folder = root.join("moto");
        std::fs::create_dir_all(&folder).map_err(io_error("cannot make", &folder))?;
        FILES.iter().try_for_each(|(name, text)| write(&folder.join(name), text))?;
        let log = root.join("moto.log");
        let errors = File::create(&log).map_err(io_error("cannot make", &log))?;
        let mut child = Command::new(&python)
            .arg(folder.join("launch.py"))
            .envs(environment.iter().copied())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(io_error("cannot run", &python))?;
        let alive = child.stdin.take().expect("its input is piped");
        let mut output = BufReader::new(child.stdout.take().expect("its output is piped"));
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, output.read_line(&mut line)).await;
        read.map_err(|_| CloudError::Moto(log.clone()))?.map_err(io_error("cannot read", &log))?;
        let port = line.trim().parse().map_err(|_| CloudError::Moto(log))?;
        Ok(Self { port, _alive: alive, _output: output.into_inner(), _child: child })
    }
}

fn write(path: &Utf8Path, text: &str) -> Result<(), CloudError> {
    std::fs::write(path, text).map_err(io_error("cannot write", path))
}

/// Where the installation is: beside olbake's own caches, since every checkout shares it.
fn home() -> Result<Utf8PathBuf, CloudError> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty()).map(Utf8PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    Ok(cache.ok_or(CloudError::NoHome)?.join("olbake/moto"))
}

/// The Python interpreter that finds moto; installs it when it is not there.
pub(super) async fn installed() -> Result<Utf8PathBuf, CloudError> {
    let home = home()?;
    let python = home.join("bin/python");
    if home.join(MARK).exists() {
        return Ok(python);
    }
    let folder = home.parent().expect("it lies in the cache").to_owned();
    std::fs::create_dir_all(&folder).map_err(io_error("cannot make", &folder))?;
    let lock = folder.join("moto.lock");
    let file = File::create(&lock).map_err(io_error("cannot make", &lock))?;
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
    let _held = locked.expect("locking does not panic").map_err(io_error("cannot lock", &lock))?;
    if !home.join(MARK).exists() {
        run("python3", &["-m", "venv", home.as_str()]).await?;
        run(python.as_str(), &["-m", "pip", "install", "--quiet", REQUIREMENT]).await?;
        write(&home.join(MARK), REQUIREMENT)?;
    }
    Ok(python)
}

async fn run(program: &str, arguments: &[&str]) -> Result<(), CloudError> {
    let failed = |reason: String| CloudError::Install {
        command: format!("{program} {}", arguments.join(" ")),
        reason,
    };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().await;
    let output = output.map_err(|error: io::Error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
