//! Planning of many images: 20 components each, as many images as there are.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Figure, Target, median, process};
use crate::build::{self, Built};

pub(super) const FIGURES: [&str; 2] = ["plan.thousand.seconds", "plan.linear.ratio"];

const COMPONENTS: usize = 20;
const REPEATS: usize = 3;

pub(super) fn measure(_: &Built) -> Result<Vec<Figure>> {
    let planner = build::example("olbake-lang", "plan_many")?;
    let seconds = |images: usize| -> Result<f64> {
        let mut runs = Vec::new();
        for _ in 0..REPEATS {
            let taken =
                process::run(Command::new(&planner).args([images.to_string(), COMPONENTS.to_string()]))?;
            let said: Value = serde_json::from_str(&taken.stdout)?;
            runs.push(said["seconds"].as_f64().context("the planner named no seconds")?);
        }
        Ok(median(runs))
    };
    let (hundred, thousand) = (seconds(100)?, seconds(1000)?);
    Ok(vec![
        Figure {
            name: "plan.thousand.seconds",
            value: thousand,
            unit: "s",
            against: format!("1,000 images × {COMPONENTS} components, read and planned; median of {REPEATS}"),
            target: Target::AtMost(1.0),
        },
        Figure {
            name: "plan.linear.ratio",
            value: (thousand / 1000.0) / (hundred / 100.0),
            unit: "×",
            against: format!("time per image at 1,000 to that at 100 ({:.2} ms)", hundred * 10.0),
            target: Target::AtMost(1.2),
        },
    ])
}
