//! A stack whose instances are VMs: deployed, looked into, killed and brought back, replaced, removed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use super::library;
use super::support::{Traces, World};

const NETWORK: &str = "infrastructure.local.network.QA";
const MACHINES: &str = "applications.machines.QA";

/// One VM with a volume, half a gibibyte of memory and words for cloud-init, behind a load balancer.
const STACK: &str = r##"
Config = settings(name = "machines", fields = {"words": setting(str, default = "first")})

DATA = """#cloud-config
runcmd:
  - [sh, -c, "echo %s >>/srv/data/words"]
"""

def stack(c, ctx):
    network = ctx.stack("infrastructure.local.network.%s" % ctx.environment)
    data = local.volume("data", size = "64MiB")
    balancer = local.load_balancer(
        "balancer",
        network = network.network_id,
        listeners = [{"port": 9100, "backend": "metrics"}],
        # What it measures takes an emulated processor seconds to say.
        health_path = "/",
        health_timeout = "30s",
    )
    local.instance_group(
        "machine",
        image = ctx.image("base"),
        network = network.network_id,
        size = 1,
        vm = True,
        memory = "512MiB",
        load_balancer = {"balancer": balancer.id, "backend": "metrics", "port": 9100},
        health = [
            {"port": 9100, "path": "/", "contains": "Node Exporter"},
            {"kind": "command", "name": "words", "command": ["grep", "-qx", c.words, "/srv/data/words"]},
            {"kind": "command", "name": "first", "command": ["grep", "-qx", "first", "/srv/data/words"]},
            {"kind": "command", "name": "disk", "command": ["sh", "-c", "findmnt -no SOURCE /srv/data | grep -q ^/dev/vd"]},
        ],
        user_data = DATA % c.words,
        volumes = [{"path": "/srv/data", "volumes": [data.id]}],
        strategy = {"kind": "recreate"},
        rollout = {"min_ready": "1s", "bake": "1s", "health_deadline": "8m", "unhealthy_after": "2m", "progress_deadline": "15m"},
    )
    output("address", balancer.address)

project(config = Config, stack = stack)
"##;

fn world() -> Option<World> {
    let world = World::new(&[])?;
    library::copy(&world, &["components", "images", "olbake.toml", "stacks"]);
    world.write("stacks/infrastructure/local/network/QA.toml", "cidr = \"10.91.8.0/24\"\n");
    world.write("stacks/applications/machines/stack.star", STACK);
    world.write("stacks/applications/machines/QA.toml", "");
    Some(world)
}

/// Removes the stacks when the test fails: nobody else would know of them.
struct Removal<'a>(&'a World);

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for stack in [MACHINES, NETWORK] {
                eprintln!("{}", self.0.run(&["destroy", "--yes", "--stack", stack]).said());
            }
        }
    }
}

/// What the machine says of itself, once it does: the load balancer gives up on it when it takes too long.
fn metrics(world: &World) -> String {
    let address = world.run(&["outputs", "--stack", MACHINES, "address"]).stdout;
    let mut text = String::new();
    for _ in 0..100 {
        text.clear();
        let mut stream = TcpStream::connect((address.trim(), 9100)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        stream.read_to_string(&mut text).unwrap();
        if text.starts_with("HTTP/1.0 200") || text.starts_with("HTTP/1.1 200") {
            break;
        }
        std::thread::sleep(Duration::from_secs(3));
    }
    text
}

fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
}

/// The QEMU processes that belong to the workspace.
fn emulators(world: &World) -> Vec<String> {
    let listed = Command::new("pgrep").args(["-x", "qemu-system-.*"]).output().unwrap();
    let pids = String::from_utf8(listed.stdout).unwrap();
    let own = |pid: &&str| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder.starts_with(&world.dir))
    };
    pids.lines().filter(own).map(str::to_owned).collect()
}

#[test]
fn a_stack_of_vms_is_deployed_brought_back_replaced_and_removed() {
    let Some(world) = world() else { return };
    let _removal = Removal(&world);
    let deploy = |arguments: &[&str]| {
        let ended = world.run(&[&["deploy", "--yes", "--stack"], arguments].concat());
        assert_eq!(ended.code, 0, "{}", ended.said());
        ended
    };
    world.bake(&["base", "--channel", "QA"]);
    deploy(&[NETWORK]);
    deploy(&[MACHINES]);
    let first = metrics(&world);
    // It has a kernel and as much memory of its own, and the volume is a disk.
    let memory = metric(&first, "node_memory_MemTotal_bytes");
    assert!((3e8..=512.0 * 1024.0 * 1024.0).contains(&memory), "{memory}");
    let boot = metric(&first, "node_boot_time_seconds");
    world.run(&["status"]).says(&["1/1", "healthy", "current"]);
    world.run(&["preview", "--stack", MACHINES]).says(&["nothing to do"]);

    // Killed, it comes back with the next deploy, as what it was.
    let [emulator] = &emulators(&world)[..] else { panic!("one QEMU: {:?}", emulators(&world)) };
    assert!(Command::new("kill").args(["-9", emulator]).status().unwrap().success());
    deploy(&[MACHINES]);
    assert!(metric(&metrics(&world), "node_boot_time_seconds") > boot);

    // Replaced, the new one finds what the old one wrote to the volume: its health asks for the words of both.
    deploy(&[MACHINES, "--set", "machines.words=second"]).says(&["succeeded"]);

    for stack in [MACHINES, NETWORK] {
        let ended = world.run(&["destroy", "--yes", "--stack", stack]);
        assert_eq!(ended.code, 0, "{}", ended.said());
    }
    assert_eq!(emulators(&world), Vec::<String>::new());
    assert_eq!(Traces::settled(), Traces::none());
}
