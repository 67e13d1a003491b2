//! Runs a command and tells what it took.

use std::io::Read as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a command took.
pub(super) struct Taken {
    /// Wall time.
    pub(super) seconds: f64,
    /// What it wrote.
    pub(super) stdout: String,
}

/// Runs a command that must succeed. Nothing looks at it while it runs.
pub(super) fn run(command: &mut Command) -> Result<Taken> {
    run_with(command, |child, _| Ok(child.wait()?))
}

/// The same, and the most megabytes the process itself had resident (not its children), as its `VmHWM` last said.
pub(super) fn watched(command: &mut Command) -> Result<(Taken, f64)> {
    let mut kilobytes = 0.0_f64;
    let taken = run_with(command, |child, began| {
        let status = format!("/proc/{}/status", child.id());
        loop {
            kilobytes = kilobytes.max(high_water(&status).unwrap_or(0.0));
            if let Some(ended) = child.try_wait()? {
                return Ok(ended);
            }
            let pause = if began.elapsed() < Duration::from_secs(1) { 1 } else { 20 };
            std::thread::sleep(Duration::from_millis(pause));
        }
    })?;
    Ok((taken, kilobytes / 1000.0))
}

fn run_with(
    command: &mut Command,
    wait: impl FnOnce(&mut Child, Instant) -> Result<ExitStatus>,
) -> Result<Taken> {
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
    let ended = wait(&mut child, began)?;
    let seconds = began.elapsed().as_secs_f64();
    let stdout = hear.join().expect("reading does not panic")?;
    let stderr = complaints.join().expect("reading does not panic")?;
    if !ended.success() {
        // With `--json` the error is the last of what it wrote.
        bail!("{shown} failed with {ended}:\n{stderr}{}", stdout.lines().last().unwrap_or_default());
    }
    Ok(Taken { seconds, stdout })
}

fn high_water(status: &str) -> Option<f64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
