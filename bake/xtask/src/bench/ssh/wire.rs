//! Round trips, counted on the wire: a relay makes each take a known time, and what a run takes longer by it says how
//! often one side waited for the other.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use olbake_testkit::host::{Host, Relay};

use super::super::{median, process};
use super::Recipe;
use crate::build::Built;

/// What the relay adds each way: much more than anything else varies by.
const DELAY: Duration = Duration::from_millis(150);
const REPEATS: usize = 3;

/// Round trips beyond those of `ssh host true`, by the number of operations and whether the host has the agent.
pub(super) struct RoundTrips {
    few: f64,
    many: f64,
    pushed: f64,
}

impl RoundTrips {
    pub(super) fn most(&self) -> f64 {
        self.few.max(self.many).max(self.pushed)
    }

    pub(super) fn told(&self) -> String {
        let Self { few, many, pushed } = self;
        format!(
            "beyond `ssh host true`: {few:.0} for 10 operations, {many:.0} for 1,000, {pushed:.0} where the agent is pushed"
        )
    }
}

pub(super) fn round_trips(built: &Built) -> Result<RoundTrips> {
    let host = Host::start()?;
    let server = SocketAddr::from((host.address(), 22));
    let (near, far) = (Relay::start(server, Duration::ZERO)?, Relay::start(server, DELAY)?);
    let connecting = trips([&near, &far], |port| Ok(login(&host, port)))?;
    let count = |operations: usize, before: &dyn Fn() -> Result<()>| -> Result<f64> {
        let recipe = Recipe::of(
            &format!("wire-{operations}"),
            &[("components/bench/component.star", &component(operations))],
        )?;
        // What is counted is a run that has nothing to change.
        process::run(&mut recipe.command(built, &host, "127.0.0.1", near.port()))?;
        let all = trips([&near, &far], |port| {
            before()?;
            Ok(recipe.command(built, &host, "127.0.0.1", port))
        })?;
        Ok((all - connecting).round())
    };
    let nothing = || Ok(());
    let forget = || Ok(host.says("rm -rf /var/cache/olbake").map(drop)?);
    Ok(RoundTrips { few: count(10, &nothing)?, many: count(1000, &nothing)?, pushed: count(10, &forget)? })
}

/// How many round trips a command takes, by what it takes near and far.
fn trips(relays: [&Relay; 2], command: impl Fn(u16) -> Result<Command>) -> Result<f64> {
    let mut seconds = relays.iter().map(|relay| {
        let all: Result<Vec<f64>> =
            (0..REPEATS).map(|_| Ok(process::run(&mut command(relay.port())?)?.seconds)).collect();
        all.map(median)
    });
    let (near, far) = (seconds.next().unwrap_or(Ok(0.0))?, seconds.next().unwrap_or(Ok(0.0))?);
    Ok((far - near) / (2.0 * DELAY.as_secs_f64()))
}

fn login(host: &Host, port: u16) -> Command {
    let mut command = Command::new("ssh");
    command
        .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o"])
        .arg(format!("UserKnownHostsFile={}", host.known_hosts().display()))
        .args(["-o", "GlobalKnownHostsFile=none", "-o", "UpdateHostKeys=no", "-i"])
        .arg(host.identity())
        .args(["-p", &port.to_string(), "root@127.0.0.1", "true"]);
    command
}

fn component(operations: usize) -> String {
    let file = |n| format!("    files.content(\"/etc/wire/{n}\", \"file {n}\\n\")\n");
    let files: String = (1..operations).map(file).collect();
    format!(
        "def install(s, m):\n    files.directory(\"/etc/wire\")\n{files}\ncomponent(name = \"bench\", install = install)\n"
    )
}
