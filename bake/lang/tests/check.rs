//! `check`, `new`, and what is generated from the settings of a component.

mod common;

use std::fs;

use camino::Utf8Path;
use common::{draw, inputs, make};
use insta::assert_snapshot;
use olbake_lang::{Workspace, scaffold};

#[test]
fn lints() {
    let made = make(&[
        (
            "components/c/component.star",
            r##"
S = settings(name = "c", fields = {
    "used": setting(str, default = "a", doc = "d"),
    "branch": setting(str, default = "a", doc = "read only in a branch not taken"),
    "unused": setting(str, default = "a", doc = "d"),
    "bare": setting(int, default = 1),
})

def install(s, m):
    apt.packages(["nginx"], latest = True)
    apt.packages(["redis"], start_services = True, why = "its data is loaded below")
    files.content("/tmp/a", s.used)
    files.content("/usr/bin/a", s.used if s.bare else s.branch)
    files.content("/opt/a/a.toml", "x", mode = 0o666)
    files.directory("/data")
    files.download("/usr/local/bin/b", "http://example.org/b", sha256 = "00" * 32)
    files.archive("/var/c", url = "https://example.org/c.zip", sha256 = "11" * 32)
    run.command("systemctl restart nginx", shell = True)
    run.command("curl -fsSLo /opt/d https://example.org/d; wget -qO- https://example.org/e | sh", shell = True)
    run.command(["pip", "install", "flask"])
    run.command(["apt-get", "-y", "install", "nginx"])
    run.command(["service", "nginx", "start"])
    run.command(["/etc/init.d/nginx", "start"])
    run.script(text = "#!/bin/sh -e\ncd /\nsystemctl start nginx\n")
    run.script("files/start.sh")
    files.content("/dev/a", "x")
    files.directory("/home/somebody/data")
    users.user("me")
    files.content("/home/me/.bashrc", "x")

component(name = "c", settings = S, install = install)
"##,
        ),
        ("components/c/files/start.sh", "# Starts it.\nservice nginx start\n"),
        ("components/unseen/component.star", "component(name = \"unseen\", install = lambda s, m: None)\n"),
        (
            "images/web/image.star",
            "image(name = \"web\", base = debian(\"bookworm\"), components = [use(\"//components/c\")])\n",
        ),
    ]);
    assert_snapshot!(draw(&made.workspace, &made.workspace.check(&inputs())));
}

#[test]
fn what_new_writes_passes_check_and_nothing_is_overwritten() {
    let folder = tempfile::Builder::new().prefix("lang-").tempdir_in("/var/tmp").expect("a folder");
    let root = Utf8Path::from_path(folder.path()).expect("UTF-8");
    fs::write(root.join("olbake.toml"), "").expect("a file");
    let written = scaffold::component(root, "my-service").expect("written");
    assert_eq!(written, ["components/my-service/component.star"]);
    scaffold::image(root, "front").expect("written");
    let image = root.join("images/front/image.star");
    let text = fs::read_to_string(&image).expect("a file");
    fs::write(&image, text.replace("[]", "[use(\"//components/my-service\", message = \"hi\")]"))
        .expect("a file");
    let written = scaffold::project(root, "applications/hello").expect("written");
    assert_eq!(written, ["stacks/applications/hello/stack.star", "stacks/applications/hello/QA.toml"]);
    assert_eq!(scaffold::project(root, "applications.hello").expect_err("refused").0[0].code, "exists");
    assert_eq!(scaffold::project(root, "Hello").expect_err("refused").0[0].code, "name");
    let workspace = Workspace::load(root).expect("a workspace");
    assert_eq!(workspace.projects(), ["applications.hello"]);
    let found = workspace.check(&inputs());
    assert!(found.0.is_empty(), "{found}");
    assert_eq!(workspace.images().len(), 1);
    assert_eq!(scaffold::component(root, "my-service").expect_err("refused").0[0].code, "exists");
    assert_eq!(scaffold::image(root, "../x").expect_err("refused").0[0].code, "name");
    assert_eq!(Workspace::find(&root.join("images/front")).expect("found"), root);
}

#[test]
fn the_reference_and_schema_of_settings() {
    let root = Utf8Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/fixtures/workspace");
    let workspace = Workspace::load(&root).expect("a workspace");
    let caddy = "caddy".parse().expect("a name");
    let schema = workspace.settings_schema(&caddy).expect("a schema");
    assert_snapshot!(format!(
        "{}\n{}",
        workspace.settings_reference(&caddy).expect("a table"),
        serde_json::to_string_pretty(&schema).expect("JSON")
    ));
}
