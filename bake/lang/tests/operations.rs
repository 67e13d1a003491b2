//! What each operation is lowered to.

mod common;

use common::{inputs, make, plan, problems};
use insta::assert_snapshot;
use olbake_core::operation::Operation;

/// The operations of a component with these phases, a line each.
fn lowered(phases: &str) -> String {
    let names = ["install", "configure", "units", "maintenance", "verify"];
    let given: Vec<String> = names
        .iter()
        .filter(|name| phases.contains(&format!("def {name}(")))
        .map(|name| format!(", {name} = {name}"))
        .collect();
    let component = format!("{phases}\ncomponent(name = \"c\"{})\n", given.concat());
    let image =
        "image(name = \"web\", base = debian(\"bookworm\"), components = [use(\"//components/c\")])\n";
    let made = make(&[
        ("components/c/component.star", &component),
        ("components/c/files/a", "a file\n"),
        ("components/c/files/key.asc", "a key\n"),
        ("components/c/tree/deep/b", "b\n"),
        ("components/c/tree/a", "a\n"),
        ("images/web/image.star", image),
    ]);
    if let Err(found) = made.workspace.plan(&"web".parse().expect("a name"), &inputs()) {
        return common::draw(&made.workspace, &found);
    }
    let planned = plan(&made, &inputs());
    // Whoever reads a plan, in this process or in the agent, reads what was written.
    let read: olbake_core::plan::Plan = serde_json::from_str(&planned.plan.to_json()).expect("a plan");
    assert_eq!(read, planned.plan);
    let checks = planned.plan.checks.iter().flat_map(|checks| &checks.operations);
    let operations = planned.plan.layers[0].operations.iter().chain(checks);
    let mut text: Vec<String> = operations.map(line).collect();
    for bytes in planned.inline.values() {
        text.push(format!("--------\n{}", String::from_utf8_lossy(bytes)));
    }
    text.join("\n")
}

fn line(operation: &Operation) -> String {
    let mut waits = String::new();
    if !operation.after.is_empty() {
        waits.push_str(&format!(" after {:?}", operation.after));
    }
    if !operation.when_changed.is_empty() {
        waits.push_str(&format!(" when changed {:?}", operation.when_changed));
    }
    let action = olbake_core::canonical::to_string(&operation.action);
    format!("{} {}{waits}\n    {action}", operation.id, operation.title)
}

#[test]
fn packages_become_one_transaction() {
    assert_snapshot!(lowered(
        r#"
def install(s, m):
    apt.packages(["nginx", "curl"])
    apt.repo("caddy", uris = "https://example.org/deb", suites = "stable", key = "files/key.asc")
    apt.debconf("postfix", "postfix/main_mailer_type", "select", "No configuration")
    apt.packages(["caddy=2.6.2-5"])
    done = apt.packages("postfix", recommends = True)
    apt.hold("caddy")
    files.content("/etc/apt/preferences.d/pin", "Package: *\n")
    apt.packages(["telnet"], present = False)
    apt.packages(["nginx"], latest = True)
    apt.upgrade()
    tool = run.command(["make", "tool"])
    apt.packages(["late"], after = [tool])
    run.command(["true"], when_changed = [done])

def configure(s, m):
    apt.packages(["from-configure"])
"#
    ));
}

#[test]
fn files() {
    assert_snapshot!(lowered(
        r##"
def install(s, m):
    files.directory("/srv/a/", owner = "root", group = "root", mode = "0750")
    files.put("/usr/local/bin/a", "files/a", mode = 0o755)
    files.content("/etc/a.conf", "x\n", validate = ["check", "%s"], only_if_absent = True)
    files.link("/etc/alias", "a.conf", force = True)
    files.absent("/etc/old")
    files.line("/etc/l", "x=1", matching = "^x=", create = True)
    files.line("/etc/l", "y=1", present = False)
    files.line("/etc/l", "z=1", after_line = "^x=")
    files.block("/etc/l", "one\ntwo", at_start = True)
    files.block("/etc/l", present = False, name = "other", marker = "; {mark} {name}")
    files.ini("/etc/i.ini", "main", "key", "1")
    files.ini("/etc/i.ini", "main", "gone", None)
    files.download("/opt/a", "https://example.org/a", sha256 = "00" * 32, mode = 0o755)
    files.archive("/opt/b", url = "https://example.org/b.tar.zst?x=1", sha256 = "sha256:" + "11" * 32, strip = 1, members = ["bin"])
    files.tree("/srv/t", "tree", delete = True, owner = "root")
    files.generated("/etc/ssl/dh.pem", ["openssl", "dhparam", "-out", "%s", 2048], mode = 0o600)
    files.attributes("/srv/a", acl = ["u:daemon:rx"], capabilities = "cap_net_bind_service=ep", immutable = True)
    files.content("/etc/not", "planned", when = False)
"##
    ));
}

