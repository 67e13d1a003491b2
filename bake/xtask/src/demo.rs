//! The demo: bakes the example images, deploys them to the local cloud, upgrades them by replacement under a load,
//! promotes them to Production, has a broken image rolled back by itself, and says what it did.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use olbake_testkit::load::{Load, Report};

use crate::build::{self, Built};
use crate::setup;

/// Requests a second while instances are replaced.
const RATE: u32 = 200;
/// The version of hello that the upgrade brings; the recipe's own is the one before.
const UPGRADE: &str = "1.1.0";
/// How long the load goes on after a deploy.
const AFTER: Duration = Duration::from_secs(2);

const NETWORKS: [&str; 2] = ["infrastructure.local.network.QA", "infrastructure.local.network.Production"];
const QA: &str = "applications.hello.QA";
const PRODUCTION: &str = "applications.hello.Production";
/// What configures the database of QA while it runs.
const SUBSTRUCTURE: &str = "substructure.hello.QA";

/// What to leave behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// The stacks stay up.
    Stacks,
    /// Nothing stays but the images.
    Nothing,
}

/// Runs the demo.
pub(crate) fn run(leave: Leave) -> Result<()> {
    if !setup::is_root()? {
        bail!("the demo starts machines, which only root may: run it with sudo");
    }
    setup::run()?;
    eprintln!("building olbake and its agent");
    let demo = Demo { built: build::release()?, began: Instant::now() };
    let result = demo.show();
    let cleaned = if leave == Leave::Nothing { demo.clean() } else { Ok(()) };
    // Why something is left behind is seldom as good to know as why the demo failed.
    let loads = result?;
    cleaned?;
    demo.tell(&loads, leave);
    let failed: u64 = loads.iter().map(|(_, report)| report.failed).sum();
    if failed > 0 {
        bail!("{failed} requests failed");
    }
    Ok(())
}

struct Demo {
    built: Built,
    began: Instant,
}

