//! Stacks in the local cloud: the repository's own example, deployed, upgraded under load, broken, cut short, removed.

use std::fs::File;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use olbake_testkit::load::{Load, Report};

use super::library;
use super::support::{Ended, Traces, World};

const NETWORK: &str = "infrastructure.local.network.QA";
const HELLO: &str = "applications.hello.QA";
const SUBSTRUCTURE: &str = "substructure.hello.QA";
/// Requests a second under which instances are replaced.
const RATE: u32 = 200;

/// The repository's recipes and stacks, with addresses of the test's own and secrets that the test seals.
fn world() -> Option<World> {
    let world = World::new(&[])?;
    library::copy(&world, &["components", "images", "olbake.toml", "stacks", "policies"]);
    world.write("stacks/infrastructure/local/network/QA.toml", "cidr = \"10.91.7.0/24\"\n");
    world.write("stacks/applications/hello/QA.toml", "instances = 3\nwatch = \"1s\"\npatience = \"45s\"\n");
    world.write("stacks/substructure/hello/QA.toml", "");
    let stack = world.dir.join("stacks/applications/hello/stack.star");
    let (quorum, checked) = (r#""kind": "quorum""#, r#""kind": "quorum", "member_check": "http :80/health""#);
    let text = std::fs::read_to_string(&stack).unwrap();
    assert!(text.contains(quorum));
    std::fs::write(&stack, text.replace(quorum, checked)).unwrap();
    Some(world)
}

pub(crate) fn seal(world: &World, stack: &str, key: &str, value: &str) {
    let mut child = world
        .command(&["config", "--stack", stack, "set", "--secret", key])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), value.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn deploy(world: &World, stack: &str) -> Ended {
    let ended = world.run(&["deploy", "--yes", "--stack", stack]);
    assert_eq!(ended.code, 0, "the deploy of {stack} failed:\n{}", ended.said());
    ended
}

/// Does something while the service gets requests.
fn under_load(world: &World, what: impl FnOnce()) -> Report {
    let url = world.run(&["outputs", "--stack", HELLO, "url"]).stdout;
    let address: SocketAddr = url.trim().strip_prefix("http://").unwrap().parse().unwrap();
    let load = Load::start(address, "/", RATE);
    std::thread::sleep(Duration::from_millis(500));
    what();
    std::thread::sleep(Duration::from_secs(1));
    let report = load.stop();
    assert!(report.sent > 100, "the load was no load: {} requests", report.sent);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    report
}

fn links() -> String {
    let listed = Command::new("ip").args(["-o", "link"]).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    text.lines().filter_map(|line| line.split(": ").nth(1)).collect::<Vec<_>>().join("\n")
}

/// Removes the stacks when the test fails: nobody else would know of them.
struct Removal<'a>(&'a World);

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for stack in [SUBSTRUCTURE, HELLO, NETWORK] {
                eprintln!("{}", self.0.run(&["destroy", "--yes", "--stack", stack]).said());
            }
        }
    }
}

