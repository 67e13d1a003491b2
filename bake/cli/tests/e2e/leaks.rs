//! What identifies the build or opens a door must not leave in an image.

use super::support::{Traces, World};

const IMAGE: &str =
    r#"image(name = "leaky", base = debian("bookworm"), components = [use("//components/leaky")])"#;

fn leaks(component: &str, token: &str, words: &[&str]) {
    let Some(world) = World::new(&[("images/leaky/image.star", IMAGE)]) else { return };
    world.write("components/leaky/component.star", component);
    let ended: super::support::Ended =
        world.command(&["bake", "leaky"]).env("LEAKY_TOKEN", token).output().unwrap().into();
    assert_eq!(ended.code, 7, "the leak was not found:\n{}", ended.said());
    ended.says(words);
    assert!(!ended.said().contains(token), "the secret is in what was said");
    assert!(super::support::versions(&world.registry()).is_empty());
    if component.contains("setting(secret") {
        let packs = super::support::files(&world.registry().join("v1/packs"));
        assert!(packs.is_empty(), "blocks that may hold the secret reached the store: {packs:?}");
    }
    assert_eq!(Traces::settled(), Traces::none());
}

const TOKEN: &str = "correct-horse-battery-staple-42";

fn with_secret(configure: &str) -> String {
    format!(
        r#"
Leaky = settings(name = "leaky", fields = {{
    "token": setting(secret, source = "env:LEAKY_TOKEN", doc = "A token used while baking"),
}})

def configure(s, m):
{configure}

def verify(s, m):
    check.file("/etc/os-release")

component(name = "leaky", settings = Leaky, configure = configure, verify = verify)
"#
    )
}

#[test]
fn a_secret_in_a_file_is_found() {
    leaks(
        &with_secret(
            "    files.content(\"/etc/leaky.conf\", \"token = \" + s.token + \"\\n\", mode = 0o600)",
        ),
        TOKEN,
        &["/etc/leaky.conf", "leaky.token"],
    );
}

#[test]
fn a_secret_in_base64_is_found() {
    leaks(
        &with_secret(
            "    run.command([\"sh\", \"-c\", \"printf %s \\\"$T\\\" | base64 > /etc/leaky.b64\"], env = {\"T\": s.token})",
        ),
        TOKEN,
        &["/etc/leaky.b64", "leaky.token"],
    );
}

#[test]
fn a_secret_used_and_not_kept_is_no_leak() {
    let Some(world) = World::new(&[("images/leaky/image.star", IMAGE)]) else { return };
    let body =
        "    run.command([\"sh\", \"-c\", \"test -n \\\"$T\\\" && echo used $T\"], env = {\"T\": s.token})";
    world.write("components/leaky/component.star", &with_secret(body));
    let mut command = world.command(&["bake", "leaky", "--json"]);
    let ended: super::support::Ended = command.env("LEAKY_TOKEN", TOKEN).output().unwrap().into();
    assert_eq!(ended.code, 0, "{}", ended.said());
    assert!(!ended.said().contains(TOKEN), "the secret is in what was said");
    for file in super::support::files(&world.registry()) {
        let bytes = std::fs::read(&file).unwrap();
        let found = bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes());
        assert!(!found, "the secret is in {}", file.display());
    }
}

#[test]
fn a_secret_may_come_from_the_env_file() {
    let Some(world) = World::new(&[("images/leaky/image.star", IMAGE)]) else { return };
    let body = "    run.command([\"sh\", \"-c\", \"test \\\"$T\\\" = correct-horse-from-file\"], env = {\"T\": s.token})";
    world.write("components/leaky/component.star", &with_secret(body));
    world.write(".env", "LEAKY_TOKEN=correct-horse-from-file\n");
    world.bake(&["leaky"]);
}

