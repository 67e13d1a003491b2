//! Measures every figure side by side with its peer or floor, in one run.
//!
//! A figure that is a ratio has both of its sides measured here and now, so that it means the same on any machine;
//! figures in seconds or megabytes are of this machine and are marked so in docs/benchmarks.md. Main type:
//! [`Figure`].

mod bake;
mod boot;
mod cloud;
mod ec2;
mod plan;
mod preview;
mod process;
mod publish;
mod refresh;
mod rollout;
mod ssh;
mod store;
mod workspace;

use anyhow::Result;

use crate::build::{self, Built};
use crate::setup;

/// What a figure must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// Nothing: it is kept for the record.
    Record,
}

/// One measured figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// Its name: `bake.cold.ratio`.
    pub(crate) name: &'static str,
    /// The value.
    pub(crate) value: f64,
    /// Its unit: `s`, `MB`, `×`.
    pub(crate) unit: &'static str,
    /// What it was measured against, with that one's own value.
    pub(crate) against: String,
    /// What it must reach.
    pub(crate) target: Target,
}

/// Measures some figures that share their set-up.
struct Group {
    /// The figures it gives.
    names: &'static [&'static str],
    measure: fn(&Built) -> Result<Vec<Figure>>,
}

const GROUPS: [Group; 10] = [
    Group { names: &plan::FIGURES, measure: plan::measure },
    Group { names: &preview::FIGURES, measure: preview::measure },
    Group { names: &refresh::FIGURES, measure: refresh::measure },
    Group { names: &store::FIGURES, measure: store::measure },
    Group { names: &bake::FIGURES, measure: bake::measure },
    Group { names: &boot::FIGURES, measure: boot::measure },
    Group { names: &rollout::FIGURES, measure: rollout::measure },
    Group { names: &ssh::FIGURES, measure: ssh::measure },
    Group { names: &publish::FIGURES, measure: publish::measure },
    Group { names: &ec2::FIGURES, measure: ec2::measure },
];

/// Measures the figures whose names begin with one of `wanted`; all, when none is wanted.
pub(crate) fn run(wanted: &[String], json: bool) -> Result<()> {
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|prefix| name.starts_with(prefix));
    if let Some(unknown) = wanted.iter().find(|prefix| !all_names().any(|name| name.starts_with(*prefix))) {
        anyhow::bail!(
            "no figure is named `{unknown}`; there are {}",
            all_names().collect::<Vec<_>>().join(", ")
        );
    }
    setup::run()?;
    let built = build::release()?;
    let mut missed = Vec::new();
    let mut failed: Vec<&str> = Vec::new();
    for group in GROUPS.iter().filter(|group| group.names.iter().any(|name| is_wanted(name))) {
        let figures = match (group.measure)(&built) {
            Ok(figures) => figures,
            Err(error) => {
                eprintln!("cannot measure {}: {error:#}", group.names.join(", "));
                failed.extend(group.names);
                continue;
            }
        };
        for figure in figures.iter().filter(|figure| is_wanted(figure.name)) {
            print(figure, json);
            if !figure.holds() {
                missed.push(figure.name);
            }
        }
    }
    if !missed.is_empty() {
        eprintln!("not reached: {}", missed.join(", "));
    }
    anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

fn all_names() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|group| group.names.iter().copied())
}

impl Figure {
    fn holds(&self) -> bool {
        match self.target {
            Target::AtMost(limit) => self.value <= limit,
            Target::AtLeast(limit) => self.value >= limit,
            Target::Record => true,
        }
    }

    fn target_text(&self) -> String {
        match self.target {
            Target::AtMost(limit) => format!("≤ {limit}"),
            Target::AtLeast(limit) => format!("≥ {limit}"),
            Target::Record => "for the record".to_owned(),
        }
    }
}

fn print(figure: &Figure, json: bool) {
    let Figure { name, value, unit, against, target: _ } = figure;
    let target = figure.target_text();
    if json {
        println!(
            "{}",
            serde_json::json!({ "figure": name, "value": value, "unit": unit, "against": against, "target": target })
        );
    } else {
        let verdict = if figure.holds() { " " } else { "!" };
        println!("{verdict} {name:<28} {value:>9.3} {unit:<3} {target:<16} {against}");
    }
}

/// The middle value.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
