//! From the start of a machine to its checks passed, for the record.

use anyhow::Result;

use super::workspace::Workspace;
use super::{Figure, Target, median, process};
use crate::build::Built;

pub(super) const FIGURES: [&str; 2] = ["boot.container.seconds", "boot.vm.seconds"];

pub(super) fn measure(built: &Built) -> Result<Vec<Figure>> {
    let workspace = Workspace::copy("boot")?;
    process::run(&mut workspace.olbake(built, &["bake", "web", "--json"]))?;
    let mut container = Vec::new();
    for _ in 0..3 {
        container.push(process::run(&mut workspace.olbake(built, &["verify", "web", "--json"]))?.seconds);
    }
    let vm = process::run(&mut workspace.olbake(built, &["verify", "web", "--vm", "--json"]))?.seconds;
    let figure = |name, value, against: &str| Figure {
        name,
        value,
        unit: "s",
        against: against.to_owned(),
        target: Target::Record,
    };
    Ok(vec![
        figure("boot.container.seconds", median(container), "median of 3 runs of `olbake verify web`"),
        figure("boot.vm.seconds", vm, "one run of `olbake verify web --vm`"),
    ])
}
