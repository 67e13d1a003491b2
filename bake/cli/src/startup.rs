//! What the outside says once, when the process starts: environment, directory, time, terminal. Everything below
//! `main` gets it from here, so that a test can say all of it. Main type: [`Startup`].

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::SystemTime;

use camino::Utf8PathBuf;

use crate::errors::CliError;

/// Columns to use where nobody says how many there are.
const DEFAULT_WIDTH: usize = 100;

/// The world at the start.
#[derive(Clone, Debug)]
pub(crate) struct Startup {
    /// Environment variables; those that are not UTF-8 are none of olbake's.
    pub(crate) env: BTreeMap<String, String>,
    /// The working directory.
    pub(crate) cwd: Utf8PathBuf,
    /// This executable's file: the agent lies beside it.
    pub(crate) executable: Utf8PathBuf,
    /// The time of day.
    pub(crate) now: SystemTime,
    /// Where output goes.
    pub(crate) terminal: Terminal,
}

/// Where output goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// Standard output is a terminal.
    pub(crate) stdout: bool,
    /// Standard error is a terminal.
    pub(crate) stderr: bool,
    /// Standard input is a terminal.
    pub(crate) stdin: bool,
    /// Columns.
    pub(crate) width: usize,
}

impl Terminal {
    /// Whether there is a person who can be asked.
    pub(crate) fn asks(&self) -> bool {
        self.stdin && self.stderr
    }
}

impl Startup {
    /// Asks the process for all of it.
    pub(crate) fn collect() -> Result<Self, CliError> {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let cwd = std::env::current_dir().map_err(|error| {
            CliError::environment(anyhow::Error::new(error).context("cannot use the working directory"))
        })?;
        let cwd = Utf8PathBuf::from_path_buf(cwd).map_err(|path| {
            CliError::environment(anyhow::anyhow!("the path of the working directory is not UTF-8: {path:?}"))
        })?;
        // Without it, only what starts machines has to give up.
        let executable = std::env::current_exe().ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
        let executable = executable.unwrap_or_else(|| "olbake".into());
        let terminal = Terminal {
            stdout: std::io::stdout().is_terminal(),
            stderr: std::io::stderr().is_terminal(),
            stdin: std::io::stdin().is_terminal(),
            width: width(&env),
        };
        Ok(Self { env, cwd, executable, now: SystemTime::now(), terminal })
    }
}

fn width(env: &BTreeMap<String, String>) -> usize {
    let said = env.get("COLUMNS").and_then(|text| text.parse().ok());
    let measured = || {
        terminal_size::terminal_size_of(std::io::stderr())
            .or_else(|| terminal_size::terminal_size_of(std::io::stdout()))
            .map(|(width, _)| usize::from(width.0))
    };
    said.or_else(measured).filter(|width| *width >= 20).unwrap_or(DEFAULT_WIDTH)
}
