//! The test cloud does what EC2 does, as an independent client sees it: boto3, in scripts of `tests/ec2`. Its disks and
//! bodies, faults and restarts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to end")]

#[path = "common/bodies.rs"]
mod common;

use std::process::{Output, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_testkit::ec2::{Config, TestCloud, When};
use tokio::process::{Child, Command};

/// How long a script may take where much else is done.
const PATIENCE: Duration = Duration::from_secs(500);

fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
    let folder = tempfile::Builder::new().prefix("olbake-ec2-test-").tempdir_in("/var/tmp").unwrap();
    let path = Utf8Path::from_path(folder.path()).unwrap().join("cloud");
    (folder, path)
}

/// A script as a client of a cloud.
async fn script(cloud: &TestCloud, name: &str) -> Command {
    let scripts = Utf8Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/ec2");
    let mut command = Command::new(TestCloud::python().await.unwrap());
    command.arg(scripts.join(name)).envs(cloud.environment()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn end(child: Child) -> Output {
    tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("the script ends").unwrap()
}

/// A script succeeds on a cloud.
async fn passes(cloud: &TestCloud, name: &str) {
    let output = end(script(cloud, name).await.spawn().unwrap()).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name}: {said}");
}

async fn passes_on_records(name: &str) {
    let (_folder, path) = folder();
    let cloud = TestCloud::start(Config::new(path)).await.unwrap();
    passes(&cloud, name).await;
    cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_written_and_read_block_by_block() {
    passes_on_records("ebs.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_keep_what_they_are_told() {
    passes_on_records("images.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_meet_the_calls_that_they_are_for() {
    passes_on_records("faults.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_replace_what_died_and_are_refreshed() {
    passes_on_records("groups.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_models_of_aws_do_not_allow_is_refused() {
    passes_on_records("models.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_killed_at_the_call_that_was_named() {
    let (_folder, path) = folder();
    let cloud = TestCloud::start(Config::new(path)).await.unwrap();
    for (when, made) in [(When::Before, 1), (When::After, 2)] {
        cloud.reset_counts();
        let aim = cloud.kill_at_call(2, when);
        let child = script(&cloud, "three_networks.py").await.spawn().unwrap();
        aim.at(child.id().unwrap());
        let output = end(child).await;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9));
        assert_eq!(cloud.counts().by_action["ec2:CreateVpc"], 2);
        // The one that there always is, and those that were made; they are removed for the next turn.
        let output = end(script(&cloud, "remove_networks.py").await.spawn().unwrap()).await;
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), made.to_string(), "{when:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cloud_at_a_time_uses_a_folder_and_the_next_starts_empty() {
    let (_folder, path) = folder();
    let cloud = TestCloud::start(Config::new(&path)).await.unwrap();
    assert!(TestCloud::start(Config::new(&path)).await.is_err());
    passes(&cloud, "ebs.py").await;
    drop(cloud);
    let cloud = TestCloud::start(Config::new(&path)).await.unwrap();
    assert_eq!(std::fs::read_dir(path.join("snapshots")).unwrap().count(), 0);
    passes(&cloud, "ebs.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_boot_from_images_and_images_are_made_of_them() {
    if !common::can_run() {
        return;
    }
    let (_folder, path) = folder();
    let config =
        Config::with_bodies(path.clone(), &common::kept(), &|line| eprintln!("{line}")).await.unwrap();
    let cloud = TestCloud::start(config).await.unwrap();
    passes(&cloud, "bodies.py").await;
    cloud.stop().await;
    let bodies = path.join("bodies/bodies");
    assert_eq!(std::fs::read_dir(&bodies).map_or(0, Iterator::count), 0, "something is left in `{bodies}`");
}
