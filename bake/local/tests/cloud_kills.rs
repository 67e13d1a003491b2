//! Commands that are killed at any point, and what the next one makes of it; volumes, which outlive all that.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to end")]

mod common;
#[path = "common/cloud.rs"]
mod helpers;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::{base_disk, host};
use helpers::{GRACE, TestCloud, can_run, id};
use olbake_local::cloud::{Attached, CloudError, Found, NetworkSpec, Object, State, VolumeSpec};

/// The points at which a command is killed, in milliseconds after its start: a launch takes some hundred.
const POINTS: [u64; 14] = [1, 5, 10, 15, 20, 30, 40, 60, 80, 110, 150, 200, 260, 350];

fn command(test: &TestCloud, words: &[&str]) -> Command {
    let example = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/cloud");
    assert!(example.exists(), "`{}` is built with the tests: cargo test -p olbake-local", example.display());
    let mut command = Command::new(example);
    command.arg(&test.folder).args(words).stdout(Stdio::null());
    command
}

fn kill_after(test: &TestCloud, words: &[&str], milliseconds: u64) {
    let mut child = command(test, words).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(milliseconds));
    child.kill().unwrap();
    child.wait().unwrap();
}

fn run(test: &TestCloud, words: &[&str]) {
    let output = command(test, words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

async fn things(test: &TestCloud) -> Vec<Found> {
    let mut found = test.cloud.list().await.unwrap();
    // What answers names comes and goes by itself.
    found.retain(|found| !matches!(&found.object, Object::Process(_, name) if name == "sleep"));
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_killed_anywhere_is_finished_by_the_next() {
    if !can_run() {
        return;
    }
    let test = TestCloud::new(11, base_disk().await).await;
    test.cloud.ensure_volume(VolumeSpec { id: id("data"), size: 32 << 20 }).await.unwrap();
    let before = things(&test).await;
    let disk = test.disk.disk.to_string();
    let ensure = ["ensure", "web", "net", &disk, "data:/srv/data"];
    for point in POINTS {
        kill_after(&test, &ensure, point);
        run(&test, &ensure);
        let view = test.cloud.inspect_instance(&id("web")).await.unwrap().unwrap();
        assert!(view.state != State::Stopped && view.address.is_some(), "{point} ms: {view:?}");
        let unknown: Vec<_> = things(&test).await.into_iter().filter(|found| !found.known).collect();
        assert_eq!(unknown, [], "{point} ms");
        kill_after(&test, &["kill", "web"], point);
        run(&test, &["kill", "web"]);
        assert_eq!(things(&test).await, before, "{point} ms");
    }
    // One that was killed and not repeated is taken away too.
    for point in POINTS {
        kill_after(&test, &ensure, point);
        run(&test, &["kill", "web"]);
        assert_eq!(things(&test).await, before, "{point} ms");
    }
    test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_outlives_its_instance_and_has_one_at_a_time() {
    if !can_run() {
        return;
    }
    let test = TestCloud::new(12, base_disk().await).await;
    let spec = VolumeSpec { id: id("data"), size: 64 << 20 };
    test.cloud.ensure_volume(spec.clone()).await.unwrap();
    let with_volume = |name: &str| {
        let mut spec = test.spec(name);
        spec.volumes.push(Attached { id: id("data"), path: "/srv/data".into() });
        spec
    };
    test.cloud.ensure_instance(with_volume("db-1")).await.unwrap();
    test.booted("db-1").await;
    test.shell("db-1", "echo kept >/srv/data/file; echo gone >/root/file").await;
    let held = "volume `data` is used by instance `db-1`";
    let error = test.cloud.ensure_instance(with_volume("db-2")).await.unwrap_err();
    assert_eq!(error.to_string(), held);
    assert_eq!(test.cloud.delete_volume(&id("data")).await.unwrap_err().to_string(), held);
    test.cloud.terminate_instance(&id("db-1"), GRACE).await.unwrap();
    let image = test.folder.join("v1/volumes/data/volume.ext4");
    let (clean, told) = host("e2fsck", &["-fn", image.as_str()]);
    assert!(clean, "{told}");

    test.cloud.ensure_instance(with_volume("db-2")).await.unwrap();
    test.booted("db-2").await;
    assert_eq!(test.shell("db-2", "cat /srv/data/file; ls /root").await, "kept\n");
    let view = test.cloud.inspect_volume(&id("data")).await.unwrap().unwrap();
    assert_eq!(view.holder, Some(id("db-2")));
    // Even one that is ended the hard way lets go of it at once, and the file system bears it.
    test.shell("db-2", "echo more >/srv/data/more; sync").await;
    test.cloud.terminate_instance(&id("db-2"), Duration::ZERO).await.unwrap();
    test.cloud.ensure_instance(with_volume("db-3")).await.unwrap();
    test.booted("db-3").await;
    assert_eq!(test.shell("db-3", "cat /srv/data/file /srv/data/more").await, "kept\nmore\n");
    test.cloud.terminate_instance(&id("db-3"), GRACE).await.unwrap();
    test.cloud.delete_volume(&id("data")).await.unwrap();
    test.cloud.delete_volume(&id("data")).await.unwrap();
    test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_and_what_was_is_found() {
    if !can_run() {
        return;
    }
    let test = TestCloud::new(13, base_disk().await).await;
    let cidr = test.network.cidr;
    let error = test.cloud.ensure_network(NetworkSpec { id: id("other"), cidr }).await.unwrap_err();
    assert!(matches!(error, CloudError::Overlap { .. }), "{error}");
    assert_eq!(test.cloud.inspect_network(&id("other")).await.unwrap(), None);
    test.launch("web").await;
    let error = test.cloud.delete_network(&id("net")).await.unwrap_err();
    assert_eq!(error.to_string(), "network `net` is used by instance `web`");
    let mut other = test.spec("web");
    other.user_data = Some("#cloud-config\n{}\n".into());
    let error = test.cloud.ensure_instance(other).await.unwrap_err();
    assert!(matches!(&error, CloudError::Different { what, .. } if what == "user data"), "{error}");
    assert_eq!(test.cloud.running_digest(&id("web")).await.unwrap(), Some(test.spec("web").digest));

    // Stopped and started, as after the host's reboot: the same address, and what it wrote.
    test.shell("web", "echo kept >/root/file").await;
    let before = test.cloud.inspect_instance(&id("web")).await.unwrap().unwrap();
    test.cloud.stop_instance(&id("web"), GRACE).await.unwrap();
    let stopped = test.cloud.inspect_instance(&id("web")).await.unwrap().unwrap();
    assert_eq!((stopped.state, stopped.started_at), (State::Stopped, None));
    let after = test.launch("web").await;
    assert_eq!(after.address, before.address);
    assert_eq!(test.shell("web", "cat /root/file; hostname").await, "kept\nweb\n");
    assert!(after.memory.is_some() && after.started_at >= before.started_at);

    // A bridge that somebody took away is put back.
    assert!(host("ip", &["link", "delete", &test.network.bridge]).0);
    assert!(!test.cloud.inspect_network(&id("net")).await.unwrap().unwrap().up);
    let spec = NetworkSpec { id: id("net"), cidr };
    assert!(test.cloud.ensure_network(spec).await.unwrap().view.up);
    test.end().await;
}
