//! Calls of AWS that it takes to look at many resources, counted by the test cloud.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use super::cloud::{Cloud, Instances};
use super::{Figure, Target};
use crate::build::{self, Built, Profile};

pub(super) const FIGURES: [&str; 1] = ["refresh.1k.calls"];

const MANY: usize = 1_000;

pub(super) fn measure(_: &Built) -> Result<Vec<Figure>> {
    let looker = build::aws_example("refresh_many")?;
    let cloud = build::test_cloud(Profile::Dev)?;
    let folder =
        Utf8PathBuf::try_from(std::env::temp_dir())?.join(format!("olbake-refresh-{}", std::process::id()));
    std::fs::create_dir(&folder).with_context(|| format!("cannot make `{folder}`"))?;
    let measured = look(&cloud, &looker, &folder);
    // What cannot be removed is in the folder for temporary things.
    drop(std::fs::remove_dir_all(&folder));
    let (calls, seconds) = measured?;
    Ok(vec![Figure {
        name: FIGURES[0],
        value: calls,
        unit: "calls",
        against: format!("{MANY} resources of 10 types looked at in {seconds:.1} s on the test cloud"),
        target: Target::AtMost(40.0),
    }])
}

/// The calls that looking takes, and the seconds.
fn look(cloud: &Utf8Path, looker: &Utf8Path, folder: &Utf8Path) -> Result<(f64, f64)> {
    let cloud = Cloud::start(cloud, &folder.join("cloud"), Instances::Records)?;
    let endpoint = cloud.endpoint();
    let mut looker = Command::new(looker)
        .args([endpoint.as_str(), folder.as_str(), &MANY.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(looker.stdout.take().context("its output is a pipe")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    ensure!(line.trim() == "made", "the resources could not be made");
    cloud.ask("DELETE", "/_calls", "")?;
    looker.stdin.take().context("its input is a pipe")?.write_all(b"look\n")?;
    let mut rest = String::new();
    said.read_to_string(&mut rest)?;
    ensure!(looker.wait()?.success(), "the resources could not be looked at");
    let said: Value = serde_json::from_str(&rest)?;
    let calls =
        cloud.ask("GET", "/_calls", "")?["total"].as_f64().context("the test cloud counts no calls")?;
    Ok((calls, said["seconds"].as_f64().context("no `seconds`")?))
}
