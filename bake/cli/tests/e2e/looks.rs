//! Looking at what a bake made or left, and clearing away: `shell`, `--on-failure`, `gc`.

use std::io::Write as _;
use std::process::Stdio;

use super::bakes::{FIRST, tiny};
use super::faults::one;
use super::support::{Ended, Traces, World};

/// Runs a command with a text on its standard input.
fn typed(world: &World, arguments: &[&str], text: &str) -> Ended {
    let mut command = world.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Open until the end: at the end of its input a terminal is closed, whatever was still to be done.
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    let ended = child.wait_with_output().unwrap().into();
    drop(input);
    ended
}

#[test]
fn a_shell_is_on_a_copy_that_goes() {
    let Some(world) = World::new(&tiny()) else { return };
    world.bake(&["tiny"]);
    for _ in 0..2 {
        let ended = typed(
            &world,
            &["shell", "tiny"],
            "cat /etc/first.conf; test -e /left && echo WAS-THERE; touch /left; systemctl is-active note.service; exit\n",
        );
        assert_eq!(ended.code, 0, "{}", ended.said());
        ended.says(&["one", "active"]);
        assert!(!ended.said().contains("\nWAS-THERE"), "{}", ended.said());
    }
    assert_eq!(Traces::settled(), Traces::none());
}

#[test]
fn what_failed_is_kept_where_that_is_asked_for() {
    let operation = "def configure(s, m):\n    files.content(\"/etc/one.conf\", \"so far\\n\")\n    run.command([\"false\"])\n";
    let check = "def configure(s, m):\n    files.content(\"/etc/one.conf\", \"so far\\n\")\n\n\
                 def verify(s, m):\n    check.file(\"/etc/one.conf\", contains = \"further\")\n";
    for body in [operation, check] {
        let files = one(body);
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
        let Some(world) = World::new(&files) else { return };
        let failed = world.failing_bake(&["one", "--on-failure", "keep"]);
        assert_eq!(failed.code, 7, "{}", failed.said());
        let said = failed.said();
        let disk = said.split("olbake shell --disk ").nth(1).and_then(|rest| rest.split('`').next());
        let disk = disk.unwrap_or_else(|| panic!("no disk is named:\n{said}"));
        assert_eq!(Traces::settled(), Traces::none());
        let looked = typed(&world, &["shell", "--disk", disk], "cat /etc/one.conf; exit\n");
        assert_eq!(looked.code, 0, "{}", looked.said());
        looked.says(&["so far"]);
        // Nobody else needs it.
        std::fs::remove_file(disk).unwrap();
    }
}

#[test]
fn a_failure_can_be_looked_at_where_it_happened() {
    let body = "def configure(s, m):\n    files.content(\"/etc/one.conf\", \"so far\\n\")\n    run.command([\"false\"])\n";
    let files = one(body);
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let Some(world) = World::new(&files) else { return };
    let ended = typed(&world, &["bake", "one", "--on-failure", "shell"], "cat /etc/one.conf; exit\n");
    assert_eq!(ended.code, 7, "{}", ended.said());
    ended.says(&["so far", "components/one/component.star:3"]);
    assert_eq!(Traces::settled(), Traces::none());
}

#[test]
fn collection_removes_what_it_said_and_the_rest_still_bakes() {
    let Some(world) = World::new(&tiny()) else { return };
    let digest = |result: serde_json::Value| result["digest"].as_str().unwrap().to_owned();
    let first = digest(world.bake(&["tiny"]));
    world.write("components/first/component.star", &FIRST.replace("\"one\"", "\"two\""));
    let second = digest(world.bake(&["tiny"]));
    let ends = |command: &[&str], code: i32| {
        let ended = world.run(command);
        assert_eq!(ended.code, code, "{command:?}: {}", ended.said());
        ended
    };
    // It says what it would remove, and removes nothing.
    ends(&["gc", "--keep", "1", "--days", "0"], 0).says(&[&first["sha256:".len()..][..12]]);
    ends(&["show", &first], 0);
    ends(&["gc", "--keep", "1", "--days", "0", "--apply"], 0);
    ends(&["show", &first], 3);
    // What is left is whole, and what went can be made again.
    ends(&["show", &second], 0);
    ends(&["verify", "tiny"], 0);
    world.write("components/first/component.star", FIRST);
    world.bake(&["tiny"]);
    assert_eq!(Traces::settled(), Traces::none());
}

const COUNTER: &str = r#"
def configure(s, m):
    files.directory("/var/lib/counter")
    files.content("/etc/counter.conf", "first\n")

def units(s, m):
    systemd.unit("counter.service", {
        "Service": {
            "Type": "oneshot",
            "RemainAfterExit": "yes",
            "ExecStart": "/bin/sh -c 'echo started with $(cat /etc/counter.conf) >>/var/lib/counter/log'",
            "ExecReload": "/bin/sh -c 'echo reloaded with $(cat /etc/counter.conf) >>/var/lib/counter/log'",
        },
        "Install": {"WantedBy": "multi-user.target"},
    })
    systemd.service("counter.service", enabled = True, running = True, why = "its first start makes its log")

def verify(s, m):
    check.file("/var/lib/counter/log", contains = "started with first")
    check.unit("counter.service", active = True, enabled = True)

component(name = "counter", booted = "the service is started while it is baked", configure = configure, units = units, verify = verify)
"#;

const CHANGED: &str = r#"
def configure(s, m):
    files.content("/etc/counter.conf", "second\n", override = True)
    systemd.service("counter.service", reload_on = ["/etc/counter.conf"])

def verify(s, m):
    check.file("/var/lib/counter/log", contains = "reloaded with second")

component(name = "changed", booted = "the service that runs is told", configure = configure, verify = verify)
"#;

/// Components that are built on a machine that runs; and a verification under UEFI before the version is registered.
#[test]
fn a_machine_that_runs_starts_and_reloads_and_the_image_boots_under_uefi() {
    let image = r#"image(name = "runs", base = debian("bookworm"), components = [use("//components/counter"), use("//components/changed")])"#;
    let Some(world) = World::new(&[
        ("components/counter/component.star", COUNTER),
        ("components/changed/component.star", CHANGED),
        ("images/runs/image.star", image),
    ]) else {
        return;
    };
    let baked = world.bake(&["runs", "--verify", "vm"]);
    assert_eq!(baked["checks"].as_array().unwrap().len(), 3, "{baked}");
    assert!(baked["checks"].as_array().unwrap().iter().all(|check| check["outcome"] == "ok"), "{baked}");
    assert_eq!(Traces::settled(), Traces::none());
}

#[test]
fn who_does_not_wait_is_told_who_bakes() {
    let Some(world) = World::new(&tiny()) else { return };
    let words = format!("first.words=wait {}", std::process::id());
    let (mut child, mut events) = world.start_bake_with(&["tiny", "--set", &words]);
    assert!(events.any(|event| event["event"] == "layer_started" || event["event"] == "stage_started"));
    let second = world.run(&["bake", "tiny", "--set", &words, "--no-wait"]);
    assert_eq!(second.code, 5, "{}", second.said());
    second.says(&[&child.id().to_string()]);
    events.for_each(drop);
    assert!(child.wait().unwrap().success());
    // Images that do not need each other, at the same time.
    world.bake(&["tiny", "tiny/loud", "--jobs", "2"]);
    assert_eq!(Traces::settled(), Traces::none());
}
