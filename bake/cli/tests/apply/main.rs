//! `olbake apply` on a real host over a real SSH server: a Debian that boots in a container with its own network.
//!
//! Needs root and mmdebstrap; each test says so when it cannot run, and fails instead with `OLBAKE_TEST_REQUIRE=1`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use olbake_testkit::host::Relay;
use serde_json::Value;
use support::{Ended, Way, World, exists, spawn, until};

const THING: &str = r#"
Thing = settings(name = "thing", fields = {
    "text": setting(str, default = "first", doc = "What the file says"),
    "token": setting(secret, source = "env:TOKEN", doc = "A token"),
})

def install(s, m):
    users.user("thing", system = True, home = "/var/lib/thing", shell = "/usr/sbin/nologin")

def configure(s, m):
    files.directory("/etc/thing", owner = "root", group = "thing", mode = 0o750)
    files.content("/etc/thing/thing.conf", s.text + "\nsecond\n", group = "thing", mode = 0o640)
    files.content("/etc/thing/token", s.token, mode = 0o600)

def units(s, m):
    u = systemd.unit("thing.service", {
        "Service": {"Type": "oneshot", "RemainAfterExit": "yes", "ExecStart": "/bin/cat /etc/thing/thing.conf"},
        "Install": {"WantedBy": "multi-user.target"},
    })
    systemd.service("thing.service", enabled = True, running = True, restart_on = [u, "/etc/thing"], why = "it is to be seen")

component(name = "thing", settings = Thing, install = install, configure = configure, units = units)
"#;

/// Steps that each leave a line, and one that waits until it is let go on.
const STEPS: &str = r#"
def install(s, m):
    run.command("echo one >>/root/steps", shell = True)
    run.command("echo two >>/root/steps; until test -e /root/go-on; do sleep 0.05; done", shell = True)
    run.command("echo three >>/root/steps", shell = True)

component(name = "thing", install = install)
"#;

const REBOOT: &str = r#"
def install(s, m):
    run.command("cat /proc/sys/kernel/random/boot_id >/root/before", shell = True)
    a = files.content("/etc/thing.conf", "new\n")
    os.reboot(when_changed = [a])
    run.command("cat /proc/sys/kernel/random/boot_id >/root/after", shell = True)

component(name = "thing", install = install)
"#;

/// Units of which nobody says what comes first; `bad` is one that cannot start, if it is there.
fn many_units(names: &[&str]) -> String {
    let units: String = names
        .iter()
        .map(|name| {
            let program = if *name == "bad" { "/bin/false" } else { "/bin/true" };
            format!(
                "    systemd.unit(\"{name}.service\", {{\"Service\": {{\"Type\": \"oneshot\", \"RemainAfterExit\": \"yes\", \
                 \"ExecStart\": \"{program}\"}}, \"Install\": {{\"WantedBy\": \"multi-user.target\"}}}})\n"
            )
        })
        .collect();
    let services: String = names
        .iter()
        .map(|name| {
            format!(
                "    systemd.service(\"{name}.service\", enabled = True, running = True, why = \"a test\")\n"
            )
        })
        .collect();
    format!(
        "def configure(s, m):\n{units}\ndef units(s, m):\n{services}\n\
         component(name = \"thing\", configure = configure, units = units)\n"
    )
}

