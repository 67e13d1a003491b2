//! olbake itself on the test cloud: images baked on instances, deployed, upgraded under load, and nothing left behind
//! however it ends.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on is to end")]

#[path = "common/bodies.rs"]
mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use common::{can_run, public_image};
use olbake_testkit::ec2::balancer::HostBalancers;
use olbake_testkit::ec2::body::HostBodies;
use olbake_testkit::ec2::{Config, Fault, FaultKind, TestCloud, When};
use olbake_testkit::load::Load;
use serde_json::Value;

const NETWORK: &str = "infrastructure.aws.network.QA";
const HELLO: &str = "applications.hello.QA";
/// Requests a second under which instances are replaced.
const RATE: u32 = 50;

/// A recipe of one file, on Debian's own image.
const MARK: &str = r#"def configure(s, m):
    files.content("/etc/mark", "MARK\n")

def units(s, m):
    EXTRA

def verify(s, m):
    check.file("/etc/mark", contains = "MARK")
    check.file("/etc/olbake/instance.json")

component(name = "mark", configure = configure, units = units, verify = verify)
"#;
const IMAGE: &str = r#"image(
    name = "mark",
    base = ami("136693071363", "debian-12-*"),
    components = [use("//components/mark")],
)
"#;

/// Clouds have the same default network: on one host, one at a time runs.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A cloud and a workspace.
struct World {
    cloud: TestCloud,
    python: Utf8PathBuf,
    path: Utf8PathBuf,
    _folder: tempfile::TempDir,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

fn olbake() -> Option<PathBuf> {
    let beside = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("olbake");
    let program = std::env::var_os("OLBAKE_AWS_BIN").map_or(beside, PathBuf::from);
    let knows_aws = Command::new(&program)
        .args(["gc", "--on", "ec2"])
        .env("AWS_REGION", "")
        .current_dir("/")
        .output()
        .is_ok_and(|output| !String::from_utf8_lossy(&output.stderr).contains("built without"));
    let required = std::env::var("OLBAKE_TEST_REQUIRE").is_ok_and(|value| value == "1");
    let has_agent = std::env::var_os("OLBAKE_AGENT").is_some();
    if knows_aws && has_agent {
        return Some(program);
    }
    assert!(!required, "`{}` was built without AWS, or OLBAKE_AGENT names no agent", program.display());
    eprintln!("SKIPPED: `{}` was built without AWS, or OLBAKE_AGENT names no agent", program.display());
    None
}

impl World {
    async fn new() -> Option<Self> {
        if !can_run() || olbake().is_none() {
            return None;
        }
        let turn = TURN.lock().await;
        let image = public_image().await;
        let folder = tempfile::Builder::new().prefix("olbake-ec2-test-").tempdir_in("/var/tmp").unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().to_owned();
        let root = path.join("cloud");
        let config = Config {
            bodies: Some(Arc::new(HostBodies::open(&root.join("bodies")).unwrap())),
            balancers: Some(HostBalancers::open(&root.join("balancers")).unwrap()),
            images: vec![image.into()],
            ..Config::new(root)
        };
        let cloud = TestCloud::start(config).await.unwrap();
        let python = TestCloud::python().await.unwrap();
        let world = Self { cloud, python, path: path.join("workspace"), _folder: folder, _turn: turn };
        world.write("olbake.toml", "[ec2]\naddress = \"private\"\n");
        Some(world)
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.path.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A recipe whose image is another one than before.
    fn mark(&self, mark: &str, extra: &str) {
        self.write("components/mark/component.star", &MARK.replace("MARK", mark).replace("EXTRA", extra));
        self.write("images/mark/image.star", IMAGE);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(olbake().unwrap());
        command
            .args(arguments)
            .current_dir(&self.path)
            .envs(self.cloud.environment())
            .env("OLBAKE_PASSPHRASE", "an example for everyone")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs olbake while the cloud goes on.
    async fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = self.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        Ended(output)
    }

    async fn succeeds(&self, arguments: &[&str]) -> Ended {
        let ended = self.run(arguments).await;
        assert_eq!(ended.0.status.code(), Some(0), "{arguments:?}: {}", ended.said());
        ended
    }

    /// Runs olbake and kills it at a call; whether it came so far.
    async fn killed(&self, arguments: &[&str], action: &str, number: u64, when: When) -> bool {
        let aim = self.cloud.kill_at_action(action, number, when);
        let child = self.command(arguments).spawn().unwrap();
        aim.at(child.id());
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        output.status.signal() == Some(9)
    }

    /// Runs olbake as often as it takes, killing it after each call that changes something: whatever ran before, the
    /// next one goes on. Says how often it was killed.
    async fn killed_after_every_change(&self, arguments: &[&str]) -> usize {
        for kills in 0..200 {
            let aim = self.cloud.kill_at_change(When::After);
            let child = self.command(arguments).spawn().unwrap();
            aim.at(child.id());
            let output =
                tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
            if output.status.signal() == Some(9) {
                continue;
            }
            self.cloud.forget_stops();
            let ended = Ended(output);
            assert_eq!(ended.0.status.code(), Some(0), "after {kills} kills: {}", ended.said());
            return kills;
        }
        panic!("{arguments:?} does not come to an end");
    }

    async fn inventory(&self) -> Value {
        self.inventory_of("us-east-1").await
    }

    async fn inventory_of(&self, region: &str) -> Value {
        self.script("inventory.py", region).await
    }

    /// What a script says of a region.
    async fn script(&self, name: &str, region: &str) -> Value {
        let scripts = Utf8Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/ec2");
        let mut command = Command::new(&self.python);
        command.arg(scripts.join(name)).envs(self.cloud.environment());
        command.env("AWS_REGION", region).env("AWS_DEFAULT_REGION", region);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// There are images of registered versions, their snapshots, and nothing else.
    async fn assert_only(&self, images: usize) {
        let there = self.inventory().await;
        for (kind, found) in there.as_object().unwrap() {
            match kind.as_str() {
                "images" => {
                    let known = self.places();
                    let found: Vec<&String> = found.as_object().unwrap().keys().collect();
                    assert_eq!(found.len(), images, "{there:#}");
                    assert!(found.iter().all(|image| known.contains(*image)), "{there:#} {known:?}");
                }
                "snapshots" => assert_eq!(found.as_array().unwrap().len(), images, "{there:#}"),
                _ => assert_eq!(found, &serde_json::json!([]), "{kind}: {there:#}"),
            }
        }
    }

    /// A network and a service of three instances are there once.
    async fn assert_one_service(&self) {
        let there = self.inventory().await;
        for (kind, count) in
            [("vpcs", 1), ("scaling", 1), ("balancers", 1), ("templates", 1), ("instances", 3)]
        {
            assert_eq!(there[kind].as_array().unwrap().len(), count, "{kind}: {there:#}");
        }
    }

    /// The images that the registry knows.
    fn places(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.path.join(".olbake/registry/v1/places")];
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir_utf8().into_iter().flatten().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.into_path());
                } else {
                    let text = std::fs::read(entry.path()).unwrap();
                    let place: Value = serde_json::from_slice(&text).unwrap();
                    found.push(place["id"].as_str().unwrap().to_owned());
                }
            }
        }
        found
    }
}