#[test]
fn a_service_is_deployed_upgraded_rolled_back_and_removed() {
    let Some(world) = world() else { return };
    let _removal = Removal(&world);
    let links_before = links();
    seal(&world, HELLO, "admin_password", "a password of thirty-two letters");
    seal(&world, SUBSTRUCTURE, "admin_password", "a password of thirty-two letters");
    seal(&world, SUBSTRUCTURE, "password", "another one that is as long as that");
    world.bake(&["web", "database", "--channel", "QA"]);

    // Nothing is there before its network is.
    let early = world.run(&["deploy", "--yes", "--stack", HELLO]);
    assert_eq!(early.code, 4);
    early.says(&[NETWORK, "never"]);

    deploy(&world, NETWORK);
    deploy(&world, HELLO).says(&["done", "url"]);
    deploy(&world, SUBSTRUCTURE);
    world.run(&["preview", "--stack", SUBSTRUCTURE]).says(&["nothing to do"]);
    world.run(&["preview", "--stack", HELLO]).says(&["nothing to do"]);
    world.run(&["status"]).says(&["3/3", "healthy", "current"]);

    // A release after the other, without a failed request.
    world.bake(&["web", "--set", "hello.version=1.1.0", "--channel", "QA"]);
    let upgrade = under_load(&world, || {
        let events = world.dir.join("events");
        let mut child = world
            .command(&["deploy", "--json", "--yes", "--stack", HELLO])
            .stdout(File::create(&events).unwrap())
            .spawn()
            .unwrap();
        // Whoever has not started it can follow it to its end.
        std::thread::sleep(Duration::from_secs(3));
        let followed = world.run(&["rollout", "status", "--follow", "--stack", HELLO]);
        followed.says(&["booting", "in service", "removed", "no rollout is under way; 3 instances run"]);
        assert!(child.wait().unwrap().success());
        // What `hello` does before its machine goes was done on each that went.
        let events = std::fs::read_to_string(events).unwrap();
        let hooked = |line: &&str| line.contains("\"stage\":\"after_drain\"");
        assert_eq!(events.lines().filter(hooked).count(), 3, "{events}");
    });
    assert!(upgrade.answers.len() == 2 && upgrade.answers["1.1.0"] > 0, "{:?}", upgrade.answers);

    // One that boots and cannot answer goes back by itself.
    world.bake(&[
        "web",
        "--set",
        "hello.version=1.2.0",
        "--set",
        "caddy.upstream=127.0.0.1:9100",
        "--channel",
        "QA",
    ]);
    let refused = under_load(&world, || {
        let ended = world.run(&["deploy", "--yes", "--stack", HELLO]);
        assert_eq!(ended.code, 7, "{}", ended.said());
        ended.says(&["rolled back", "http :80/health"]);
    });
    assert_eq!(refused.answers.keys().collect::<Vec<_>>(), ["1.1.0"]);
    let status = world.run(&["status"]);
    status.says(&["rolled back", "1 behind"]);
    assert!(!status.said().contains("unfinished"), "a rollback is an end: {}", status.said());

    // A deploy that is killed in the middle of a rollout is finished by the next one.
    world.bake(&["web", "--set", "hello.version=1.3.0", "--channel", "QA"]);
    let resumed = under_load(&world, || {
        for pause in [1500, 4000, 7000] {
            let mut child = world.command(&["deploy", "--yes", "--stack", HELLO]).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(pause));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        deploy(&world, HELLO);
    });
    assert!(resumed.answers["1.3.0"] > 0);
    world.run(&["status"]).says(&["3/3", "healthy"]);

    // The other ways to replace instances behind a balancer fail no request either.
    for (strategy, release, old, told) in [
        ("blue_green", "1.4.0", "1.3.0", "traffic:"),
        ("canary", "1.5.0", "1.4.0", "step 1 of 1 passed"),
        ("quorum", "1.6.0", "1.5.0", "\"canary\" → \"quorum\""),
    ] {
        world.bake(&["web", "--set", &format!("hello.version={release}"), "--channel", "QA"]);
        let replaced = under_load(&world, || {
            let strategy = format!("hello.strategy={strategy}");
            let ended = world.run(&["deploy", "--yes", "--stack", HELLO, "--set", &strategy]);
            assert_eq!(ended.code, 0, "{}", ended.said());
            ended.says(&[told, "succeeded"]);
        });
        let answered: Vec<&str> = replaced.answers.keys().map(String::as_str).collect();
        assert_eq!(answered, [old, release], "{strategy}");
    }
    world.run(&["status"]).says(&["3/3", "healthy"]);
    world.run(&["state", "orphans", "--stack", HELLO]).says(&["nothing that the state does not know of"]);

    // Nothing holds what a secret is.
    let state = world.dir.join(".olbake/state");
    for file in super::support::files(&state) {
        let bytes = std::fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            !text.contains("thirty-two letters") && !text.contains("as long as that"),
            "{}",
            file.display()
        );
    }

    for stack in [SUBSTRUCTURE, HELLO, NETWORK] {
        let ended = world.run(&["destroy", "--yes", "--stack", stack]);
        assert_eq!(ended.code, 0, "{}", ended.said());
    }
    assert_eq!(Traces::settled(), Traces::none());
    assert_eq!(links(), links_before);
}

/// The keepers of things of a kind in the local cloud, by id.
fn keepers(world: &World, kind: &str) -> Vec<(String, String)> {
    let folder = world.dir.join(".olbake/local/v1").join(kind);
    let inner = if kind == "networks" { "names" } else { "" };
    let things = std::fs::read_dir(folder).into_iter().flatten().flatten();
    things
        .filter_map(|thing| {
            let number = std::fs::read_to_string(thing.path().join(inner).join("keeper.pid")).ok()?;
            Some((thing.file_name().into_string().ok()?, number.trim().to_owned()))
        })
        .collect()
}