#[test]
fn users_and_the_system() {
    assert_snapshot!(lowered(
        r##"
def install(s, m):
    g = users.group("ops", gid = 900)
    users.user("ada", groups = ["ops"], shell = "/bin/bash", comment = "Ada", after = [g])
    users.user("old", present = False)
    users.membership("ada", ["sudo", "adm"])
    users.authorized_keys("ada", ["ssh-ed25519 AAAA ada"], exclusive = True)
    os.hostname("web-1")
    os.timezone("Europe/Berlin")
    os.locale("de_DE.UTF-8")
    os.sysctl("net.core.somaxconn", 1024)
    os.modprobe("br_netfilter")
    os.modprobe("floppy", blacklist = True)
    os.limits("*", "nofile", 65536)
    os.hosts("10.0.0.1", ["db", "db.internal"])
    os.ca_certificate("corp", "files/a")
    cron.job("clean", "0 3 * * *", "find /tmp -delete", user = "ada", env = {"MAILTO": ""})
    run.command(["make", "-j", 2], cwd = "/srv", env = {"A": "1"}, creates = "/srv/done", timeout = "5m", ok_codes = [0, 3], reads = ["/srv"], writes = ["/srv/done"])
    run.command("a | b", shell = True, retries = 2)
    run.script(text = "#!/bin/sh\nset -e\necho hi\n", stdin = "in", user = "ada", unless = ["test", "-e", "/x"])
    run.script("files/a", ["one"])
"##
    ));
}

#[test]
fn a_reboot_waits_for_a_change_or_for_the_machine_to_ask() {
    let text = lowered(
        r#"
def install(s, m):
    names = os.hosts("10.0.0.2", ["db2"])
    os.reboot()
    os.reboot(when_changed = [names])
"#,
    );
    let asked = "c.install.2 os.reboot\n    {\"do\":\"reboot\",\"required\":true}";
    let changed =
        "c.install.3 os.reboot when changed [c.install.1]\n    {\"do\":\"reboot\",\"required\":false}";
    assert!(text.contains(asked) && text.contains(changed), "{text}");
}

#[test]
fn units() {
    assert_snapshot!(lowered(
        r#"
def configure(s, m):
    files.content("/etc/a/a.conf", "x")
    files.content("/etc/a/b.conf", "x")

def units(s, m):
    u = systemd.unit("a", {"Unit": {"Description": "a"}, "Service": {"ExecStart": "/bin/a", "Environment": ["A=1", "B=2"]}}, enabled = True)
    d = systemd.dropin("a.service", "limits", "[Service]\nLimitNOFILE=10")
    systemd.service("a.service", restart_on = [u, d], reload_on = ["/etc/a"])
    systemd.service("b.socket", running = True, enabled = False, why = "the next step talks to it")
    systemd.mask("c.service")
    systemd.timer("clean", command = ["find", "/var", "-name", "$x"], on_calendar = ["daily", "Mon 12:00"], persistent = True, delay = "1h", user = "nobody")
    systemd.timer("other", unit = "a.service", on_boot = "5min", enabled = False)
    systemd.path_watch("a.service", ["/etc/a/a.conf"], action = "restart")
"#
    ));
}

#[test]
fn checks() {
    assert_snapshot!(lowered(
        r#"
def verify(s, m):
    check.command(["true"], stdout_contains = "", within = "10s")
    check.file("/etc/a", mode = 0o644, kind = "file", contains = "x")
    check.file("/etc/b", present = False)
    check.package("nginx", version = "1")
    check.unit("nginx")
    check.unit("a.timer", enabled = True)
    check.unit("b", active = False)
    check.port(80, address = "::1", open = False, within = 5)
    check.http("http://127.0.0.1/", status = 404, headers = {"Host": "x"})
    check.user("ada", groups = ["ops"], shell = "/bin/bash")
    check.port(1, when = False)
"#
    ));
}