fn changed(result: &Value) -> Vec<String> {
    let changes = result["changes"].as_array().unwrap();
    changes.iter().map(|change| change["title"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_check_predicts_what_an_apply_does_and_applying_again_changes_nothing() {
    let Some(world) = World::new(&[("components/thing/component.star", THING)]) else { return };
    let checked = Ended::of(world.apply(&world.way(), &["--check", "--json"]));
    checked.failed_with(7, "is not as `box` says");
    assert!(!exists(&world.host, "/etc/thing"), "a check changed something");
    let predicted = checked.stdout.lines().find(|line| line.contains("\"applied\"")).unwrap();
    let predicted: Value = serde_json::from_str(predicted).unwrap();

    let applied = world.applied(&[]);
    assert_eq!(changed(&predicted["applied"]), changed(&applied));
    assert_eq!(changed(&applied).len(), 6, "{applied}");
    let token = std::fs::read_to_string(world.host.root().join("etc/thing/token")).unwrap();
    assert_eq!(token, "a token that nobody may see");
    assert!(!format!("{predicted}{applied}").contains("a token that"), "a secret was said");

    let again = world.applied(&[]);
    assert_eq!(again["summary"]["changed"], 0, "{again}");
    assert_eq!(Ended::of(world.apply(&world.way(), &["--check"])).code, 0);

    std::fs::write(world.host.root().join("etc/thing/thing.conf"), "first\nmeddled\n").unwrap();
    let drift = Ended::of(world.apply(&world.way(), &["--check"]));
    drift.failed_with(7, "-meddled");
    drift.failed_with(7, "+second");
    assert_eq!(
        changed(&world.applied(&[])),
        ["files.content /etc/thing/thing.conf", "systemd.service thing.service"]
    );
}

#[test]
fn it_takes_one_login_and_one_command_however_many_operations_there_are() {
    let Some(world) = World::new(&[("components/thing/component.star", THING)]) else { return };
    let many: String =
        (0..200).map(|n| format!("    files.content(\"/etc/many-{n}\", \"{n}\\n\")\n")).collect();
    for recipe in [
        THING.to_owned(),
        format!("def install(s, m):\n{many}\ncomponent(name = \"thing\", install = install)\n"),
    ] {
        world.write("components/thing/component.star", &recipe);
        let before = world.commands_and_logins();
        world.applied(&[]);
        let after = world.commands_and_logins();
        // Looking is a command and a login too.
        assert_eq!((after.0 - before.0, after.1 - before.1), (2, 2));
    }
}

#[test]
fn units_are_started_together_and_each_says_what_became_of_it() {
    let Some(world) = World::new(&[("components/thing/component.star", &many_units(&["a", "b", "c"]))])
    else {
        return;
    };
    let reloads = || {
        let journal = world.host.says("journalctl --quiet --output cat _PID=1").unwrap();
        journal.lines().filter(|line| line.starts_with("Reloading")).count()
    };
    let before = reloads();
    let applied = world.applied(&[]);
    assert_eq!(applied["summary"]["changed"], 6, "{applied}");
    for change in applied["changes"].as_array().unwrap().iter().skip(3) {
        let what: Vec<&Value> =
            change["changes"].as_array().unwrap().iter().map(|change| &change["what"]).collect();
        assert_eq!(what, ["enabled", "running"], "{change}");
    }
    assert_eq!(reloads() - before, 1, "systemd reads its files once for all of them");
    let states = "systemctl is-active a b c; systemctl is-enabled a b c";
    assert_eq!(world.host.says(states).unwrap(), "active\nactive\nactive\nenabled\nenabled\nenabled\n");
    assert_eq!(world.applied(&[])["summary"]["changed"], 0);

    world.host.says("systemctl stop b").unwrap();
    assert_eq!(changed(&world.applied(&[])), ["systemd.service b.service"]);

    world.host.says("systemctl stop a c").unwrap();
    world.write("components/thing/component.star", &many_units(&["a", "bad", "c"]));
    let failed = Ended::of(world.apply(&world.way(), &["--json"]));
    failed.failed_with(7, "systemctl start bad.service");
    let summary = failed.stdout.lines().find(|line| line.contains("\"applied\"")).unwrap();
    let summary: Value = serde_json::from_str(summary).unwrap();
    assert_eq!(summary["applied"]["summary"]["failed"], 1, "{summary}");
    let titles = changed(&summary["applied"]);
    assert!(
        titles.ends_with(&["a.service", "c.service"].map(|unit| format!("systemd.service {unit}"))),
        "{titles:?}"
    );
    assert_eq!(world.host.says("systemctl is-active a bad c; true").unwrap(), "active\nfailed\nactive\n");
}

#[test]
fn a_user_needs_sudo_without_a_password() {
    let Some(world) = World::new(&[("components/thing/component.star", THING)]) else { return };
    let guest = Way { user: "guest", ..world.way() };
    Ended::of(world.apply(&guest, &[])).failed_with(8, "sudo");
    assert!(!exists(&world.host, "/etc/thing"));
    let ops = Way { user: "ops", ..world.way() };
    let applied = Ended::of(world.apply(&ops, &["--json"]));
    assert_eq!(applied.code, 0, "{}\n{}", applied.stdout, applied.stderr);
    assert_eq!(world.applied(&[])["summary"]["changed"], 0);
}

#[test]
fn who_a_host_is_must_be_proven_and_what_is_wrong_is_said() {
    let Some(world) = World::new(&[("components/thing/component.star", THING)]) else { return };
    let way = world.way();
    Ended::of(world.apply_unknown(&way, &[])).failed_with(8, "its key is not known");
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    Ended::of(world.apply_unknown(&way, &["--host-key", other])).failed_with(8, "did not prove who it is");
    let nobody = Way { user: "nobody", ..world.way() };
    Ended::of(world.apply(&nobody, &[])).failed_with(8, "refused the login");
    let closed = Way { port: 1, ..world.way() };
    Ended::of(world.apply(&closed, &[])).failed_with(5, "Connection refused");
    assert!(!exists(&world.host, "/etc/thing"));

    let key = world.host.host_key().unwrap();
    let given = Ended::of(world.apply_unknown(&way, &["--host-key", &key]));
    assert_eq!(given.code, 0, "{}", given.stderr);
}

#[test]
fn a_dropped_connection_is_taken_up_where_it_was() {
    let Some(world) = World::new(&[("components/thing/component.star", STEPS)]) else { return };
    let relay = Relay::start(SocketAddr::from((world.host.address(), 22)), Duration::ZERO).unwrap();
    let way = Way { user: "root", address: "127.0.0.1".into(), port: relay.port() };
    let child = spawn(world.apply(&way, &["--json"]));
    let steps = || std::fs::read_to_string(world.host.root().join("root/steps")).unwrap_or_default();
    until(|| steps() == "one\ntwo\n");
    relay.cut();
    // The step that was cut off begins again, the one before does not.
    until(|| steps() == "one\ntwo\ntwo\n");
    std::fs::write(world.host.root().join("root/go-on"), "").unwrap();
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 0, "{}\n{}", ended.stdout, ended.stderr);
    assert_eq!(steps(), "one\ntwo\ntwo\nthree\n");
    assert_eq!(ended.last()["summary"]["changed"], 3);
    assert_eq!(relay.connections(), 2);
}

#[test]
fn a_killed_olbake_leaves_nothing_running_and_the_next_goes_on() {
    let Some(world) = World::new(&[("components/thing/component.star", STEPS)]) else { return };
    let mut child = spawn(world.apply(&world.way(), &[]));
    let steps = || std::fs::read_to_string(world.host.root().join("root/steps")).unwrap_or_default();
    until(|| steps() == "one\ntwo\n");
    child.kill().unwrap();
    child.wait().unwrap();
    until(|| world.host.says("pgrep -f olbake/agent || true").unwrap().lines().count() <= 1);
    std::fs::write(world.host.root().join("root/go-on"), "").unwrap();
    let applied = world.applied(&[]);
    assert_eq!(steps(), "one\ntwo\ntwo\nthree\n");
    assert_eq!(applied["summary"]["changed"], 3);
}

#[test]
fn two_at_once_do_not_work_on_one_host() {
    let Some(world) = World::new(&[("components/thing/component.star", STEPS)]) else { return };
    let mut first = spawn(world.apply(&world.way(), &[]));
    let steps = || std::fs::read_to_string(world.host.root().join("root/steps")).unwrap_or_default();
    until(|| steps() == "one\ntwo\n");
    Ended::of(world.apply(&world.way(), &[])).failed_with(7, "another olbake works on this machine");
    std::fs::write(world.host.root().join("root/go-on"), "").unwrap();
    assert!(first.wait().unwrap().success());
    assert_eq!(steps(), "one\ntwo\nthree\n");
}

#[test]
fn a_reboot_in_mid_recipe_is_waited_for() {
    let Some(world) = World::new(&[("components/thing/component.star", REBOOT)]) else { return };
    let applied = world.applied(&[]);
    assert_eq!(applied["summary"]["changed"], 4, "{applied}");
    let read = |name: &str| std::fs::read_to_string(world.host.root().join("root").join(name)).unwrap();
    assert_ne!(read("before"), read("after"));
    assert!(!exists(&world.host, "/var/lib/olbake/apply"), "the journal is left");
    let after = read("after");
    let again = world.applied(&[]);
    assert!(!changed(&again).contains(&"os.reboot".to_owned()), "{again}");
    assert_eq!(read("after"), after, "it was not booted again");
}
