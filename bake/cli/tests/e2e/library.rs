//! The example images of this repository, baked, booted and checked as a user would.

use std::process::Command;

use super::support::{Traces, World};

fn repository() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

#[test]
fn web_is_baked_and_boots_in_a_container_and_under_qemu() {
    let Some(world) = World::new(&[]) else { return };
    for part in ["components", "images", "olbake.toml"] {
        let copied =
            Command::new("cp").args(["-a"]).arg(repository().join(part)).arg(&world.dir).status().unwrap();
        assert!(copied.success());
    }
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