#[test]
fn a_booted_machine_and_facts() {
    let made = make(&[
        (
            "components/c/component.star",
            "def install(s, m):\n    files.content(\"/etc/facts\", \" \".join([m.arch, m.kernel_arch, m.os.id, m.os.codename, \
             m.os.version, m.image, str(m.variant)]))\ncomponent(name = \"c\", install = install, booted = \"needs D-Bus\")\n",
        ),
        (
            "images/web/image.star",
            "image(name = \"web\", base = \"//images/base/tall\", components = [use(\"//components/c\")], variants = {\"big\": {}})\n",
        ),
        (
            "images/base/image.star",
            "image(name = \"base\", base = debian(\"bookworm\"), variants = {\"tall\": {}})\n",
        ),
    ]);
    let text = |image: &str| {
        let planned = made.workspace.plan(&image.parse().expect("a name"), &inputs()).expect("a plan");
        assert_eq!(planned.plan.layers[0].booted.as_deref(), Some("needs D-Bus"));
        String::from_utf8_lossy(planned.inline.values().next().expect("a text")).into_owned()
    };
    // The recipe asks for the image's name, so the two do not share what was worked out.
    assert_eq!(text("web"), "amd64 x86_64 debian bookworm 12 web None");
    assert_eq!(text("web/big"), "amd64 x86_64 debian bookworm 12 web big");
    let both = made
        .workspace
        .plan_all(&["web".parse().expect("a name"), "web/big".parse().expect("a name")], &inputs());
    let keys: Vec<_> = both.into_iter().map(|(_, planned)| planned.expect("a plan").plan.key).collect();
    assert_ne!(keys[0], keys[1]);
    assert_eq!(problems(&made, &inputs()), "");
}

#[test]
fn checks_of_the_base_come_first_and_its_paths_are_known() {
    let made = make(&[
        (
            "components/a/component.star",
            "def install(s, m):\n    files.content(\"/etc/a\", \"1\")\ndef verify(s, m):\n    check.file(\"/etc/a\")\n\
             component(name = \"a\", install = install, verify = verify)\n",
        ),
        (
            "components/b/component.star",
            "def units(s, m):\n    systemd.service(\"b\", reload_on = [\"/etc/a\"])\ndef verify(s, m):\n    check.unit(\"b\")\n\
             component(name = \"b\", units = units, verify = verify)\n",
        ),
        (
            "images/base/image.star",
            "image(name = \"base\", base = debian(\"bookworm\"), components = [use(\"//components/a\")])\n",
        ),
        (
            "images/web/image.star",
            "image(name = \"web\", base = \"//images/base\", components = [use(\"//components/b\")])\n",
        ),
    ]);
    let web = plan(&made, &inputs()).plan;
    let order: Vec<&str> = web.checks.iter().map(|checks| checks.component.as_str()).collect();
    assert_eq!(order, ["a", "b"]);
    let base = made.workspace.plan(&"base".parse().expect("a name"), &inputs()).expect("a plan").plan;
    assert!(matches!(&web.base, olbake_core::plan::Base::Image { key, .. } if *key == base.key));
    assert_eq!(made.workspace.base_of(&web.image).expect("readable"), Some(base.image));
    assert_eq!(web.seal.last().map(|last| last.title.as_str()), Some("leak scan"));
}

/// What waits for a change by a call that is not in the plan never runs; one that is there counts alone.
#[test]
fn a_call_that_waits_for_calls_that_are_not_there_is_not_there_either() {
    let component = r#"
def configure(s, m):
    gone = files.content("/etc/gone", "x", when = False)
    here = files.content("/etc/here", "x")
    never = run.command(["never"], when_changed = [gone])
    run.command(["nor-this"], when_changed = [never])
    run.command(["sometimes"], when_changed = [gone, here])
    run.command(["always"], after = [never], when_changed = [])

component(name = "c", configure = configure)
"#;
    let planned = common::plan(&common::one(component, ""), &common::inputs());
    let found: Vec<(&str, usize)> = planned.plan.layers[0]
        .operations
        .iter()
        .map(|operation| (operation.title.as_str(), operation.when_changed.len()))
        .collect();
    assert_eq!(
        found,
        [("files.content /etc/here", 0), ("run.command sometimes", 1), ("run.command always", 0)]
    );
}
