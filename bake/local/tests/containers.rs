//! Containers on a real disk: made, changed, booted, thrown away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to end")]

mod common;

use common::{Place, assert_clean, base_disk, can_run, run};
use olbake_engine::machine::{AgentStream, Builder, MachineError, Start, Substrate};
use olbake_local::{Access, LocalBuilder, mount_root};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_kept_and_a_fresh_boot_sees_it() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (builder, place) = (LocalBuilder::new(), Place::new());
    let base = base_disk().await;
    let mut machine = builder.start(place.spec("build", Start::Build, &base)).await.unwrap();
    let work = machine.agent_work_dir().to_string();
    assert_eq!(
        run(&mut *machine, &format!("echo kept > {work}/x; echo changed > /etc/test; cat /etc/test")).await,
        "changed\n"
    );
    assert_eq!(
        run(&mut *machine, &format!("cat {work}/x; cat /etc/resolv.conf | grep -c nameserver")).await,
        "kept\n1\n"
    );
    let snapshot = machine.stop().await.unwrap().unwrap();
    assert_clean(&snapshot.disk);
    builder.finish(&snapshot, &place.folder("finish")).await.unwrap();

    let mut machine = builder.start(place.spec("fresh", Start::Fresh, &snapshot)).await.unwrap();
    assert_eq!(
        run(&mut *machine, "cat /etc/test; rm /etc/test; systemctl --failed -q; systemctl is-system-running")
            .await,
        "changed\nrunning\n"
    );
    assert!(machine.stop().await.unwrap().is_none());
    assert_clean(&snapshot.disk);
    let root = mount_root(&snapshot.disk, &place.folder("look"), Access::ReadOnly).unwrap();
    assert!(root.directory().join("etc/test").exists(), "a fresh boot's writes were kept");
    root.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booted_machine_keeps_what_was_changed() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (builder, place) = (LocalBuilder::new(), Place::new());
    let base = base_disk().await;
    let mut machine = builder.start(place.spec("booted", Start::BuildBooted, &base)).await.unwrap();
    let state = "systemctl --failed -q; systemctl is-active dbus; cat /proc/1/comm";
    assert_eq!(run(&mut *machine, state).await, "active\nsystemd\n");
    assert_eq!(
        run(&mut *machine, "echo changed >/etc/test; grep -c nameserver /etc/resolv.conf").await,
        "1\n"
    );
    let snapshot = machine.stop().await.unwrap().unwrap();
    assert_clean(&snapshot.disk);
    let root = mount_root(&snapshot.disk, &place.folder("look"), Access::ReadOnly).unwrap();
    assert_eq!(std::fs::read_to_string(root.directory().join("etc/test")).unwrap(), "changed\n");
    assert!(!root.directory().join("run/olbake").exists(), "the agent's folder is in the image");
    assert!(!root.directory().join("run/systemd").exists(), "units of the machine are in the image");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_ends_the_agent() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (builder, place) = (LocalBuilder::new(), Place::new());
    let base = base_disk().await;
    // Shell patterns find neither themselves nor the line that they are in.
    let find = "for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" = 'sleep 4711 ' ] && echo found; done; echo done";
    for start in [Start::Build, Start::Fresh] {
        let mut machine = builder.start(place.spec(&format!("{start:?}"), start, &base)).await.unwrap();
        // Often: without a boot, the next has the machine only once the last is gone altogether.
        for _ in 0..5 {
            let AgentStream { mut input, mut output } = machine.agent().await.unwrap();
            input.write_all(b"echo started; exec sleep 4711\n").await.unwrap();
            let mut started = [0; 8];
            output.read_exact(&mut started).await.unwrap();
            drop((input, output));
            assert_eq!(run(&mut *machine, find).await, "done\n", "{start:?}");
        }
        machine.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_one_disk_run_side_by_side() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (builder, place) = (LocalBuilder::new(), Place::new());
    let base = base_disk().await;
    let one = builder.start(place.spec("one", Start::Fresh, &base));
    let other = builder.start(place.spec("other", Start::Fresh, &base));
    let (one, other) = tokio::join!(one, other);
    let (mut one, mut other) = (one.unwrap(), other.unwrap());
    run(&mut *one, "echo one >/etc/test").await;
    assert_eq!(run(&mut *other, "cat /etc/test 2>/dev/null || echo none").await, "none\n");
    one.stop().await.unwrap();
    assert_eq!(run(&mut *other, "systemctl is-system-running").await, "running\n");
    other.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_are_kept_outside_the_image() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (builder, place) = (LocalBuilder::new(), Place::new());
    let base = base_disk().await;
    let mut spec = place.spec("build", Start::Build, &base);
    let cache = place.path.join("cache");
    spec.package_cache = Some(cache.clone());
    let mut machine = builder.start(spec).await.unwrap();
    let command =
        "(apt-get update && apt-get install -y hello) >/tmp/log 2>&1 && hello --traditional || cat /tmp/log";
    assert_eq!(run(&mut *machine, command).await, "hello, world\n");
    let snapshot = machine.stop().await.unwrap().unwrap();
    let kept = |folder: &str| {
        let entries = cache.join(folder).read_dir_utf8().unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_owned()).collect::<Vec<_>>()
    };
    assert!(kept("archives").iter().any(|name| name.starts_with("hello_")), "{:?}", kept("archives"));
    assert!(kept("lists").iter().any(|name| name.ends_with("InRelease")), "{:?}", kept("lists"));
    assert!(
        !kept("archives").iter().any(|name| name == "lock" || name == "partial"),
        "{:?}",
        kept("archives")
    );
    let root = mount_root(&snapshot.disk, &place.folder("look"), Access::ReadOnly).unwrap();
    for place in ["var/lib/apt/lists", "var/cache/apt/archives"] {
        let found = root.directory().join(place).read_dir_utf8().unwrap().count();
        assert_eq!(found, 0, "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_does_not_boot_shows_its_console() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (builder, place) = (LocalBuilder::new(), Place::new());
    let base = base_disk().await;
    let mut machine = builder.start(place.spec("build", Start::Build, &base)).await.unwrap();
    let broken = "rm /sbin/init; printf '#!/bin/sh\\necho cannot go on >/dev/console; exit 1\\n' >/sbin/init; chmod +x /sbin/init";
    run(&mut *machine, &format!("{broken}; rm -f /lib/systemd/systemd; cp /sbin/init /lib/systemd/systemd"))
        .await;
    let snapshot = machine.stop().await.unwrap().unwrap();
    let error = builder.start(place.spec("fresh", Start::Fresh, &snapshot)).await.err().unwrap();
    let MachineError::Boot { message, console } = error else { panic!("{error}") };
    assert_eq!(message, "the container stopped while it booted");
    assert!(console.contains("cannot go on"), "{console}");
}
