//! What is left when a process that holds machines is killed, and what is swept up.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to end")]

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use camino::Utf8Path;
use common::{Place, assert_clean, base_disk, can_run, host};
use olbake_engine::machine::{Builder, Substrate};
use olbake_local::{Access, LocalBuilder, mount_root};

/// Starts the example that holds machines, and waits until they run.
fn hold(place: &Place, disk: &Utf8Path, kinds: &[&str]) -> Child {
    let example = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/hold");
    assert!(example.exists(), "`{}` is built with the tests: cargo test -p olbake-local", example.display());
    let mut child = Command::new(example)
        .args([disk, &place.agent, &place.folder("work")])
        .args(kinds)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

/// What can be seen of a folder on the host, a line each.
fn traces(folder: &Utf8Path) -> Vec<String> {
    let mut traces = Vec::new();
    for entry in Path::new("/proc").read_dir().unwrap().flatten() {
        let Ok(process) = entry.file_name().into_string().unwrap_or_default().parse::<u32>() else {
            continue;
        };
        if process == std::process::id() {
            continue;
        }
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        let mounts = String::from_utf8_lossy(&read("mountinfo")).into_owned();
        let works = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|at| at.starts_with(folder));
        if line.contains(folder.as_str()) || works || mounts.contains(folder.as_str()) {
            traces.push(format!("process {process}: {line}"));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    traces.extend(
        mounts.lines().filter(|line| line.contains(folder.as_str())).map(|line| format!("mount {line}")),
    );
    let (_, loops) = host("losetup", &["-a"]);
    traces.extend(
        loops.lines().filter(|line| line.contains(folder.as_str())).map(|line| format!("loop {line}")),
    );
    traces
}

fn eventually_no_traces(folder: &Utf8Path) {
    let end = Instant::now() + Duration::from_secs(20);
    while !traces(folder).is_empty() {
        assert!(Instant::now() < end, "left behind:\n{}", traces(folder).join("\n"));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_killed_process() {
    if !can_run(Substrate::Vm) {
        return;
    }
    let (place, base) = (Place::new(), base_disk().await);
    let mut child = hold(&place, &base.disk, &["build", "booted", "fresh"]);
    assert!(
        !traces(&place.path.join("work")).is_empty(),
        "the machines cannot be seen: this test sees nothing"
    );
    let number = child.id();
    child.kill().unwrap();
    child.wait().unwrap();
    eventually_no_traces(&place.path.join("work"));
    LocalBuilder::new().sweep(&place.path.join("work")).await.unwrap();
    for folder in [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/unified",
        "/sys/fs/cgroup/systemd",
        "/run/systemd/nspawn/propagate",
    ] {
        for entry in Path::new(folder).read_dir().into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            assert!(!name.starts_with(&format!("olbake-{number}-")), "`{folder}/{name}` was left");
        }
    }
    assert_clean(&base.disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_another_process_are_swept() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (place, base) = (Place::new(), base_disk().await);
    let builder = LocalBuilder::new();
    let work = place.folder("work");
    let disk = builder.copy(&base, &work.join("disk.raw")).await.unwrap().disk;
    // A mount that nobody takes away, and a process that nobody waits for.
    std::mem::forget(mount_root(&disk, &work.join("root"), Access::ReadWrite).unwrap());
    let command = format!("unshare --pid --fork --kill-child sh -c 'sleep 1000; :' {work} &");
    let quick = Command::new("sh").args(["-c", &command]).stdout(Stdio::null()).status().unwrap();
    assert!(quick.success());
    let bystander = Command::new("sleep").arg("1000").current_dir(&work).spawn().unwrap();
    let found = builder.sweep(&work).await.unwrap();
    assert!(found.iter().any(|line| line.contains("mount")), "{found:?}");
    let mut bystander = bystander;
    assert!(bystander.try_wait().unwrap().is_none(), "a process that is none of ours was ended");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    eventually_no_traces(&work);
    assert_eq!(builder.sweep(&work).await.unwrap(), Vec::<String>::new());
}