/// How olbake ended.
struct Ended(Output);

impl Ended {
    fn said(&self) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        text(&self.0.stdout) + &text(&self.0.stderr)
    }

    fn fails_with(&self, code: i32, words: &[&str]) {
        let said = self.said();
        assert_eq!(self.0.status.code(), Some(code), "{said}");
        for word in words {
            assert!(said.contains(word), "`{word}` is not in: {said}");
        }
    }
}

fn copy_of_the_repository(world: &World) {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let root = Utf8Path::new(&root).ancestors().nth(2).unwrap();
    for name in ["components", "images", "stacks", "policies"] {
        let copied = Command::new("cp").args(["-r", root.join(name).as_str(), world.path.as_str()]).status();
        assert!(copied.unwrap().success());
    }
    world.write(
        "stacks/applications/hello/QA.toml",
        "provider = \"aws\"\nwatch = \"1s\"\npatience = \"60s\"\n",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hello_is_baked_deployed_upgraded_under_load_and_removed() {
    let Some(world) = World::new().await else { return };
    copy_of_the_repository(&world);
    world.succeeds(&["bake", "web", "--on", "ec2", "--channel", "QA"]).await;
    world.assert_only(2).await;
    // What is there is not made again.
    world.cloud.reset_counts();
    world.succeeds(&["bake", "web", "--on", "ec2"]).await;
    assert!(!world.cloud.counts().by_action.contains_key("ec2:RunInstances"), "{:?}", world.cloud.counts());

    let made = world.killed_after_every_change(&["deploy", "--yes", "--stack", NETWORK]).await;
    assert!(made > 10, "the network was made in {made} calls");
    world.succeeds(&["preview", "--stack", NETWORK]).await.says("nothing to do");
    let made = world.killed_after_every_change(&["deploy", "--yes", "--stack", HELLO]).await;
    assert!(made > 10, "the service was made in {made} calls");
    world.succeeds(&["preview", "--stack", HELLO]).await.says("nothing to do");
    world.assert_one_service().await;
    let address = world.address().await;
    let first = answer(address);
    assert_eq!(first["image"], "web");
    let load = Load::start(address, "/", RATE);
    world
        .succeeds(&["bake", "web", "--on", "ec2", "--channel", "QA", "--set", "hello.greeting=second"])
        .await;
    world.succeeds(&["deploy", "--yes", "--stack", HELLO]).await;
    let second = answer(address);
    assert_eq!(second["greeting"], "second");
    assert_ne!(second["digest"], first["digest"]);

    // Back to what ran before, by a rollout that is killed all the time.
    world.succeeds(&["rollback", "web", "--channel", "QA"]).await;
    let made = world.killed_after_every_change(&["deploy", "--yes", "--stack", HELLO]).await;
    assert!(made >= 9, "three instances were replaced in {made} calls");
    let report = load.stop();
    assert!(report.sent > 100 && report.failed == 0, "{} sent, {:?}", report.sent, report.failures);
    assert_eq!(answer(address)["digest"], first["digest"]);
    world.assert_one_service().await;

    let removed = world.killed_after_every_change(&["destroy", "--yes", "--stack", HELLO]).await;
    assert!(removed > 5, "the service was removed in {removed} calls");
    let removed = world.killed_after_every_change(&["destroy", "--yes", "--stack", NETWORK]).await;
    assert!(removed > 5, "the network was removed in {removed} calls");
    world.assert_only(3).await;
    world.cloud.stop().await;
}

impl World {
    /// Where the load balancer listens.
    async fn address(&self) -> SocketAddr {
        let url = format!("{}/_balancers", self.cloud.endpoint());
        let output = tokio::process::Command::new(&self.python)
            .args([
                "-c",
                "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())",
                &url,
            ])
            .output()
            .await
            .unwrap();
        let balancers: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
        let (_, balancer) = balancers.into_iter().next().unwrap();
        let address: IpAddr = balancer["address"].as_str().unwrap().parse().unwrap();
        assert_eq!(balancer["problem"], Value::Null);
        (address, 80).into()
    }
}

/// What the service says.
fn answer(address: SocketAddr) -> Value {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{text}");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"))
}

