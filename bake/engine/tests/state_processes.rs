//! The journal between processes: killed while they append, stopped past their lease, racing, and on a full disk.
#![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

mod common;
#[path = "common/ledger.rs"]
mod ledger;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use common::{Scratch, Tmpfs, process, scratch};
use ledger::{HandClock, Ledger, add, here, hold, options, stack, store};
use olbake_engine::state::{HoldOptions, StateError, StateStore, SystemClock, Takeover};
use olbake_engine::store::StoreError;
use rustix::process::{Pid, Signal, kill_process};

/// Another process that holds the stack of a folder: `examples/holder.rs` in a role.
struct Process {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
}

impl Process {
    fn start(role: &str, path: &Utf8Path) -> Self {
        let mut child = process("holder")
            .args([role, path.as_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (says, hears) = (BufReader::new(child.stdout.take().unwrap()), child.stdin.take().unwrap());
        Self { child, says, hears }
    }

    /// Reads until it says something that starts so; none where it ended before.
    fn hear(&mut self, start: &str) -> Option<String> {
        let mut line = String::new();
        while self.says.read_line(&mut line).unwrap() > 0 {
            if line.starts_with(start) {
                return Some(line.trim().to_owned());
            }
            line.clear();
        }
        None
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.hears, "{line}").unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn view(store: &StateStore) -> Ledger {
    store.read::<Ledger>(&stack(), &SystemClock).await.unwrap().map(|viewed| viewed.state).unwrap_or_default()
}

/// What killed children were told is durable; a line that one was killed in the middle of says nothing.
fn acknowledged(path: &Utf8Path) -> Vec<String> {
    let lists = path.read_dir_utf8().unwrap().map(|entry| entry.unwrap().into_path());
    let lists = lists.filter(|list| list.file_name().is_some_and(|name| name.starts_with("acknowledged")));
    let whole = |line: &str| line.strip_suffix('\n').map(str::to_owned);
    lists
        .flat_map(|list| {
            fs::read_to_string(list).unwrap().split_inclusive('\n').filter_map(whole).collect::<Vec<_>>()
        })
        .collect()
}

#[tokio::test]
async fn a_killed_holder_loses_nothing_it_was_told_is_durable_and_blocks_nobody() {
    let Scratch { path, .. } = &scratch();
    let mut interrupted = 0;
    for round in 0..12_u64 {
        let mut child = Process::start("append", path);
        // A whole lease would be waited for otherwise: the dead process is seen to be dead.
        child.hear("held").unwrap();
        std::thread::sleep(Duration::from_millis(7 * round));
        child.child.kill().unwrap();
        child.child.wait().unwrap();

        let store = store(path);
        let leftovers = path.join("state/.tmp").read_dir_utf8().unwrap().count();
        assert_eq!(leftovers, 0, "the sweep left something");
        let viewed = store.read::<Ledger>(&stack(), &SystemClock).await.unwrap().unwrap();
        interrupted += usize::from(viewed.interrupted.is_some());
        for name in acknowledged(path) {
            assert_eq!(viewed.state.sums.get(&name), Some(&1), "{name} in round {round}");
        }
        assert!(viewed.state.sums.values().all(|sum| *sum == 1), "something was done twice");
    }
    assert_eq!(interrupted, 12);
    let store = store(path);
    let held = hold(&store, here(HoldOptions::TTL)).await.unwrap();
    held.close("recovered").await.unwrap();
    assert!(view(&store).await.records > 0, "no child came to append");
}

#[tokio::test]
async fn a_holder_that_wakes_after_it_was_taken_over_does_nothing() {
    for takeover in [Takeover::Wait(Duration::from_secs(60)), Takeover::Force] {
        let Scratch { path, .. } = &scratch();
        let mut child = Process::start("act", path);
        child.hear("held").unwrap();
        child.tell("act");
        assert_eq!(child.hear("acted").unwrap(), "acted");
        child.signal(Signal::STOP);

        let store = store(path);
        let held = hold(&store, HoldOptions { takeover, ..here(HoldOptions::TTL) }).await.unwrap();
        held.append(add("after", 1)).await.unwrap();
        for _ in 0..3 {
            child.tell("act");
        }
        child.signal(Signal::CONT);
        for _ in 0..3 {
            let answer = child.hear("refused").unwrap();
            assert!(answer.contains("taken over by tester"), "{answer}");
        }
        assert_eq!(fs::read_to_string(path.join("effects")).unwrap(), "effect\n");
        held.append(add("after", 1)).await.unwrap();
        held.close("done").await.unwrap();
        let sums: Vec<(String, u64)> = view(&store).await.sums.into_iter().collect();
        assert_eq!(sums, [("act".into(), 1), ("after".into(), 2), ("before".into(), 1)]);
    }
}

#[tokio::test]
async fn racing_processes_have_the_stack_one_after_the_other() {
    let Scratch { path, .. } = &scratch();
    let mut children = [(); 3].map(|()| Process::start("race", path));
    children.iter_mut().for_each(|child| drop(child.hear("ready").unwrap()));
    children.iter_mut().for_each(|child| child.tell("go"));
    for child in &mut children {
        child.hear("finished").unwrap();
    }
    let state = view(&store(path)).await;
    // Each saw what all before it had done.
    let expect: Vec<String> = (0..15).map(|seen| format!("after-{seen}")).collect();
    assert!(expect.iter().all(|name| state.sums.get(name) == Some(&1)), "{state:?}");
    let history = store(path).history(&stack()).await.unwrap();
    assert_eq!(history.iter().map(|entry| entry.serial).collect::<Vec<_>>(), (1..=15).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_disk_is_said_and_loses_nothing() {
    let Scratch { path, .. } = &scratch();
    let full = path.join("full");
    let Some(_mounted) = Tmpfs::mount(&full, "1m") else { return };
    let (store, clock) = (StateStore::open("file://state", &full).unwrap(), Arc::new(HandClock::default()));
    let held = hold(&store, options(1, &clock)).await.unwrap();
    let mut durable = 0;
    let error = loop {
        match held.append(add(&format!("{durable}-{}", "x".repeat(20_000)), 1)).await {
            Ok(_) => durable += 1,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("no space is left"), "{error}");
    assert!(durable > 10, "{durable}");
    assert!(held.permit().is_err());
    assert!(held.close("done").await.is_err());
    assert_eq!(full.join("state/.tmp").read_dir_utf8().unwrap().count(), 0);
    assert_eq!(view(&store).await.records, durable);
    // Nobody can take it while the disk is full, and nothing is lost by trying.
    clock.advance(Duration::from_secs(60));
    fs::write(full.join("ballast"), vec![0; 1 << 20]).unwrap_err();
    let refused = hold(&store, options(2, &clock)).await.unwrap_err();
    assert!(matches!(refused, StateError::Store(StoreError::Full { .. })), "{refused}");
    assert_eq!(view(&store).await.records, durable);
    // With room again, all goes on.
    fs::remove_file(full.join("ballast")).unwrap();
    rustix::mount::mount_remount(full.as_std_path(), rustix::mount::MountFlags::empty(), c"size=4m").unwrap();
    let held = hold(&store, options(3, &clock)).await.unwrap();
    held.append(add("more", 1)).await.unwrap();
    held.close("done").await.unwrap();
    assert_eq!(view(&store).await.records, durable + 1);
}
