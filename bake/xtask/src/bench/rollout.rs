//! Rollouts in the local cloud: requests that fail while instances are replaced, the time that takes beside what one
//! instance takes, and what a large group costs.

use std::time::Duration;

use anyhow::{Context, Result};
use olbake_testkit::load::{Load, Report};

use super::workspace::Workspace;
use super::{Figure, Target, process};
use crate::build::Built;

pub(super) const FIGURES: [&str; 5] = [
    "rollout.failed_requests",
    "rollout.failed_requests.blue_green",
    "rollout.ratio",
    "group.start.seconds",
    "group.megabytes",
];

/// Requests a second.
const RATE: u32 = 250;
/// Instances of the large group.
const MANY: u32 = 50;
const STACK: &str = "applications.bench.QA";

const RECIPE: &str = r##"
load("//stacks/components/service.star", "service")

Config = settings(name = "bench", fields = {
    "release": setting(int, default = 1, doc = "another number is another release"),
    "size": setting(int, default = 3, doc = "instances"),
    "strategy": setting(str, default = "rolling", doc = "how they are replaced"),
    "balancer": setting(bool, default = True, doc = "whether something stands in front of them"),
})

BOUNDS = {"min_ready": "0s", "bake": "0s", "health_deadline": "300s", "progress_deadline": "900s"}

def stack(c, ctx):
    network = local.network("network", cidr = "10.93.0.0/22")
    boot = "#cloud-config\n# release %d\n" % c.release
    if c.balancer:
        web = service(
            "web",
            image = ctx.image("web"),
            network = struct(network_id = network.id),
            size = c.size,
            user_data = boot,
            strategy = {"kind": c.strategy, "weights": [50, 100], "bake": "1s", "keep_old": "0s"},
            rollout = BOUNDS,
        )
        output("url", web.url)
    else:
        local.instance_group(
            "group",
            image = ctx.image("web"),
            network = network.id,
            size = c.size,
            strategy = {"kind": "rolling"},
            rollout = BOUNDS,
        )

project(config = Config, stack = stack)
"##;

struct Bench<'a> {
    workspace: Workspace,
    built: &'a Built,
}

pub(super) fn measure(built: &Built) -> Result<Vec<Figure>> {
    let workspace = Workspace::copy("rollout")?;
    let folder = workspace.path().join("stacks/applications/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("stack.star"), RECIPE)?;
    std::fs::write(folder.join("QA.toml"), "")?;
    let bench = Bench { workspace, built };
    let measured = bench.measure();
    let cleaned = bench.destroy();
    let figures = measured?;
    cleaned?;
    Ok(figures)
}

impl Bench<'_> {
    fn measure(&self) -> Result<Vec<Figure>> {
        process::run(&mut self.workspace.olbake(self.built, &["bake", "web", "--channel", "QA", "--json"]))?;
        self.deploy(&["bench.size=1", "bench.release=1"])?;
        let one = boot_and_drain(&self.run(&["bench.size=1", "bench.release=2"])?.stdout)?;
        self.deploy(&["bench.release=2"])?;
        let (rolling, report) = self.under_load(&["bench.release=3"])?;
        let (_, blue_green) = self.under_load(&["bench.release=4", "bench.strategy=blue_green"])?;
        self.destroy()?;
        let free = available()?;
        let size = format!("bench.size={MANY}");
        let many = self.deploy(&["bench.balancer=false", &size])?;
        let taken = free - available()?;
        let sent = |report: &Report| format!("of {} at {RATE} a second, 3 instances replaced", report.sent);
        let each = f64::from(MANY);
        #[allow(clippy::cast_precision_loss, reason = "counts of requests")]
        let failed = |name, report: &Report| Figure {
            name,
            value: report.failed as f64,
            unit: "",
            against: sent(report),
            target: Target::AtMost(0.0),
        };
        Ok(vec![
            failed("rollout.failed_requests", &report),
            failed("rollout.failed_requests.blue_green", &blue_green),
            Figure {
                name: "rollout.ratio",
                value: rolling / (3.0 * one),
                unit: "×",
                against: format!("3 × boot and drain of one instance, {one:.1} s"),
                target: Target::AtMost(1.3),
            },
            Figure {
                name: "group.start.seconds",
                value: many / each,
                unit: "s",
                against: format!("each of {MANY} instances of `web`, all at once: {many:.1} s"),
                target: Target::Record,
            },
            Figure {
                name: "group.megabytes",
                value: taken / each,
                unit: "MB",
                against: format!("each of {MANY} instances of `web`, by what the host has available"),
                target: Target::Record,
            },
        ])
    }

    /// Deploys with some settings; the seconds it took.
    fn deploy(&self, settings: &[&str]) -> Result<f64> {
        Ok(self.run(settings)?.seconds)
    }

    fn run(&self, settings: &[&str]) -> Result<process::Taken> {
        let mut arguments = vec!["deploy", "--yes", "--json", "--stack", STACK];
        for setting in settings {
            arguments.extend(["--set", setting]);
        }
        process::run(&mut self.workspace.olbake(self.built, &arguments))
    }

    fn under_load(&self, settings: &[&str]) -> Result<(f64, Report)> {
        let mut outputs = self.workspace.olbake(self.built, &["outputs", "--stack", STACK, "url"]);
        let url = process::run(&mut outputs)?.stdout;
        let address = url.trim().strip_prefix("http://").context("the service has a URL")?.parse()?;
        let load = Load::start(address, "/", RATE);
        let seconds = self.deploy(settings);
        std::thread::sleep(Duration::from_secs(1));
        let report = load.stop();
        for (at, why) in &report.failures {
            eprintln!("failed at {at:.1} s: {why}");
        }
        Ok((seconds?, report))
    }

    fn destroy(&self) -> Result<()> {
        process::run(
            &mut self.workspace.olbake(self.built, &["destroy", "--yes", "--json", "--stack", STACK]),
        )
        .map(drop)
    }
}

/// Seconds from the launch of the one new instance until it is in service, and from when the old one begins to leave
/// until it is gone, of the report among a deploy's events. Times are in milliseconds.
fn boot_and_drain(events: &str) -> Result<f64> {
    let events = events.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut reports = events.filter(|event| event["report"]["instances"].is_array());
    let report = reports.next_back().context("the deploy told of no rollout")?;
    let instances = report["report"]["instances"].as_array().into_iter().flatten();
    let (mut boot, mut drain) = (None, None);
    for instance in instances {
        let at = |name: &str| instance["times"][name].as_f64();
        if let (Some(launched), Some(in_service)) = (at("launched"), at("in_service")) {
            boot = Some(in_service - launched);
        } else if let (Some(leaving), Some(gone)) = (at("leaving"), at("gone")) {
            drain = Some(gone - leaving);
        }
    }
    let (boot, drain) = (boot.context("no instance came")?, drain.context("no instance left")?);
    Ok((boot + drain) / 1000.0)
}

/// Megabytes that the host could give to programs.
fn available() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1000.0)
}
