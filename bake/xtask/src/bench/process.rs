//! Runs a command and tells what it took.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a command took.
pub(super) struct Taken {
    /// Wall time.
    pub(super) seconds: f64,
    /// The most memory the process itself had resident (not its children), as its `VmHWM` last said.
    pub(super) megabytes: f64,
    /// What it wrote.
    pub(super) stdout: String,
}

/// Runs a command that must succeed.
pub(super) fn run(command: &mut Command) -> Result<Taken> {
    let shown = format!("{command:?}");
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let mut stdout = child.stdout.take().context("no stdout")?;
    let mut stderr = child.stderr.take().context("no stderr")?;
    let hear = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let complaints = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let status = format!("/proc/{}/status", child.id());
    let mut kilobytes = 0.0_f64;
    let ended = loop {
        kilobytes = kilobytes.max(high_water(&status).unwrap_or(0.0));
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        let pause = if began.elapsed() < Duration::from_secs(1) { 1 } else { 20 };
        std::thread::sleep(Duration::from_millis(pause));
    };
    let seconds = began.elapsed().as_secs_f64();
    let stdout = hear.join().expect("reading does not panic")?;
    let stderr = complaints.join().expect("reading does not panic")?;
    if !ended.success() {
        bail!("{shown} failed with {ended}:\n{stderr}");
    }
    Ok(Taken { seconds, megabytes: kilobytes / 1000.0, stdout })
}

fn high_water(status: &str) -> Option<f64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
