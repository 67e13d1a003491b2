//! The example images of this repository, baked, booted and checked as a user would.

use std::process::Command;

use super::support::{Traces, World};

fn repository() -> std::path::PathBuf {
    std::path::Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned()
}

/// Components that no example image uses, and settings far from their defaults.
const EDGE: &str = r#"
image(
    name = "edge",
    base = debian("bookworm"),
    components = [
        use("//components/baseline", time = "chrony", timezone = "Europe/Berlin", ntp_servers = ["192.0.2.1"]),
        use("//components/openssh", port = 2222, allow_groups = ["adm"], host_key_types = ["ed25519", "ecdsa"]),
        use("//components/users", removed = ["former"], accounts = [{
            "name": "ada",
            "groups": ["adm"],
            "keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP2RcNVUNSeLLvlFQcv7AHzyFMUgdzqoL5dNTFlhjSHw ada"],
            "shell": "/bin/sh",
            "sudo": True,
        }]),
        use("//components/node_exporter", address = "127.0.0.1", enabled_collectors = ["systemd", "processes"]),
        use("//components/nginx", port = 8081, gzip = False, proxies = [{"path": "/metrics", "upstream": "127.0.0.1:9100"}]),
        use("//components/haproxy", slots = 2, health_path = "/-/nginx/status", servers = [
            {"name": "one", "address": "127.0.0.1", "port": 8081},
        ]),
        use("//components/caddy", port = 8082, access_log = False),
    ],
)
"#;

/// The repository's recipes in a workspace of the test's own.
fn copy_library(world: &World) {
    copy(world, &["components", "images", "olbake.toml"]);
}

/// Parts of the repository in a workspace of the test's own.
pub(crate) fn copy(world: &World, parts: &[&str]) {
    for part in parts {
        let copied =
            Command::new("cp").args(["-a"]).arg(repository().join(part)).arg(&world.dir).status().unwrap();
        assert!(copied.success());
    }
}

#[test]
fn components_that_no_example_image_uses_pass_their_checks() {
    let Some(world) = World::new(&[("images/edge/image.star", EDGE)]) else { return };
    copy_library(&world);
    let result = world.bake(&["edge"]);
    let checks = result["checks"].as_array().unwrap();
    for component in ["baseline", "openssh", "users", "nginx", "haproxy", "caddy"] {
        assert!(checks.iter().any(|check| check["component"] == component), "nothing checks {component}");
    }
    assert!(checks.iter().all(|check| check["outcome"] == "ok"), "{result}");
}

#[test]
fn web_is_baked_and_boots_in_a_container_and_under_qemu() {
    let Some(world) = World::new(&[]) else { return };
    copy_library(&world);
    let result = world.bake(&["web"]);
    let checks = result["checks"].as_array().unwrap();
    for component in ["caddy", "hello", "openssh", "node_exporter"] {
        assert!(checks.iter().any(|check| check["component"] == component), "nothing checks {component}");
    }
    assert!(checks.iter().all(|check| check["outcome"] == "ok"), "{result}");

    let verified = world.run(&["verify", "web", "--vm", "--json"]);
    assert_eq!(verified.code, 0, "{}", verified.said());
    assert_eq!(Traces::settled(), Traces::none());
}
