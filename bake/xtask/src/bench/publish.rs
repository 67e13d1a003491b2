//! A disk of 1.3 GB into a snapshot by EBS direct: all of it beside coldsnap on the same endpoint, which takes 50 ms
//! more for each call and which leaves out blocks of zeros, as olbake does, and then what differs after a file of 68 MB
//! in it has changed.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use super::cloud::{Cloud, Instances};
use super::workspace::Workspace;
use super::{Figure, Target, median, process};
use crate::build::{self, Built, Profile};

pub(super) const FIGURES: [&str; 2] = ["publish.coldsnap.ratio", "publish.delta.ratio"];

/// What each region gets a full upload of, so that none has a parent there.
const REGIONS: [&str; 3] = ["us-east-1", "us-west-2", "eu-west-1"];
/// The peer's version.
const COLDSNAP: &str = "0.12.0";
/// What makes the disk of `web` one of 1.3 GB, in MB.
const BALLAST: usize = 600;
/// What changes, in MB.
const CHANGE: usize = 68;
/// Bytes of a block.
const BLOCK: usize = 512 * 1024;

const COMPONENT: &str = r#"def install(s, m):
    files.put("/opt/FILE", "files/FILE", mode = 0o644)

component(name = "NAME", install = install)
"#;
const IMAGE: &str = r#"image(
    name = "heavy",
    base = "//images/web",
    components = [use("//components/ballast"), use("//components/change")],
)
"#;

pub(super) fn measure(built: &Built) -> Result<Vec<Figure>> {
    let coldsnap = coldsnap()?;
    let olbake = build::with_aws()?;
    let cloud = build::test_cloud(Profile::Release)?;
    let workspace = Workspace::copy("publish")?;
    add_image(workspace.path())?;
    bake(built, &workspace)?;
    let before = export(built, &workspace, "before.raw")?;

    let cloud = Cloud::start(&cloud, &workspace.path().join("cloud"), Instances::Records)?;
    cloud.ask("PUT", "/_behaviour", r#"{"latency_ms": 50, "visibility_ms": 0, "snapshot_ms": 0}"#)?;
    let publish = |region: &str| -> Result<(f64, f64)> {
        let mut command = Command::new(&olbake);
        command.args(["publish", "heavy", "--to", "ec2", "--region", region, "--yes", "--json"]);
        counted(&cloud, command.current_dir(workspace.path()))
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut our_blocks, mut their_blocks) = (0.0, 0.0);
    for region in REGIONS {
        let (seconds, blocks) = publish(region)?;
        ours.push(seconds);
        our_blocks = blocks;
        let mut command = Command::new(&coldsnap);
        command
            .args(["upload", "--wait", "--no-progress", "--omit-zero-blocks", before.as_str()])
            .env("AWS_REGION", region);
        let (seconds, blocks) = counted(&cloud, &mut command)?;
        theirs.push(seconds);
        their_blocks = blocks;
    }

    write_noise(&workspace.path().join("components/change/files/change"), CHANGE)?;
    bake(built, &workspace)?;
    let after = export(built, &workspace, "after.raw")?;
    let differ = differing(&before, &after)?;
    let (seconds, put) = publish(REGIONS[0])?;

    let (ours, theirs) = (median(ours), median(theirs));
    Ok(vec![
        Figure {
            name: FIGURES[0],
            value: theirs / ours,
            unit: "×",
            against: format!(
                "{ours:.1} s for {our_blocks:.0} blocks, registered as an image; coldsnap {COLDSNAP}: {theirs:.1} s for \
                 {their_blocks:.0}"
            ),
            target: Target::AtLeast(2.0),
        },
        Figure {
            name: FIGURES[1],
            value: put / differ,
            unit: "×",
            against: format!(
                "{put:.0} blocks put in {seconds:.1} s; {differ:.0} blocks of the disks differ, the file alone has {}",
                (CHANGE * 1_000_000).div_ceil(BLOCK)
            ),
            target: Target::AtMost(1.1),
        },
    ])
}

/// coldsnap from its crate, kept for the next time.
fn coldsnap() -> Result<Utf8PathBuf> {
    let home = std::env::var("HOME").context("HOME is not set")?;
    let root = Utf8PathBuf::from(home).join(".cache/olbake").join(format!("coldsnap-{COLDSNAP}"));
    let program = root.join("bin/coldsnap");
    if !program.exists() {
        eprintln!("compiling coldsnap, once: it takes some minutes");
        let version = format!("coldsnap@{COLDSNAP}");
        build::cargo(&["install", "--quiet", "--locked", "--root", root.as_str(), &version], &[])?;
    }
    Ok(program)
}

fn add_image(workspace: &Utf8Path) -> Result<()> {
    for (name, megabytes) in [("ballast", BALLAST), ("change", CHANGE)] {
        let folder = workspace.join("components").join(name);
        std::fs::create_dir_all(folder.join("files"))?;
        let component = COMPONENT.replace("FILE", name).replace("NAME", name);
        std::fs::write(folder.join("component.star"), component)?;
        write_noise(&folder.join("files").join(name), megabytes)?;
    }
    let image = workspace.join("images/heavy");
    std::fs::create_dir_all(&image)?;
    std::fs::write(image.join("image.star"), IMAGE)?;
    Ok(())
}

/// What no compressor makes smaller.
fn write_noise(path: &Utf8Path, megabytes: usize) -> Result<()> {
    let bytes = std::io::Read::take(File::open("/dev/urandom")?, megabytes as u64 * 1_000_000);
    std::io::copy(&mut { bytes }, &mut File::create(path).with_context(|| format!("cannot make `{path}`"))?)?;
    Ok(())
}

fn bake(built: &Built, workspace: &Workspace) -> Result<()> {
    process::run(&mut workspace.olbake(built, &["bake", "heavy", "--json"])).map(drop)
}

fn export(built: &Built, workspace: &Workspace, name: &str) -> Result<Utf8PathBuf> {
    let path = workspace.path().join(name);
    let arguments = ["export", "heavy", "--format", "raw", "--output", path.as_str()];
    process::run(&mut workspace.olbake(built, &arguments))?;
    Ok(path)
}

/// Seconds that a command takes, and the blocks that it puts.
fn counted(cloud: &Cloud, command: &mut Command) -> Result<(f64, f64)> {
    cloud.ask("DELETE", "/_calls", "")?;
    let given = command.get_envs().any(|(name, _)| name == "AWS_REGION");
    command.envs(cloud.environment().into_iter().filter(|(name, _)| !(given && *name == "AWS_REGION")));
    let taken = process::run(command)?;
    let counts = cloud.ask("GET", "/_calls", "")?;
    let put = counts["by_action"].get("ebs:PutSnapshotBlock").and_then(Value::as_f64);
    Ok((taken.seconds, put.context("no block was put")?))
}

/// Blocks in which two disks differ.
fn differing(before: &Utf8Path, after: &Utf8Path) -> Result<f64> {
    let (before, after) = (File::open(before)?, File::open(after)?);
    let size = before.metadata()?.len();
    ensure!(after.metadata()?.len() == size, "the disks are not of one size");
    let (mut one, mut other) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut count = 0.0;
    for offset in (0..size).step_by(BLOCK) {
        before.read_exact_at(&mut one, offset)?;
        after.read_exact_at(&mut other, offset)?;
        if one != other {
            count += 1.0;
        }
    }
    Ok(count)
}
