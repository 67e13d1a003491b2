//! The same 71 operations on a booted host over SSH: olbake, hand-written tar and shell, pyinfra, ansible, and ansible
//! with mitogen. Everyone begins with a host that was just booted from the same root file system.

mod peers;
mod wire;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use camino::Utf8PathBuf;
use olbake_testkit::host::Host;

use self::peers::Peers;
use super::{Figure, Target, median, process};
use crate::build::Built;

pub(super) const FIGURES: [&str; 7] = [
    "ssh.fresh.floor.ratio",
    "ssh.fresh.pyinfra.ratio",
    "ssh.fresh.ansible.ratio",
    "ssh.fresh.mitogen.ratio",
    "ssh.again.pyinfra.ratio",
    "ssh.again.over_login.seconds",
    "ssh.round_trips.extra",
];

/// How often the quick ones are repeated; each fresh run has a host of its own.
const REPEATS: usize = 5;
/// How often the slow ones are.
const SLOW_REPEATS: usize = 2;

pub(super) fn measure(built: &Built) -> Result<Vec<Figure>> {
    if let Some(lack) = olbake_testkit::host::lacking() {
        anyhow::bail!("this cannot be measured here: {lack}");
    }
    let peers = Peers::install()?;
    let recipe = Recipe::write()?;

    let (mut fresh, mut floor) = (Vec::new(), Vec::new());
    let (mut again, mut login) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let host = Host::start()?;
        floor.push(peers::floor(&host)?);
        check_result(&host)?;
        let host = Host::start()?;
        fresh.push(recipe.apply(built, &host, Expect::Changes)?);
        check_result(&host)?;
        for _ in 0..REPEATS {
            login.push(process::run(&mut host.ssh("true"))?.seconds);
            again.push(recipe.apply(built, &host, Expect::Nothing)?);
        }
    }
    let (mut pyinfra, mut pyinfra_again) = (Vec::new(), Vec::new());
    let (mut ansible, mut mitogen) = (Vec::new(), Vec::new());
    for _ in 0..SLOW_REPEATS {
        let host = Host::start()?;
        pyinfra.push(peers.pyinfra(&host)?);
        check_result(&host)?;
        pyinfra_again.push(peers.pyinfra(&host)?);
        let host = Host::start()?;
        ansible.push(peers.ansible(&host)?);
        check_result(&host)?;
        let host = Host::start()?;
        mitogen.push(peers.mitogen(&host)?);
        check_result(&host)?;
    }
    let trips = wire::round_trips(built)?;
    Ok(figures(&Seconds {
        fresh: median(fresh),
        floor: median(floor),
        again: median(again),
        login: median(login),
        pyinfra: median(pyinfra),
        pyinfra_again: median(pyinfra_again),
        ansible: median(ansible),
        mitogen: median(mitogen),
        trips,
    }))
}

/// Medians.
struct Seconds {
    fresh: f64,
    floor: f64,
    again: f64,
    login: f64,
    pyinfra: f64,
    pyinfra_again: f64,
    ansible: f64,
    mitogen: f64,
    trips: wire::RoundTrips,
}

fn figures(seconds: &Seconds) -> Vec<Figure> {
    let Seconds { fresh, floor, again, login, pyinfra, pyinfra_again, ansible, mitogen, trips } = seconds;
    let ratio = |name, value, against: String, target| Figure { name, value, unit: "×", against, target };
    let slower = |name: &str, seconds: &f64, own: &f64| format!("{own:.2} s; {name}: {seconds:.2} s");
    vec![
        ratio(
            "ssh.fresh.floor.ratio",
            fresh / floor,
            slower("tar and shell over one ssh", floor, fresh),
            Target::AtMost(1.3),
        ),
        ratio(
            "ssh.fresh.pyinfra.ratio",
            pyinfra / fresh,
            slower("pyinfra", pyinfra, fresh),
            Target::AtLeast(12.0),
        ),
        ratio(
            "ssh.fresh.ansible.ratio",
            ansible / fresh,
            slower("ansible", ansible, fresh),
            Target::AtLeast(40.0),
        ),
        ratio(
            "ssh.fresh.mitogen.ratio",
            mitogen / fresh,
            slower("ansible with mitogen", mitogen, fresh),
            Target::AtLeast(8.0),
        ),
        ratio(
            "ssh.again.pyinfra.ratio",
            pyinfra_again / again,
            slower("pyinfra with nothing to change", pyinfra_again, again),
            Target::AtLeast(20.0),
        ),
        Figure {
            name: "ssh.again.over_login.seconds",
            value: again - login,
            unit: "s",
            against: format!("{again:.3} s; `ssh host true`: {login:.3} s"),
            target: Target::AtMost(0.1),
        },
        Figure {
            name: "ssh.round_trips.extra",
            value: trips.most(),
            unit: "",
            against: trips.told(),
            target: Target::AtMost(2.0),
        },
    ]
}

