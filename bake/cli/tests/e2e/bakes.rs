//! What a bake does when all is well: layers, keys, resuming, variants, what the versions are.

use serde_json::Value;

use super::support::{Traces, World};

/// A component that is quick and has a template, a unit and checks.
pub(crate) const NOTE: &str = r#"
Note = settings(name = "note", fields = {
    "text": setting(str, default = "first", doc = "What the note says"),
})

def install(s, m):
    users.user("note", system = True, home = "/var/lib/note", shell = "/usr/sbin/nologin")

def configure(s, m):
    files.directory("/etc/note", owner = "root", group = "note", mode = 0o750)
    files.template("/etc/note/note.conf", "templates/note.conf.j2", vars = {"s": s}, group = "note", mode = 0o640)

def units(s, m):
    systemd.unit("note.service", {
        "Unit": {"Description": "Shows the note"},
        "Service": {"Type": "oneshot", "RemainAfterExit": "yes", "ExecStart": "/bin/cat /etc/note/note.conf"},
        "Install": {"WantedBy": "multi-user.target"},
    })
    systemd.service("note.service", enabled = True)

def verify(s, m):
    check.file("/etc/note/note.conf", contains = s.text)
    check.unit("note.service", active = True, enabled = True)
    check.user("note")

component(name = "note", settings = Note, install = install, configure = configure, units = units, verify = verify)
"#;

/// A component before it.
pub(crate) const FIRST: &str = r#"
First = settings(name = "first", fields = {"words": setting(str, default = "one", doc = "Words")})

def configure(s, m):
    files.content("/etc/first.conf", s.words + "\n")

def verify(s, m):
    check.file("/etc/first.conf", contains = s.words)

component(name = "first", settings = First, configure = configure, verify = verify)
"#;

const IMAGE: &str = r#"
image(
    name = "tiny",
    base = debian("bookworm"),
    components = [use("//components/first"), use("//components/note")],
    variants = {"loud": {"note": {"text": "LOUD"}}},
)
"#;

pub(crate) fn tiny() -> Vec<(&'static str, &'static str)> {
    vec![
        ("components/first/component.star", FIRST),
        ("components/note/component.star", NOTE),
        ("components/note/templates/note.conf.j2", "text = {{ s.text }}\n"),
        ("images/tiny/image.star", IMAGE),
    ]
}

fn outcomes(result: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let layers = result["layers"].as_array().unwrap();
    layers.iter().skip(1).map(|layer| (text(&layer["component"]), text(&layer["outcome"]))).collect()
}

fn expect(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(component, outcome)| ((*component).to_owned(), (*outcome).to_owned())).collect()
}

#[test]
fn only_what_changed_runs() {
    let Some(world) = World::new(&tiny()) else { return };
    // The cache outlives the workspace; the text makes this run's layers its own.
    let unique = format!("note.text=first {}", std::process::id());
    let first =
        world.bake(&["tiny", "--set", &format!("first.words=w{}", std::process::id()), "--set", &unique]);
    assert_eq!(outcomes(&first), expect(&[("first", "run"), ("note", "run")]));
    assert!(first["checks"].as_array().unwrap().iter().all(|check| check["outcome"] == "ok"), "{first}");
    assert!(first["checks"].as_array().unwrap().len() >= 4);

    let arguments = ["tiny", "--set", &format!("first.words=w{}", std::process::id()), "--set", &unique];
    let again = world.bake(&arguments);
    assert_eq!(again["outcome"], "cached");
    assert_eq!(again["digest"], first["digest"]);
    assert_eq!(outcomes(&again), expect(&[("first", "cached"), ("note", "cached")]));
    assert_eq!(Traces::settled(), Traces::none());
}

#[test]
fn variants_share_layers_and_differ_in_digest() {
    let Some(world) = World::new(&tiny()) else { return };
    let plain = world.bake(&["tiny"]);
    let loud = world.bake(&["tiny/loud"]);
    assert_eq!(loud["variant"], "loud");
    assert_ne!(plain["digest"], loud["digest"]);
    assert_eq!(plain["layers"][1]["key"], loud["layers"][1]["key"]);
    assert_ne!(plain["layers"][2]["key"], loud["layers"][2]["key"]);
    let images = world.run(&["images"]);
    images.says(&["tiny", "tiny/loud"]);
}

#[test]
fn a_failed_bake_resumes_at_the_failed_component() {
    let Some(world) = World::new(&tiny()) else { return };
    let words = format!("first.words=resume {}", std::process::id());
    let broken = NOTE.replace("def units(s, m):", "def units(s, m):\n    run.command([\"false\"])");
    world.write("components/note/component.star", &broken);
    let failed = world.failing_bake(&["tiny", "--set", &words]);
    failed.says(&["components/note/component.star", "run.command", "false", "exit status 1"]);

    world.write("components/note/component.star", NOTE);
    let mended = world.bake(&["tiny", "--set", &words]);
    assert_eq!(outcomes(&mended)[0], ("first".to_owned(), "cached".to_owned()));
    assert_eq!(Traces::settled(), Traces::none());
}

#[test]
fn an_image_starts_from_another() {
    let Some(world) = World::new(&tiny()) else { return };
    world.write(
        "images/child/image.star",
        r#"image(name = "child", base = "//images/tiny", components = [use("//components/more")])"#,
    );
    world.write(
        "components/more/component.star",
        r#"
def configure(s, m):
    files.content("/etc/more.conf", "more\n")

def verify(s, m):
    check.file("/etc/more.conf", contains = "more")

component(name = "more", configure = configure, verify = verify)
"#,
    );
    let child = world.bake(&["child"]);
    let checks = child["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["component"] == "note"), "the base's checks run too: {child}");
    assert!(checks.iter().any(|check| check["component"] == "more"));
    let shown = world.run(&["show", "child"]);
    shown.says(&["child", "tiny"]);
}

#[test]
fn a_version_leaves_as_a_file_and_is_the_same_again_from_the_store() {
    let Some(world) = World::new(&tiny()) else { return };
    world.bake(&["tiny"]);
    let ended = world.run(&["export", "tiny", "--format", "raw", "--output", "a.raw"]);
    assert_eq!(ended.code, 0, "{}", ended.said());
    // Without any cache, the disk comes from the store's blocks.
    let fresh_cache = world.dir.join("fresh-cache");
    let mut command = world.command(&["export", "tiny", "--format", "raw", "--output", "b.raw"]);
    let ended: super::support::Ended = command.env("OLBAKE_CACHE", &fresh_cache).output().unwrap().into();
    assert_eq!(ended.code, 0, "{}", ended.said());
    let same = std::process::Command::new("cmp").args(["a.raw", "b.raw"]).current_dir(&world.dir).status();
    assert!(same.unwrap().success());

    for (format, file) in [("qcow2", "a.qcow2"), ("tar.zst", "a.tar.zst")] {
        let ended = world.run(&["export", "tiny", "--format", format, "--output", file]);
        assert_eq!(ended.code, 0, "{}", ended.said());
    }
    let listing = std::process::Command::new("tar")
        .args(["--zstd", "-tf", "a.tar.zst"])
        .current_dir(&world.dir)
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&listing.stdout).lines().any(|line| line.ends_with("etc/note/note.conf"))
    );
}
