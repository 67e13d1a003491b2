//! Bakes of the example image `web`: from nothing, with nothing changed, with one template changed.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use camino::Utf8Path;
use serde_json::Value;

use super::workspace::Workspace;
use super::{Figure, Target, median, process};
use crate::build::Built;

pub(super) const FIGURES: [&str; 5] = [
    "bake.cold.ratio",
    "bake.peak.megabytes",
    "bake.noop.seconds",
    "bake.noop.megabytes",
    "bake.change.seconds",
];

/// How often short bakes are repeated.
const REPEATS: usize = 5;

pub(super) fn measure(built: &Built) -> Result<Vec<Figure>> {
    let workspace = Workspace::copy("bake")?;
    let (cold, cold_megabytes) = process::watched(&mut workspace.olbake(built, &["bake", "web", "--json"]))?;
    let packages = installed(built, &workspace)?;
    let floor = floor(&workspace, &packages)?;

    let mut noop = Vec::new();
    let mut noop_megabytes = 0.0_f64;
    for _ in 0..REPEATS {
        noop.push(process::run(&mut workspace.olbake(built, &["bake", "web", "--json"]))?.seconds);
        let (_, megabytes) = process::watched(&mut workspace.olbake(built, &["bake", "web", "--json"]))?;
        noop_megabytes = noop_megabytes.max(megabytes);
    }

    let mut change = Vec::new();
    for number in 0..REPEATS {
        change_template(workspace.path(), number)?;
        let taken = process::run(&mut workspace.olbake(built, &["bake", "web", "--json"]))?;
        only_the_last_layer_ran(&taken.stdout)?;
        change.push(taken.seconds);
    }

    let floor_text =
        format!("mmdebstrap with the same {} packages + mke2fs -d: {floor:.1} s", packages.len());
    Ok(vec![
        Figure {
            name: "bake.cold.ratio",
            value: cold.seconds / floor,
            unit: "×",
            against: format!("{:.1} s; {floor_text}", cold.seconds),
            target: Target::AtMost(1.25),
        },
        Figure {
            name: "bake.peak.megabytes",
            value: cold_megabytes,
            unit: "MB",
            against: "olbake itself during the cold bake".to_owned(),
            target: Target::AtMost(300.0),
        },
        Figure {
            name: "bake.noop.seconds",
            value: median(noop),
            unit: "s",
            against: format!("median of {REPEATS}, process start included"),
            target: Target::AtMost(0.15),
        },
        Figure {
            name: "bake.noop.megabytes",
            value: noop_megabytes,
            unit: "MB",
            against: format!("most of {REPEATS}"),
            target: Target::AtMost(100.0),
        },
        Figure {
            name: "bake.change.seconds",
            value: median(change),
            unit: "s",
            against: format!("median of {REPEATS}; seal, fresh boot and checks included"),
            target: Target::AtMost(3.0),
        },
    ])
}

/// The packages of the baked image, from its own dpkg.
fn installed(built: &Built, workspace: &Workspace) -> Result<Vec<String>> {
    let archive = workspace.path().join("web.tar.zst");
    process::run(
        &mut workspace.olbake(built, &["export", "web", "--format", "tar.zst", "--output", archive.as_str()]),
    )?;
    let status = process::run(Command::new("tar").args([
        "--zstd",
        "-xOf",
        archive.as_str(),
        "./var/lib/dpkg/status",
    ]))?;
    std::fs::remove_file(&archive)?;
    let mut packages = Vec::new();
    for paragraph in status.stdout.split("\n\n") {
        let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if field("Status:") == Some("install ok installed") {
            packages.extend(field("Package:").map(str::to_owned));
        }
    }
    ensure!(packages.len() > 50, "the image has only {} packages", packages.len());
    Ok(packages)
}

/// Seconds for the least that makes the same files: mmdebstrap with the same packages, and one ext4 from them.
fn floor(workspace: &Workspace, packages: &[String]) -> Result<f64> {
    let root = workspace.path().join("floor");
    let disk = workspace.path().join("floor.ext4");
    let include = format!("--include={}", packages.join(","));
    let made = process::run(Command::new("mmdebstrap").args([
        "--quiet",
        "--variant=essential",
        &include,
        "bookworm",
        root.as_str(),
    ]))?;
    let populated = process::run(Command::new("mke2fs").args([
        "-q",
        "-t",
        "ext4",
        "-d",
        root.as_str(),
        disk.as_str(),
        "4G",
    ]))?;
    std::fs::remove_dir_all(&root)?;
    std::fs::remove_file(&disk)?;
    Ok(made.seconds + populated.seconds)
}

/// Adds a comment to the template of the last component.
fn change_template(workspace: &Utf8Path, number: usize) -> Result<()> {
    let template = workspace.join("components/hello/templates/hello.toml.j2");
    let text = std::fs::read_to_string(&template).with_context(|| format!("cannot read `{template}`"))?;
    std::fs::write(&template, format!("{text}# change {number}\n"))?;
    Ok(())
}

fn only_the_last_layer_ran(stdout: &str) -> Result<()> {
    let last = stdout.lines().last().context("the bake wrote nothing")?;
    let result: Value = serde_json::from_str(last)?;
    ensure!(result["event"] == "result", "the bake did not end with its result: {last}");
    let layers = result["layers"].as_array().context("the result has no layers")?;
    let ran: Vec<&Value> = layers.iter().filter(|layer| layer["outcome"] == "run").collect();
    ensure!(
        ran.len() == 1 && layers.last() == ran.first().copied(),
        "more than the last component ran: {ran:?}"
    );
    Ok(())
}
