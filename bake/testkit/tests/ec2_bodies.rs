//! Instances of the test cloud have bodies: they boot from their disks, write to them, and end in every way.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to end")]

#[path = "common/bodies.rs"]
mod common;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use camino::Utf8Path;
use common::{Place, assert_clean, can_run, file_on, host, public_image};
use olbake_testkit::ec2::body::{Bodies, BodyState, HostBodies};

const METADATA: &str = "http://169.254.169.254/latest";

/// A program that asks the metadata service for paths, with a token unless told otherwise.
fn ask_metadata(path: &str, with_token: bool) -> String {
    let token = "token = urllib.request.urlopen(urllib.request.Request(base + '/api/token', method='PUT', \
                 headers={'X-aws-ec2-metadata-token-ttl-seconds': '60'})).read().decode()";
    let token = if with_token { token } else { "token = ''" };
    format!(
        "python3 -c \"
import urllib.request, urllib.error
base = '{METADATA}'
{token}
try:
    headers = {{'X-aws-ec2-metadata-token': token}} if token else {{}}
    answer = urllib.request.urlopen(urllib.request.Request(base + '/{path}', headers=headers))
    print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code)
\""
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_boots_with_what_its_user_wants_and_its_disk_has_what_it_wrote() {
    if !can_run() {
        return;
    }
    let image = public_image().await;
    let place = Place::new(1);
    let body = place.body(10, &image.disk).await;
    assert_eq!(place.bodies.state(&body.instance).await, BodyState::Absent);
    place.up(&body).await;
    // The host key is the one that was given, or there would be no login.
    let shell = |command: &str| place.ssh(&body, "admin", command).unwrap();
    assert_eq!(
        shell("cat /etc/from-user-data /etc/from-runcmd"),
        "hello 10\nhello 10\n".replace("10\n", "10")
    );
    assert_eq!(shell("sudo id -u"), "0\n");
    assert_eq!(shell("hostname").trim(), format!("ip-{}", body.address.to_string().replace('.', "-")));
    // The metadata service, version 2 only.
    assert_eq!(shell(&ask_metadata("meta-data/instance-id", true)).trim(), format!("200 {}", body.instance));
    assert_eq!(shell(&ask_metadata("meta-data/instance-id", false)).trim(), "401");
    assert!(shell(&ask_metadata("meta-data/", true)).contains("placement/"));
    assert!(shell(&ask_metadata("user-data", true)).contains("#cloud-config"));
    assert!(shell(&ask_metadata("dynamic/instance-identity/document", true)).contains("eu-west-1a"));
    // cloud-init took its settings from there, and all of it was done.
    let result = shell("cat /run/cloud-init/result.json");
    assert!(result.contains("DataSourceEc2") && result.contains("\"errors\": []"), "{result}");

    // A reboot is another boot.
    let before = shell("cat /proc/sys/kernel/random/boot_id");
    place.bodies.reboot(&body.instance).await.unwrap();
    place.reachable(&body).await;
    assert_ne!(shell("cat /proc/sys/kernel/random/boot_id"), before);

    // Its disk can be read while it runs: at rest while its own root freezes it.
    shell("echo frozen | sudo tee /etc/frozen");
    let copy = place.path.join("copy.raw");
    place.bodies.run(&body.instance, &["fsfreeze", "--freeze", "/"]).await.unwrap();
    std::fs::copy(&body.disk, &copy).unwrap();
    place.bodies.run(&body.instance, &["fsfreeze", "--unfreeze", "/"]).await.unwrap();
    assert_clean(&copy);
    assert_eq!(file_on(&copy, "/etc/frozen").as_deref(), Some("frozen\n"));
    std::fs::remove_file(copy).unwrap();

    // What it wrote is on its disk after a stop, and boots as another instance.
    shell("echo written | sudo tee /etc/written");
    place.bodies.stop(&body.instance).await.unwrap();
    assert_eq!(place.bodies.state(&body.instance).await, BodyState::Stopped);
    assert_clean(&body.disk);
    assert_eq!(file_on(&body.disk, "/etc/written").as_deref(), Some("written\n"));
    let other = place.body(11, &body.disk).await;
    place.up(&other).await;
    assert_eq!(
        place.ssh(&other, "admin", "cat /etc/written /etc/from-user-data").unwrap(),
        "written\nhello 11"
    );

    // The first starts again, as the instance that it was.
    place.bodies.start(&body).await.unwrap();
    place.reachable(&body).await;
    assert_eq!(shell("cat /etc/from-user-data"), "hello 10");
    // One that is frozen ends all the same, and lets go of its disk.
    place.bodies.run(&other.instance, &["fsfreeze", "--freeze", "/"]).await.unwrap();
    for body in [&body, &other] {
        place.bodies.end(&body.instance).await.unwrap();
        assert_eq!(place.bodies.state(&body.instance).await, BodyState::Absent);
        // Its disk is the proxy's.
        assert!(body.disk.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_powers_itself_off_is_seen_as_stopped() {
    if !can_run() {
        return;
    }
    let image = public_image().await;
    let place = Place::new(2);
    let body = place.body(10, &image.disk).await;
    place.up(&body).await;
    // The connection may end before the answer.
    drop(place.ssh(&body, "admin", "sudo systemctl poweroff"));
    while place.bodies.state(&body.instance).await == BodyState::Running {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(place.bodies.state(&body.instance).await, BodyState::Stopped);
    assert_clean(&body.disk);
    assert!(place.bodies.console(&body.instance).await.contains("Power"), "the console is kept");
    place.bodies.end(&body.instance).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_an_owner_that_was_killed() {
    if !can_run() {
        return;
    }
    let image = public_image().await;
    let place = Place::new(3);
    let (folder, disk) = (place.path.join("killed"), place.body(1, &image.disk).await.disk);
    let address = place.address(10);
    let mut owner = std::process::Command::new(example("body_owner"))
        .args([folder.as_str(), disk.as_str(), &address.to_string()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    let bridge = format!("obk{:08x}", place.address(1).to_bits());
    assert!(!traces(&folder, &bridge).is_empty());
    // While it boots, and so writes.
    std::thread::sleep(Duration::from_secs(2));
    owner.kill().unwrap();
    owner.wait().unwrap();
    drop(HostBodies::open(&folder).unwrap());
    // The kernel writes the file system out before it lets go of the disk.
    for _ in 0..100 {
        if traces(&folder, &bridge).is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(traces(&folder, &bridge), Vec::<String>::new());
    assert_clean(&disk);
}

/// What the host has of a cloud, a line each.
fn traces(folder: &Utf8Path, bridge: &str) -> Vec<String> {
    let mut traces = Vec::new();
    let mut keep = |kind: &str, lines: &str, part: &str| {
        let found = lines.lines().filter(|line| line.contains(part));
        traces.extend(found.map(|line| format!("{kind}: {line}")));
    };
    keep("mount", &std::fs::read_to_string("/proc/self/mountinfo").unwrap(), folder.as_str());
    let parent = folder.parent().unwrap();
    keep("loop", &host("losetup", &["--list", "--noheadings", "--output", "BACK-FILE"]), parent.as_str());
    keep("process", &host("ps", &["-eo", "pid,args"]), folder.as_str());
    keep("link", &host("ip", &["-oneline", "link", "show"]), bridge);
    keep("rules", &host("nft", &["list", "tables"]), bridge);
    traces
}

/// A program of this crate's examples, which cargo builds with the tests.
fn example(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples").join(name)
}
