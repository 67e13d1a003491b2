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