#[test]
fn a_private_key_is_found() {
    let component = r#"
def configure(s, m):
    run.command(["sh", "-c", "openssl genpkey -algorithm ed25519 > /root/some.pem || ssh-keygen -q -t ed25519 -N '' -f /root/some.pem"])

def install(s, m):
    apt.packages(["openssh-client"])

def verify(s, m):
    check.file("/etc/os-release")

component(name = "leaky", install = install, configure = configure, verify = verify)
"#;
    leaks(component, TOKEN, &["/root/some.pem", "private key"]);
}

#[test]
fn machine_identity_and_host_keys_are_removed() {
    let component = r#"
def install(s, m):
    apt.packages(["openssh-server"])

def configure(s, m):
    run.command(["sh", "-c", "systemd-machine-id-setup; ssh-keygen -A; echo secret stuff > /root/.bash_history"])

def verify(s, m):
    check.package("openssh-server")

component(name = "leaky", install = install, configure = configure, verify = verify)
"#;
    let Some(world) = World::new(&[("images/leaky/image.star", IMAGE)]) else { return };
    world.write("components/leaky/component.star", component);
    world.bake(&["leaky"]);
    let ended = world.run(&["export", "leaky", "--format", "tar.zst", "--output", "a.tar.zst"]);
    assert_eq!(ended.code, 0, "{}", ended.said());
    let listing = std::process::Command::new("tar")
        .args(["--zstd", "-tvf", "a.tar.zst"])
        .current_dir(&world.dir)
        .output()
        .unwrap();
    let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
    assert!(listing.contains("etc/ssh/sshd_config"), "the listing shows nothing");
    for gone in
        ["ssh_host_", ".bash_history", "/var/lib/apt/lists/partial/", "usr/sbin/policy-rc.d", "olbake-agent"]
    {
        assert!(!listing.contains(gone), "{gone} is left in the image");
    }
    let machine_id = listing.lines().find(|line| line.ends_with("etc/machine-id")).unwrap();
    assert_eq!(machine_id.split_whitespace().nth(2), Some("0"), "the machine-id is not empty: {machine_id}");
}

/// A child's search reads what its base's did not: a file of its own, and one of its base's that it wrote a key into
/// without changing its size or the time it says that it was written at.
#[test]
fn a_key_that_a_child_brings_is_found() {
    let key = format!("-----BEGIN PRIVATE KEY-----\\n{}\\n-----END PRIVATE KEY-----\\n", "Ab3/".repeat(16));
    let length = key.replace("\\n", "\n").len();
    let Some(world) = World::new(&[
        (
            "images/parent/image.star",
            r#"image(name = "parent", base = debian("bookworm"), components = [use("//components/kept")])"#,
        ),
        (
            "images/child/image.star",
            r#"image(name = "child", base = "//images/parent", components = [use("//components/leaky")])"#,
        ),
    ]) else {
        return;
    };
    let component = |name: &str, configure: &str| {
        let text = format!(
            "def configure(s, m):\n    {configure}\n\ndef verify(s, m):\n    check.file(\"/etc/kept.conf\")\n\n\
             component(name = \"{name}\", configure = configure, verify = verify)\n"
        );
        world.write(&format!("components/{name}/component.star"), &text);
    };
    component("kept", &format!("files.content(\"/etc/kept.conf\", \"x\" * {length})"));
    world.bake(&["parent"]);
    let write = format!(
        "touch -r /etc/kept.conf /run/t && printf %b '{key}' > /etc/kept.conf && touch -r /run/t /etc/kept.conf && \
         printf %b '{key}' > /etc/brought.conf"
    );
    component("leaky", &format!("run.command([\"sh\", \"-c\", {write:?}])"));
    let ended = world.run(&["bake", "child"]);
    assert_eq!(ended.code, 7, "the leak was not found:\n{}", ended.said());
    ended.says(&["/etc/kept.conf: a private key", "/etc/brought.conf: a private key"]);
    assert_eq!(Traces::settled(), Traces::none());
}
