//! Plans of a stack whose many resources did not change, from a recipe and a state on files; and what creates write there.

use std::process::Command;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use super::process::{self, Taken};
use super::{Figure, Target, median};
use crate::build::{self, Built};

pub(super) const FIGURES: [&str; 4] =
    ["preview.10k.seconds", "preview.10k.megabytes", "preview.linear.ratio", "state.bytes_per_create.ratio"];

const MANY: usize = 10_000;
const SOME: usize = 1_000;
const FEW: usize = 100;
const REPEATS: usize = 5;

pub(super) fn measure(_: &Built) -> Result<Vec<Figure>> {
    let planner = build::example("olbake-testkit", "preview_many")?;
    let scratch = Scratch::new()?;
    let stack = |count| Stack::make(&planner, &scratch, count);
    let (few, some, many) = (stack(FEW)?, stack(SOME)?, stack(MANY)?);
    let (some, megabytes_of_some) = some.preview()?;
    let (seconds, megabytes) = many.preview()?;
    let ratio = (seconds / MANY as f64) / (some / SOME as f64);
    let (at_few, at_many) = (few.bytes_per_create, many.bytes_per_create);
    Ok(vec![
        Figure {
            name: "preview.10k.seconds",
            value: seconds,
            unit: "s",
            against: format!(
                "recipe evaluated, state read from files and planned, nothing changed, not looked at; median of {REPEATS}"
            ),
            target: Target::AtMost(0.5),
        },
        Figure {
            name: "preview.10k.megabytes",
            value: megabytes,
            unit: "MB",
            against: format!("most of {REPEATS}; for 1,000 resources {megabytes_of_some:.1} MB"),
            target: Target::AtMost(150.0),
        },
        Figure {
            name: "preview.linear.ratio",
            value: ratio,
            unit: "×",
            against: format!("time per resource at 10,000 to that at 1,000 ({:.1} µs)", some * 1e3),
            target: Target::AtMost(1.2),
        },
        Figure {
            name: "state.bytes_per_create.ratio",
            value: at_many / at_few,
            unit: "×",
            against: format!(
                "bytes written per create at 10,000 ({at_many:.0}) to that at 100 ({at_few:.0})"
            ),
            target: Target::AtMost(1.1),
        },
    ])
}

/// A stack's state on files.
struct Stack<'a> {
    planner: &'a Utf8Path,
    folder: Utf8PathBuf,
    count: usize,
    bytes_per_create: f64,
}

impl<'a> Stack<'a> {
    fn make(planner: &'a Utf8Path, scratch: &Scratch, count: usize) -> Result<Self> {
        let folder = scratch.0.join(count.to_string());
        let mut stack = Self { planner, folder, count, bytes_per_create: 0.0 };
        stack.bytes_per_create = number(&process::run(&mut stack.command("make"))?, "bytes_per_create")?;
        Ok(stack)
    }

    fn command(&self, verb: &str) -> Command {
        let Self { planner, folder, count, .. } = self;
        let mut command = Command::new(planner);
        command.args([verb, folder.as_str(), &count.to_string()]);
        command
    }

    /// The seconds that a plan takes, and the megabytes of a process that makes one.
    fn preview(&self) -> Result<(f64, f64)> {
        let (mut seconds, mut megabytes) = (Vec::new(), 0.0_f64);
        for _ in 0..REPEATS {
            let (taken, most) = process::watched(&mut self.command("read"))?;
            seconds.push(number(&taken, "seconds")?);
            megabytes = megabytes.max(most);
        }
        Ok((median(seconds), megabytes))
    }
}

fn number(taken: &Taken, name: &str) -> Result<f64> {
    let said: Value = serde_json::from_str(&taken.stdout)?;
    said[name].as_f64().with_context(|| format!("no `{name}` in {said}"))
}

/// A folder that is removed at the end.
struct Scratch(Utf8PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let folder = Utf8PathBuf::try_from(std::env::temp_dir())?
            .join(format!("olbake-preview-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make `{folder}`"))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is in the folder for temporary things.
        drop(std::fs::remove_dir_all(&self.0));
    }
}