/// What is to come of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Changes,
    Nothing,
}

/// olbake's recipe in a workspace of its own, removed at the end.
struct Recipe {
    directory: Utf8PathBuf,
}

impl Recipe {
    fn write() -> Result<Self> {
        Self::of(
            "ssh",
            &[
                ("components/bench/component.star", include_str!("component.star")),
                ("components/bench/templates/conf.j2", include_str!("conf.j2")),
                ("components/bench/templates/unit.j2", include_str!("unit.j2")),
            ],
        )
    }

    /// A workspace with a component `bench` and an image of it.
    fn of(name: &str, files: &[(&str, &str)]) -> Result<Self> {
        let directory = Utf8PathBuf::from(format!("/var/tmp/olbake-bench-{name}-{}", std::process::id()));
        let recipe = Self { directory };
        let image =
            r#"image(name = "box", base = debian("bookworm"), components = [use("//components/bench")])"#;
        for (path, text) in files.iter().chain(&[("olbake.toml", ""), ("images/box/image.star", image)]) {
            let path = recipe.directory.join(path);
            std::fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
            std::fs::write(path, text)?;
        }
        Ok(recipe)
    }

    fn command(&self, built: &Built, host: &Host, address: &str, port: u16) -> Command {
        let mut command = Command::new(&built.olbake);
        command
            .args([
                "apply",
                "box",
                "--json",
                "--host",
                &format!("root@{address}"),
                "--port",
                &port.to_string(),
            ])
            .arg("--identity")
            .arg(host.identity())
            .arg("--known-hosts")
            .arg(host.known_hosts())
            .current_dir(&self.directory)
            .env_remove("OLBAKE_CACHE")
            .env("OLBAKE_AGENT", &built.agent);
        command
    }

    /// Seconds that an apply takes.
    fn apply(&self, built: &Built, host: &Host, expect: Expect) -> Result<f64> {
        let taken = process::run(&mut self.command(built, host, &host.address().to_string(), 22))?;
        let last: serde_json::Value =
            serde_json::from_str(taken.stdout.lines().last().context("olbake said nothing")?)?;
        let changed = last["summary"]["changed"].as_u64().context("olbake gave no numbers")?;
        ensure!(
            (changed > 0) == (expect == Expect::Changes),
            "{expect:?} were expected: {}",
            last["summary"]
        );
        Ok(taken.seconds)
    }
}

impl Drop for Recipe {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

/// Everyone must have come to the same.
fn check_result(host: &Host) -> Result<()> {
    let found = host.says(
        "systemctl is-active bench-0 bench-1 bench-2 bench-3 bench-4 | sort -u; \
         systemctl is-enabled bench-0 bench-4 | sort -u; id -ng bench-u4; \
         stat -c '%U %G %a' /etc/bench-9/39.conf; stat -c '%U %G %a' /etc/bench-3; \
         cat /etc/bench-*/*.conf /etc/systemd/system/bench-*.service | grep -c .",
    )?;
    let expect = "active\nenabled\nbench-g4\nroot bench-g4 640\nroot bench-g3 750\n270\n";
    ensure!(found == expect, "the host is not as it should be: {found:?}");
    Ok(())
}