fn kill(number: &str) {
    assert!(Command::new("kill").args(["-9", number]).status().unwrap().success());
}

/// Starts a deploy and does something in its middle; how it ended.
fn amid(world: &World, what: impl FnOnce()) -> Ended {
    let mut command = world.command(&["deploy", "--yes", "--stack", HELLO]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(4));
    what();
    child.wait_with_output().unwrap().into()
}

#[test]
fn what_dies_is_there_again() {
    let Some(world) = world() else { return };
    world.write("stacks/infrastructure/local/network/QA.toml", "cidr = \"10.91.8.0/24\"\n");
    let _removal = Removal(&world);
    let links_before = links();
    seal(&world, HELLO, "admin_password", "a password of thirty-two letters");
    world.bake(&["web", "database", "--channel", "QA"]);
    deploy(&world, NETWORK);
    deploy(&world, HELLO);

    // An instance is killed while its group is rolled out: the rollout makes up for it and goes on.
    let before: Vec<(String, String)> = keepers(&world, "instances");
    world.bake(&["web", "--set", "hello.version=2.1.0", "--channel", "QA"]);
    let database = before.iter().filter(|(id, _)| id.starts_with("group-")).count();
    assert_eq!(database, 4, "{before:?}");
    let ended = amid(&world, || {
        let now = keepers(&world, "instances");
        let web = now.iter().rfind(|(id, _)| before.iter().any(|(old, _)| old == id) && is_web(&world, id));
        kill(&web.expect("an old instance is there still").1);
    });
    assert_eq!(ended.code, 0, "{}", ended.said());
    world.run(&["status"]).says(&["3/3", "healthy"]);

    // The load balancers are killed, with what would start them again: the rollout goes on, or the next one does.
    world.bake(&["web", "--set", "hello.version=2.2.0", "--channel", "QA"]);
    let ended = amid(&world, || {
        let balancers = keepers(&world, "balancers");
        assert_eq!(balancers.len(), 2, "{balancers:?}");
        balancers.iter().for_each(|(_, number)| kill(number));
    });
    assert!([0, 7].contains(&ended.code), "{}", ended.said());
    deploy(&world, HELLO);
    under_load(&world, || {});
    world.run(&["status"]).says(&["3/3", "healthy", "current"]);

    // The machine is switched off and on: nothing runs, nothing is mounted, no interface is there.
    for kind in ["instances", "balancers", "networks"] {
        // One that went by itself has left its number.
        for (_, number) in keepers(&world, kind) {
            drop(Command::new("kill").args(["-9", &number]).output());
        }
    }
    let ours = world.dir.join(".olbake");
    for _ in 0..50 {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let left: Vec<&str> = mounts.filter(|path| path.starts_with(ours.to_str().unwrap())).collect();
        if left.is_empty() {
            break;
        }
        left.iter().rev().for_each(|path| drop(Command::new("umount").arg(path).output()));
        std::thread::sleep(Duration::from_millis(100));
    }
    for link in links().lines().filter(|link| !links_before.lines().any(|before| before == *link)) {
        let link = link.split('@').next().unwrap_or(link);
        drop(Command::new("ip").args(["link", "delete", link]).output());
    }
    assert_eq!(Traces::settled(), Traces::none());
    assert_eq!(links(), links_before);
    world.run(&["status"]).says(&["0/3", "down", "network does not run", "web/balancer does not run"]);
    deploy(&world, NETWORK).says(&["it does not run"]);
    let back = deploy(&world, HELLO);
    assert!(!back.said().contains("create"), "what is there is not made anew: {}", back.said());
    under_load(&world, || {});
    world.run(&["status"]).says(&["3/3", "1/1", "healthy"]);

    for stack in [HELLO, NETWORK] {
        let ended = world.run(&["destroy", "--yes", "--stack", stack]);
        assert_eq!(ended.code, 0, "{}", ended.said());
    }
    assert_eq!(Traces::settled(), Traces::none());
    assert_eq!(links(), links_before);
}

/// Whether an instance is of the web tier: the database's is called otherwise.
fn is_web(world: &World, instance: &str) -> bool {
    let spec = world.dir.join(".olbake/local/v1/instances").join(instance).join("spec.json");
    std::fs::read_to_string(spec).is_ok_and(|text| text.contains("\"web\""))
}
