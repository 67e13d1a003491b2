//! Ctrl-C and kill -9 at every step a bake tells of: the next bake succeeds, and nothing is left on the machine.

use std::process::Child;
use std::time::Duration;

use super::bakes::tiny;
use super::support::{Traces, World, versions};

fn send(child: &Child, signal: &str) {
    let status = std::process::Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

/// How many events a whole bake of this text tells of.
fn events_of_a_bake(world: &World, words: &str) -> usize {
    set_words(world, words);
    let (mut child, events) = world.start_bake("tiny");
    let count = events.count();
    assert!(child.wait().unwrap().success());
    assert!(count > 10, "a bake told of only {count} events");
    count
}

/// Gives the first component other words, so that both layers run.
fn set_words(world: &World, words: &str) {
    let text = super::bakes::FIRST.replace("\"one\"", &format!("\"{words}\""));
    world.write("components/first/component.star", &text);
}

#[test]
fn killed_at_every_step_the_next_bake_succeeds() {
    let Some(world) = World::new(&tiny()) else { return };
    let id = std::process::id();
    let steps = events_of_a_bake(&world, &format!("whole {id}"));
    for step in 0..steps {
        set_words(&world, &format!("killed {id} {step}"));
        let before = versions(&world.registry()).len();
        let (mut child, mut events) = world.start_bake("tiny");
        let last = events.nth(step);
        send(&child, "KILL");
        child.wait().unwrap();
        assert_eq!(Traces::settled(), Traces::none(), "killed after event {step}: {last:?}");
        let after = versions(&world.registry()).len();
        let over = last.is_some_and(|event| event["event"] == "result");
        assert!(after == before || over || step + 3 >= steps, "half a version after event {step}");
        // Every third time the whole bake runs again: what was left must not be in its way.
        if step % 3 == 0 || step + 4 > steps {
            let result = world.bake(&["tiny"]);
            assert!(result["checks"].as_array().unwrap().iter().all(|check| check["outcome"] == "ok"));
            let verified = world.run(&["verify", "tiny", "--json"]);
            assert_eq!(verified.code, 0, "after event {step}: {}", verified.said());
        }
    }
    let work = world.cache().join("work/v1");
    let left: Vec<_> = std::fs::read_dir(work).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "working directories are left: {left:?}");
}

#[test]
fn interrupted_at_every_step_it_stops_cleanly() {
    let Some(world) = World::new(&tiny()) else { return };
    let id = std::process::id();
    let steps = events_of_a_bake(&world, &format!("not interrupted {id}"));
    let mut interrupted = 0;
    for step in 0..steps {
        set_words(&world, &format!("interrupted {id} {step}"));
        let (mut child, mut events) = world.start_bake("tiny");
        let mut seen: Vec<_> = events.by_ref().take(step + 1).collect();
        send(&child, "INT");
        seen.extend(events);
        let code = child.wait().unwrap().code();
        let last = seen.last().unwrap();
        // What was over before it was heard has its result.
        if last["event"] != "result" {
            assert_eq!((&last["event"], &last["kind"]), (&"error".into(), &"interrupted".into()), "{seen:?}");
            interrupted += 1;
        }
        assert_eq!(code, Some(if last["event"] == "result" { 0 } else { 130 }), "{seen:?}");
        assert_eq!(Traces::settled(), Traces::none(), "after event {step}: {seen:?}");
    }
    assert!(interrupted * 10 > steps * 8, "{interrupted} of {steps}");
    world.bake(&["tiny"]);
}

#[test]
fn killed_at_any_time_the_next_bake_succeeds() {
    let Some(world) = World::new(&tiny()) else { return };
    let id = std::process::id();
    for tenths in [1, 4, 9, 15, 22, 30] {
        set_words(&world, &format!("timed {id} {tenths}"));
        let (mut child, _events) = world.start_bake("tiny");
        std::thread::sleep(Duration::from_millis(tenths * 100));
        send(&child, "KILL");
        child.wait().unwrap();
        assert_eq!(Traces::settled(), Traces::none(), "killed after {tenths} tenths of a second");
    }
    world.bake(&["tiny"]);
    assert_eq!(Traces::settled(), Traces::none());
}