const BAKE: [&str; 4] = ["bake", "mark", "--on", "ec2"];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_a_bake_is_killed_at_the_next_one_ends_with_one_image() {
    let Some(world) = World::new().await else { return };
    let calls = [
        ("ec2:CreateSecurityGroup", 1),
        ("ec2:AuthorizeSecurityGroupIngress", 1),
        ("ec2:RunInstances", 1),
        ("ec2:CreateSnapshot", 1),
        ("ec2:TerminateInstances", 1),
        ("ec2:RegisterImage", 1),
        ("ec2:RunInstances", 2),
        ("ebs:GetSnapshotBlock", 1),
        ("ec2:RegisterImage", 2),
        ("ec2:DeregisterImage", 1),
        ("ec2:DeleteSecurityGroup", 1),
    ];
    let mut images = 0;
    for (action, number) in calls {
        let changes = matches!(action, "ec2:RunInstances" | "ec2:CreateSnapshot" | "ec2:RegisterImage");
        let whens: &[When] = if changes { &[When::Before, When::After] } else { &[When::After] };
        for when in whens {
            images += 1;
            world.mark(&format!("{action} {number} {when:?}"), "pass");
            assert!(world.killed(&BAKE, action, number, *when).await, "{action} {number} was not reached");
            world.succeeds(&BAKE).await;
            world.assert_only(images).await;
        }
    }
    // Who does not bake again has `gc` clean up.
    world.mark("the last", "pass");
    assert!(world.killed(&BAKE, "ec2:CreateSnapshot", 1, When::After).await);
    let left = world.inventory().await;
    assert_ne!(left["instances"], serde_json::json!([]));
    world.succeeds(&["gc", "--on", "ec2", "--days", "0", "--apply"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.succeeds(&["gc", "--on", "ec2", "--days", "0", "--apply"]).await;
    world.assert_only(images).await;
    world.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_a_publish_is_killed_at_the_next_one_ends_with_one_image() {
    let Some(world) = World::new().await else { return };
    world.mark("one", "pass");
    world.succeeds(&BAKE).await;
    let calls = [
        ("ebs:StartSnapshot", 1),
        ("ebs:PutSnapshotBlock", 1),
        ("ebs:PutSnapshotBlock", 100),
        ("ebs:CompleteSnapshot", 1),
        ("ec2:RegisterImage", 1),
    ];
    // A region for each, so that each begins anew.
    let regions = ["us-east-2", "us-west-1", "us-west-2", "eu-west-1", "eu-west-2", "eu-west-3"];
    let regions = regions.into_iter().chain(["eu-central-1", "eu-north-1", "ap-south-1", "ap-southeast-1"]);
    let whens = calls.into_iter().flat_map(|call| [When::Before, When::After].map(|when| (call, when)));
    for (region, ((action, number), when)) in regions.zip(whens) {
        let publish = ["publish", "mark", "--to", "ec2", "--region", region, "--yes"];
        assert!(world.killed(&publish, action, number, when).await, "{action} {number} was not reached");
        world.succeeds(&publish).await;
        let there = world.inventory_of(region).await;
        assert_eq!(there["images"].as_object().unwrap().len(), 1, "{action} {when:?}: {there:#}");
        assert_eq!(there["snapshots"].as_array().unwrap().len(), 1, "{action} {when:?}: {there:#}");
        world.succeeds(&publish).await.says("it is there");
        let told = world.succeeds(&[&publish[..], &["--json"]].concat()).await;
        let last: Value =
            serde_json::from_slice(told.0.stdout.trim_ascii().rsplit(|b| *b == b'\n').next().unwrap())
                .unwrap();
        assert_eq!((&last["event"], &last["places"][0]["region"]), (&"result".into(), &region.into()));
    }
    world.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_said_and_leaves_nothing() {
    let Some(world) = World::new().await else { return };
    // The recipe is wrong.
    world.mark("one", "run.command([\"false\"])");
    let ended = world.run(&BAKE).await;
    ended.fails_with(7, &["run.command false", "components/mark/component.star:5"]);
    world.assert_only(0).await;
    // So is a check on the fresh boot.
    world.mark("two", "files.absent(\"/etc/olbake\")");
    world.write(
        "components/mark/component.star",
        &MARK.replace("contains = \"MARK\"", "contains = \"other\"").replace("EXTRA", "pass"),
    );
    world.run(&BAKE).await.fails_with(7, &["check does not hold on a fresh boot"]);
    world.assert_only(0).await;

    world.mark("three", "pass");
    let denied = FaultKind::Error {
        code: "UnauthorizedOperation".to_owned(),
        message: "You are not authorized".to_owned(),
        status: 403,
    };
    world.cloud.fault(Fault::next("CreateSnapshot", denied));
    world.run(&BAKE).await.fails_with(6, &["`ec2:CreateSnapshot` is denied", "lacks `ec2:CreateSnapshot`"]);
    world.assert_only(0).await;
    world.cloud.clear_faults();

    // A snapshot of what is still written to would be torn.
    world.mark("four", "files.absent(\"/usr/sbin/fsfreeze\")");
    world.run(&BAKE).await.fails_with(7, &["cannot be frozen", "fsfreeze: not found"]);
    world.assert_only(0).await;
    world.mark("three", "pass");

    // No room for any type; then room for the second.
    world.write(
        "olbake.toml",
        "[ec2]\naddress = \"private\"\ninstance_types = [\"c5.large\", \"t3.medium\"]\n",
    );
    world.cloud.fault(Fault { times: 2, ..Fault::next("RunInstances", FaultKind::InsufficientCapacity) });
    world.run(&BAKE).await.fails_with(6, &["c5.large", "t3.medium", "InsufficientInstanceCapacity"]);
    world.assert_only(0).await;
    world.cloud.clear_faults();
    world.cloud.fault(Fault::next("RunInstances", FaultKind::InsufficientCapacity));
    world.succeeds(&BAKE).await;
    world.assert_only(1).await;

    // Answers that were lost, too many calls, what is not seen at once.
    for (number, (action, kind)) in [
        ("RunInstances", FaultKind::CutAfter),
        ("CreateSecurityGroup", FaultKind::CutAfter),
        ("CreateSnapshot", FaultKind::CutAfter),
        ("RegisterImage", FaultKind::CutAfter),
        ("Describe*", FaultKind::Throttle),
    ]
    .into_iter()
    .enumerate()
    {
        world.cloud.fault(Fault::next(action, kind));
        world.mark(&format!("fault {number}"), "pass");
        world.succeeds(&BAKE).await;
        world.assert_only(2 + number).await;
        world.cloud.clear_faults();
    }
    world.write("olbake.toml", "[ec2]\naddress = \"private\"\ninstance_types = [\"t9.huge\"]\n");
    world.mark("four", "pass");
    world.run(&BAKE).await.fails_with(6, &["t9.huge"]);
    world.write("olbake.toml", "[ec2]\naddress = \"private\"\nsubnet = \"subnet-00000000\"\n");
    world.run(&BAKE).await.fails_with(3, &["there is no subnet `subnet-00000000`"]);
    world.run(&["bake", "mark", "--on", "ec2", "--resume"]).await.fails_with(3, &["could be gone on with"]);
    world.assert_only(6).await;
    world.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_taken_away_is_said_and_one_that_boots_again_is_waited_for() {
    let Some(world) = World::new().await else { return };
    world.mark(
        "reboot",
        "again = files.content(\"/etc/again\", \"once\")\n    os.reboot(when_changed = [again])",
    );
    // Who boots again may say so, or be gone before the word is out.
    world.succeeds(&BAKE).await.says("again");
    world.mark("interrupted", "run.command([\"sleep\", \"60\"])");
    let child = world.command(&BAKE).spawn().unwrap();
    let waited = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let instance = loop {
        let there = world.inventory().await;
        if let Some(instance) = there["instances"][0].as_str() {
            break instance.to_owned();
        }
    };
    tokio::time::sleep(Duration::from_secs(12)).await;
    world.cloud.interrupt(&instance).await.unwrap();
    let ended = Ended(waited.await.unwrap());
    ended.fails_with(6, &[&instance, "terminated"]);
    world.assert_only(1).await;
    world.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_does_not_answer_or_is_another_one_is_refused() {
    let Some(world) = World::new().await else { return };
    world.write("olbake.toml", "[ec2]\naddress = \"private\"\nssh_timeout = \"20s\"\n");
    world.mark("one", "pass");
    let told = |text: &str| Fault::next("RunInstances", FaultKind::UserData { text: text.to_owned() });
    // One that was told nothing starts no server. What its console says is shown.
    world.cloud.fault(told("#cloud-config\n{}\n"));
    world
        .run(&BAKE)
        .await
        .fails_with(7, &["does not answer by SSH at", "within 20 s", "its console ended with"]);
    world.assert_only(0).await;
    // A server that has another key gets nothing from us.
    world.cloud.fault(told(
        "#!/bin/sh\nset -e\nmkdir -p /run/sshd\nssh-keygen -q -t ed25519 -N '' -f /root/stranger\n\
         /usr/sbin/sshd -p 22022 -h /root/stranger\n",
    ));
    let ended = world.run(&BAKE).await;
    ended.fails_with(8, &["did not prove who it is", "is not the instance that was started"]);
    world.assert_only(0).await;
    world.succeeds(&BAKE).await;
    world.assert_only(1).await;
    world.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_takes_long_is_gone_on_with() {
    let Some(world) = World::new().await else { return };
    world.write("olbake.toml", "[ec2]\naddress = \"private\"\nimage_timeout = \"3s\"\n");
    world.mark("one", "pass");
    world.cloud.fault(Fault::next("CreateSnapshot", FaultKind::SlowSnapshot { ms: 15_000 }));
    let ended = world.run(&BAKE).await;
    ended.fails_with(6, &["is not ready yet", "`olbake bake --resume` goes on with snap-"]);
    let there = world.inventory().await;
    assert_eq!((&there["instances"], &there["groups"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert_eq!(there["snapshots"].as_array().unwrap().len(), 1, "{there:#}");
    tokio::time::sleep(Duration::from_secs(15)).await;
    let ended = world.succeeds(&[&BAKE[..], &["--resume"]].concat()).await;
    ended.says("going on with snap-");
    world.assert_only(1).await;
    world.cloud.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spot_capacity_is_asked_for_first_and_images_are_copied_shared_and_deprecated() {
    let Some(world) = World::new().await else { return };
    world.write(
        "olbake.toml",
        "[ec2]\naddress = \"private\"\nspot = true\ncopy_to = [\"us-west-2\"]\nshare_with = [\"210987654321\"]\n\
         deprecate_after = 30\n",
    );
    world.mark("one", "pass");
    // No spot capacity for the first instance; there is for the second.
    world.cloud.fault(Fault::next("RunInstances", FaultKind::InsufficientCapacity));
    world.succeeds(&BAKE).await.says("InsufficientInstanceCapacity");
    world.assert_only(1).await;
    for region in ["us-east-1", "us-west-2"] {
        let seen = world.script("image.py", region).await;
        let lifecycles =
            if region == "us-east-1" { serde_json::json!(["normal", "spot"]) } else { serde_json::json!([]) };
        assert_eq!(seen["lifecycles"], lifecycles, "{region}: {seen:#}");
        let [image] = &seen["images"].as_array().unwrap()[..] else { panic!("{region}: {seen:#}") };
        assert_eq!(image["shared_with"], serde_json::json!(["210987654321"]), "{region}: {seen:#}");
        assert_eq!(image["days"], 30, "{region}: {seen:#}");
    }
    // One of another version starts from spot capacity alone.
    world.mark("two", "pass");
    world.succeeds(&BAKE).await;
    let seen = world.script("image.py", "us-east-1").await;
    assert_eq!(seen["lifecycles"], serde_json::json!(["normal", "spot", "spot", "spot"]), "{seen:#}");
    world.cloud.stop().await;
}

impl Ended {
    fn says(&self, word: &str) {
        assert!(self.said().contains(word), "`{word}` is not in: {}", self.said());
    }
}