/// What was loaded, and what became of it.
type Loads = Vec<(&'static str, Report)>;

impl Demo {
    fn show(&self) -> Result<Loads> {
        self.step("bake the example images; what is registered already is not baked again");
        self.olbake(&["check"])?;
        self.olbake(&["bake", "--all", "--channel", "QA"])?;
        self.olbake(&["images"])?;

        self.step("deploy QA: three web instances behind a load balancer, and a database with a volume");
        for network in NETWORKS {
            self.deploy(network)?;
        }
        self.deploy(QA)?;
        self.deploy(SUBSTRUCTURE)?;

        self.step("bake another version of hello and replace the instances of QA under load");
        let version = format!("hello.version={UPGRADE}");
        self.olbake(&["bake", "web", "--set", &version, "--channel", "QA"])?;
        let upgrade = self.under_load(QA, |demo| demo.deploy(QA))?;

        self.step("promote what QA runs to Production, by its exact digest, and deploy it");
        self.olbake(&["promote", "web", "--from", "QA", "--to", "Production"])?;
        self.olbake(&["promote", "database", "--from", "QA", "--to", "Production"])?;
        self.deploy(PRODUCTION)?;

        self.step("deploy an image to QA that boots and passes its checks, and then cannot answer: it is rolled back");
        let broken =
            ["bake", "web", "--set", "hello.version=1.2.0", "--set", "caddy.upstream=127.0.0.1:9100"];
        self.olbake(&[&broken[..], &["--channel", "QA"]].concat())?;
        let rollback = self.under_load(QA, |demo| demo.fails_to_deploy(QA))?;
        self.olbake(&["rollback", "web", "--channel", "QA", "--reason", "1.2.0 does not answer"])?;

        self.step("what runs where");
        self.olbake(&["status"])?;
        self.olbake(&["history", "web"])?;
        let picture = self.picture();
        self.olbake(&["graph", "--stack", QA, "--output", &picture])?;
        Ok(vec![("rolling upgrade of QA", upgrade), ("broken image in QA, rolled back", rollback)])
    }

    fn picture(&self) -> String {
        build::root().join(".olbake").join("hello.svg").to_string()
    }

    /// Removes the stacks, those that others read last. What cannot be removed does not keep the others; the first error
    /// is told.
    fn clean(&self) -> Result<()> {
        self.step("clean up; the protection of Production's volume is taken away first");
        let unprotect = ["deploy", "--yes", "--stack", PRODUCTION, "--set", "hello.protect=false"];
        let stacks = [SUBSTRUCTURE, QA, PRODUCTION].into_iter().chain(NETWORKS);
        let destroyed = stacks.map(|stack| ["destroy", "--yes", "--stack", stack]);
        let mut first = self.olbake(&unprotect);
        for destroy in destroyed {
            first = first.and(self.olbake(&destroy));
        }
        first
    }

    fn step(&self, what: &str) {
        eprintln!("\n── {what} ({} s)", self.began.elapsed().as_secs());
    }

    fn deploy(&self, stack: &str) -> Result<()> {
        self.olbake(&["deploy", "--yes", "--stack", stack])
    }

    /// A deploy that must fail, with the exit code of something that failed on a machine.
    fn fails_to_deploy(&self, stack: &str) -> Result<()> {
        let status = self.command(&["deploy", "--yes", "--stack", stack]).status()?;
        match status.code() {
            Some(7) => Ok(()),
            Some(0) => bail!("the broken image was deployed"),
            other => bail!("`olbake deploy` ended with {other:?} and not by a rollback"),
        }
    }

    /// Does something while a stack's service gets requests.
    fn under_load(&self, stack: &str, what: impl FnOnce(&Self) -> Result<()>) -> Result<Report> {
        let url = self.output(&["outputs", "--stack", stack, "url"])?;
        let address = url.trim().strip_prefix("http://").context("the service has an http:// URL")?;
        let load =
            Load::start(address.parse().with_context(|| format!("`{address}` is no address"))?, "/", RATE);
        let result = what(self);
        std::thread::sleep(AFTER);
        let report = load.stop();
        eprintln!("{}", said(&report));
        result.map(|()| report)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        eprintln!("\n$ olbake {}", arguments.join(" "));
        let mut command = Command::new(&self.built.olbake);
        command.args(arguments).current_dir(build::root()).stdin(Stdio::null());
        // The example's secrets are sealed for whoever has this passphrase; it protects nothing but an example.
        if std::env::var_os("OLBAKE_PASSPHRASE").is_none() {
            command.env("OLBAKE_PASSPHRASE", "an example for everyone");
        }
        command
    }

    fn olbake(&self, arguments: &[&str]) -> Result<()> {
        let status = self.command(arguments).status();
        let status = status.with_context(|| format!("cannot run `{}`", self.built.olbake))?;
        if !status.success() {
            bail!("`olbake {}` failed", arguments.join(" "));
        }
        Ok(())
    }

    fn output(&self, arguments: &[&str]) -> Result<String> {
        let Output { status, stdout, .. } = self.command(arguments).stderr(Stdio::inherit()).output()?;
        if !status.success() {
            bail!("`olbake {}` failed", arguments.join(" "));
        }
        Ok(String::from_utf8(stdout)?)
    }

    fn tell(&self, loads: &Loads, leave: Leave) {
        println!("\nThe demo took {} s. Under load:", self.began.elapsed().as_secs());
        for (what, report) in loads {
            println!("  {what:<34} {}", said(report));
        }
        if leave == Leave::Nothing {
            println!("The stacks are gone; the images stay.");
            return;
        }
        println!("The stacks are up. Look further with:");
        for line in [
            "status                                  what runs where, how old, how far behind",
            "outputs --stack applications.hello.QA   the address of the service",
            "preview --stack applications.hello.QA   what a deploy would do",
            "rollout status --stack applications.hello.QA",
            "show web                                what is in the version and what was checked",
            "shell web                               a shell on a throw-away copy",
        ] {
            println!("  {} {line}", self.built.olbake);
        }
        println!(
            "  {} is a picture of the stack; `cargo xtask demo --clean` removes all of it",
            self.picture()
        );
    }
}

fn said(report: &Report) -> String {
    let versions: Vec<String> =
        report.answers.iter().map(|(version, count)| format!("{version}: {count}")).collect();
    let failures: String =
        report.failures.iter().map(|(at, why)| format!("\n    at {at:.1} s: {why}")).collect();
    format!(
        "{} requests sent, {} failed; median {:.0} ms, 99 % within {:.0} ms ({}){failures}",
        report.sent,
        report.failed,
        report.quantile(0.5) * 1000.0,
        report.quantile(0.99) * 1000.0,
        versions.join(", "),
    )
}
