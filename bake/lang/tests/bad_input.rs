//! What is wrong with recipes, and what people read about it.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod common;

use common::{inputs, make, one, problems};
use insta::assert_snapshot;

const SETTINGS: &str = r#"
S = settings(
    name = "c",
    fields = {
        "version": setting(str, default = "1", doc = "d"),
        "workers": setting(int, default = 1, ge = 1, le = 64, doc = "d"),
        "domains": setting(list[str], default = [], check = hostname, doc = "d"),
        "upstream": setting(str | None, default = None, doc = "d"),
        "token": setting(secret | None, doc = "d"),
    },
    validate = [("domains need an upstream", lambda s: not s.domains or s.upstream != None)],
)
"#;

/// A component with the settings above and this body of `install`.
fn component(install: &str) -> String {
    format!(
        "{SETTINGS}\ndef install(s, m):\n{install}\ncomponent(name = \"c\", settings = S, install = install)\n"
    )
}

/// Collects what several inputs lead to, an empty line between.
fn note(found: &mut String, text: String) {
    if !found.is_empty() {
        found.push('\n');
    }
    found.push_str(&text);
}

fn check_install(install: &str) -> String {
    problems(&one(&component(install), ", token = \"env:T\""), &inputs())
}

#[test]
fn misspelt_settings_wrong_types_and_broken_rules_come_together() {
    let mut found = String::new();
    let made =
        one(&component("    pass"), ", verison = \"2\", workers = \"many\", domains = [\"-\"], colour = 1");
    note(&mut found, problems(&made, &inputs()));
    assert_snapshot!(found);
}

#[test]
fn constraints_and_validators() {
    let mut found = String::new();
    note(&mut found, problems(&one(&component("    pass"), ", workers = 65"), &inputs()));
    note(&mut found, problems(&one(&component("    pass"), ", domains = [\"a.example\"]"), &inputs()));
    assert_snapshot!(found);
}

#[test]
fn a_secret_is_masked_and_needs_a_source() {
    let mut found = String::new();
    note(&mut found, problems(&one(&component("    pass"), ", token = \"hunter2\""), &inputs()));
    assert_snapshot!(found);
}

#[test]
fn settings_from_outside() {
    let mut found = String::new();
    let made = one(&component("    pass"), "");
    let mut bad = inputs();
    bad.environment.insert("C_VERISON".into(), "2".into());
    bad.environment.insert("C_COMPILER".into(), "gcc".into());
    bad.environment.insert("c_Workers".into(), "x".into());
    bad.dotenv = Some((".env".into(), "C_UPSTREEM=x\n".into()));
    note(&mut found, problems(&made, &bad));
    let mut bad = inputs();
    bad.sets = vec!["c.verison=2".into(), "web:c.workers=0".into()];
    note(&mut found, problems(&made, &bad));
    bad.sets = vec!["d.version=2".into(), "wed:c.version=2".into(), "nonsense".into()];
    note(&mut found, problems(&made, &bad));
    assert_snapshot!(found);
}

#[test]
fn an_unknown_attribute_of_the_settings() {
    let mut found = String::new();
    note(&mut found, check_install("    apt.packages([\"x=\" + s.verison])"));
    assert_snapshot!(found);
}

#[test]
fn images_in_a_circle() {
    let mut found = String::new();
    let made = make(&[
        ("images/web/image.star", "image(name = \"web\", base = \"//images/one\")\n"),
        ("images/one/image.star", "image(name = \"one\", base = \"//images/two\")\n"),
        ("images/two/image.star", "image(name = \"two\", base = \"//images/one\")\n"),
    ]);
    note(&mut found, problems(&made, &inputs()));
    assert_snapshot!(found);
}

#[test]
fn unknown_images_components_and_variants() {
    let mut found = String::new();
    let made = make(&[
        ("components/caddy/component.star", "component(name = \"caddy\")\n"),
        (
            "images/web/image.star",
            "image(name = \"web\", base = debian(\"bookworm\"), components = [use(\"//components/cady\")],\n    \
             variants = {\"x\": {\"cadddy\": {\"a\": 1}}})\n",
        ),
        ("images/far/image.star", "image(name = \"far\", base = \"//images/wed\")\n"),
    ]);
    note(&mut found, common::draw(&made.workspace, &made.workspace.check(&inputs())));
    assert_snapshot!(found);
}

#[test]
fn templates() {
    let mut found = String::new();
    let template = |text: &str, call: &str| {
        let star = component(&format!("    {call}"));
        let made = make(&[
            ("components/c/component.star", &star),
            ("components/c/templates/a.j2", text),
            (
                "images/web/image.star",
                "image(name = \"web\", base = debian(\"bookworm\"), components = [use(\"//components/c\")])\n",
            ),
        ]);
        problems(&made, &inputs())
    };
    let call = "files.template(\"/etc/a\", \"templates/a.j2\", vars = {\"s\": s})";
    note(&mut found, template("x\n", "files.template(\"/etc/a\", \"templates/b.j2\")"));
    note(&mut found, template("a\nb {{ nope }} c\n", call));
    note(&mut found, template("a\nb {{ s.verison }} c\n", call));
    note(&mut found, template("a\n{% if x %}\n", call));
    note(&mut found, template("{% include \"templates/c.j2\" %}\n", call));
    note(&mut found, template("x\n", "files.template(\"/etc/a\", \"../../olbake.toml\")"));
    assert_snapshot!(found);
}

#[test]
fn two_operations_on_one_path() {
    let mut found = String::new();
    note(
        &mut found,
        check_install(
            "    files.content(\"/etc/a\", \"1\")\n    files.content(\"/etc//a\", \"2\")\n    files.content(\"/etc/b\", \"1\")\n    files.content(\"/etc/b\", \"1\")",
        ),
    );
    let made = make(&[
        (
            "components/a/component.star",
            "def install(s, m):\n    files.content(\"/etc/a\", \"1\")\ncomponent(name = \"a\", install = install)\n",
        ),
        (
            "components/b/component.star",
            "def install(s, m):\n    files.absent(\"/etc/a\")\ncomponent(name = \"b\", install = install)\n",
        ),
        (
            "components/o/component.star",
            "def install(s, m):\n    files.content(\"/etc/a\", \"3\", override = True)\ncomponent(name = \"o\", install = install)\n",
        ),
        (
            "images/base/image.star",
            "image(name = \"base\", base = debian(\"bookworm\"), components = [use(\"//components/a\")])\n",
        ),
        (
            "images/web/image.star",
            "image(name = \"web\", base = \"//images/base\", components = [use(\"//components/b\")])\n",
        ),
        (
            "images/fine/image.star",
            "image(name = \"fine\", base = \"//images/base\", components = [use(\"//components/o\")])\n",
        ),
    ]);
    note(&mut found, problems(&made, &inputs()));
    assert!(made.workspace.plan(&"fine".parse().unwrap(), &inputs()).is_ok());
    assert_snapshot!(found);
}

#[test]
fn endless_recipes_end() {
    let mut found = String::new();
    note(&mut found, check_install("    for i in range(1000000000):\n        x = i"));
    let recursion = component("    deeper(1)")
        .replace("\ndef install", "\ndef deeper(n):\n    return deeper(n + 1)\n\ndef install");
    note(&mut found, problems(&one(&recursion, ""), &inputs()));
    // One end of steps is enough, though `verify` has none left either.
    let with_verify = component("    for i in range(10):\n        x = 1\n        for j in range(1000000000):\n            x = j\n            x = i")
        .replace("\ncomponent(", "\ndef verify(s, m):\n    for i in range(100000):\n        x = i\n\ncomponent(")
        .replace("install = install)", "install = install, verify = verify)");
    note(&mut found, problems(&one(&with_verify, ""), &inputs()));
    note(
        &mut found,
        check_install(
            "    x = \"ab\"\n    for i in range(100):\n        x = x + x\n    files.content(\"/etc/a\", x)",
        ),
    );
    note(&mut found, check_install("    x = [1]\n    for i in range(100):\n        x = x + x"));
    note(&mut found, check_install("    x = 1\n    y = \"ab\" * 3000000000"));
    let top_level = "x = \"ab\"\nfor i in range(100):\n    x += x\n";
    note(&mut found, problems(&one(top_level, ""), &inputs()));
    let top_level = format!("X = [y for y in range(2000000000)]\n{}", component("    pass"));
    note(&mut found, problems(&one(&top_level, ""), &inputs()));
    assert_snapshot!(found);
}

#[test]
fn downloads_need_a_checksum() {
    let mut found = String::new();
    note(&mut found, check_install("    files.download(\"/opt/a\", \"https://example.org/a\")"));
    note(
        &mut found,
        check_install(
            "    files.archive(\"/opt/a\", url = \"https://example.org/a.tar.gz\", sha256 = \"abc\")",
        ),
    );
    assert_snapshot!(found);
}

#[test]
fn secrets_never_reach_argv_paths_or_titles() {
    let mut found = String::new();
    note(&mut found, check_install("    run.command([\"login\", \"--token\", s.token])"));
    note(&mut found, check_install("    files.content(\"/etc/\" + s.token, \"x\")"));
    note(&mut found, check_install("    files.content(\"/etc/a\", \"\\ue000other.secret\\ue001\")"));
    assert_snapshot!(found);
}

#[test]
fn calls_are_checked() {
    let mut found = String::new();
    note(&mut found, check_install("    files.put(\"/etc/a\", \"files/none\")"));
    note(&mut found, check_install("    files.content(\"/etc/a\", \"x\", ownner = \"root\")"));
    note(&mut found, check_install("    files.content(\"etc/a\", \"x\", mode = 0o77777)"));
    note(&mut found, check_install("    run.command(\"echo a b\")"));
    note(&mut found, check_install("    files.contents(\"/etc/a\", \"x\")"));
    note(&mut found, check_install("    systemd.service(\"a\", running = True)"));
    note(&mut found, check_install("    check.port(1)"));
    note(&mut found, check_install("    apt.packages([\"nginx=1\"])\n    apt.packages([\"nginx=2\"])"));
    note(&mut found, check_install("    systemd.service(\"a\", restart_on = [\"/etc/nobody\"])"));
    note(&mut found, check_install("    files.line(\"/etc/a\", \"x\", matching = \"(\")"));
    note(&mut found, check_install("    fail(\"no way\")"));
    assert_snapshot!(found);
}

#[test]
fn declarations_are_checked() {
    let mut found = String::new();
    let star = |text: &str| problems(&one(text, ""), &inputs());
    note(&mut found, star("x = 1 +\n"));
    note(&mut found, star("x = nope\n"));
    note(&mut found, star("x = 1\n"));
    note(&mut found, star("component(name = \"d\")\n"));
    note(&mut found, star("component(name = \"c\", instal = 1)\n"));
    note(&mut found, star("s = setting(str, default = None)\n"));
    note(&mut found, star("s = setting(secret, default = \"x\")\n"));
    note(&mut found, star("s = setting(list)\n"));
    note(&mut found, star("s = settings(name = \"c\", fields = {\"Bad\": setting(str)})\n"));
    note(&mut found, star("load(\"//nope.star\", \"x\")\n"));
    note(&mut found, star("load(\"//components/c/component.star\", \"x\")\n"));
    note(&mut found, star("files.content(\"/a\", \"b\")\n"));
    note(&mut found, star("x = '\u{e000}'\n"));
    assert_snapshot!(found);
}

#[test]
fn names_of_folders() {
    let mut found = String::new();
    let made = make(&[
        ("components/Bad/component.star", ""),
        ("images/web/image.star", "image(name = \"web\", base = 5)\n"),
    ]);
    note(&mut found, common::draw(&made.workspace, &made.workspace.check(&inputs())));
    assert_snapshot!(found);
}

/// An image may give its Debian another size, which is held to the same limit.
#[test]
fn a_disk_too_small_for_debian_is_refused_wherever_it_is_asked_for() {
    for (base, size) in [
        ("debian(\"bookworm\", disk_size = \"512MiB\")", ""),
        ("debian(\"bookworm\")", ", disk_size = \"512MiB\""),
    ] {
        let image = format!("image(name = \"web\", base = {base}{size})\n");
        let found = common::problems(&common::make(&[("images/web/image.star", &image)]), &common::inputs());
        assert!(found.contains("a Debian that boots needs a disk of at least `1GiB`"), "{found}");
    }
}

/// One mistake hides no other, and is said once.
#[test]
fn mistakes_in_a_phase_come_together() {
    let mut found = String::new();
    note(
        &mut found,
        check_install(
            "    files.contents(\"/etc/a\", \"x\")
    files.content(\"/etc/b\", \"x\", ownner = \"root\", mode = \"rw\", txet = \"y\")
    files.content(\"etc/c\", 5, mode = 644)
    files.content(\"/etc/d\", txet = \"y\")
    files.content(\"/etc/e\", \"1\")
    files.content(\"/etc/e\", \"2\")
    apt.packages([\"Nginx\", 5], latest = 1)
    users.user(\"Not a name\", shell = \"bash\", groups = 7)
    systemd.service(\"a b\", enabled = \"yes\", restart_on = [\"/etc/b\", 3])
    apt.repo(\"r\", suite = [\"bookworm\"])",
        ),
    );
    // Nothing but the first: the rest only follows.
    note(
        &mut found,
        check_install(
            "    config = files.content(\"/etc/a\", \"x\", overide = True)
    systemd.service(\"a\", restart_on = [\"/etc/a\"], reload_on = [config])
    run.command([\"true\"], when_changed = [config])",
        ),
    );
    assert_snapshot!(found);
}

#[test]
fn mistakes_in_declarations_come_together() {
    let mut found = String::new();
    let star = |text: &str| problems(&one(text, ""), &inputs());
    note(&mut found, star("load(\"//none.star\", \"x\")\nload(\"//nothing.star\", \"y\")\n"));
    note(&mut found, star("x = nope\ny = nada\nz = nope\ndef f():\n    print(\"a\")\n"));
    note(
        &mut found,
        star(
            "S = settings(name = \"c\", fields = {
    \"a\": setting(str, default = 1, ge = \"x\", dco = \"d\"),
    \"b\": setting(list),
    \"Bad\": setting(str),
    \"c\": 4,
    \"d\": setting(str, source = \"env:A\", regex = \"(\"),
    \"e\": setting(list[record(x = 1)] | None, default = []),
    \"f\": setting(int, check = lambda: True),
    \"g\": setting(mode, default = 400),
}, validate = [(\"no\", lambda: True)])
component(name = \"c\", settings = S, instal = 1, units = 2, verify = lambda s: None)
",
        ),
    );
    note(
        &mut found,
        star(
            "def verify(s):
    check.file(\"/etc/a\")

def install():
    pass

component(name = \"c\", install = install, verify = verify)
",
        ),
    );
    let image = "image(
    name = \"Web\",
    base = \"//image/base\",
    components = [use(\"//c\"), 5, use(\"//components/a\"), use(\"//components/a\", x = len)],
    variants = {\"Big\": {}, \"small\": {\"a\": 1}},
    disk_size = \"big\",
    leak_allow = [\"etc\"],
    compnents = [],
)
";
    note(&mut found, problems(&make(&[("images/web/image.star", image)]), &inputs()));
    assert_snapshot!(found);
}

#[test]
fn a_bad_input_hides_no_other() {
    let mut found = String::new();
    let component = component("    pass").replace("default = \"1\"", "ge = 1").replace("str, ge", "int, ge");
    let made = one(&component, ", colour = 1");
    let mut bad = inputs();
    bad.sets = vec!["d.version=2".into(), "c.workers=0".into()];
    bad.dotenv = Some((".env".into(), "C_VERSION=\"3\nC_DOMAINS=-\n".into()));
    note(&mut found, problems(&made, &bad));
    note(&mut found, common::draw(&made.workspace, &made.workspace.check(&bad)));
    assert_snapshot!(found);
}

/// What is wrong in an image is said with what is wrong in those it starts from.
#[test]
fn a_bad_base_hides_nothing() {
    let component = |name: &str| {
        format!(
            "def install(s, m):\n    files.content(\"{name}\", \"1\")\ncomponent(name = \"{name}\", install = install)\n"
        )
    };
    let made = make(&[
        ("components/a/component.star", &component("a")),
        ("components/b/component.star", &component("b")),
        (
            "images/base/image.star",
            "image(name = \"base\", base = debian(\"bookworm\"), components = [use(\"//components/a\")])\n",
        ),
        (
            "images/web/image.star",
            "image(name = \"web\", base = \"//images/base\", components = [use(\"//components/b\")])\n",
        ),
    ]);
    assert_snapshot!(problems(&made, &inputs()));
}

#[test]
fn mistakes_in_templates_come_together() {
    let star = component(
        "    files.template(\"/etc/a\", \"templates/a.j2\", vars = {\"s\": s, \"all\": [{\"n\": 1}]})",
    );
    let made = |a: &str, c: &[u8]| {
        let made = make(&[
            ("components/c/component.star", &star),
            ("components/c/templates/a.j2", a),
            ("components/c/templates/c.j2", ""),
            (
                "images/web/image.star",
                "image(name = \"web\", base = debian(\"bookworm\"), components = [use(\"//components/c\")])\n",
            ),
        ]);
        std::fs::write(made.workspace.root().join("components/c/templates/c.j2"), c).unwrap();
        problems(&made, &inputs())
    };
    let mut found = String::new();
    let several = "{{ nope }} {{ s.verison | upper }}\n{% for one in all %}{{ one.m }}{% endfor %}\n\
                   {% include \"templates/c.j2\" %}{{ x }}{% if y is defined %}{{ y }}{% endif %}\n\
                   {% for z in nada %}{{ z.a }}{% endfor %}{{ gone.x.y }}\n";
    note(&mut found, made(several, b"{{ s.version }}\nin {{ inner }} {{ s.workesr }}\n"));
    note(&mut found, made("{% include \"templates/c.j2\" %}\n", b"\xff\xfe"));
    let binary = make(&[
        ("components/c/component.star", &star),
        (
            "images/web/image.star",
            "image(name = \"web\", base = debian(\"bookworm\"), components = [use(\"//components/c\")])\n",
        ),
    ]);
    std::fs::create_dir_all(binary.workspace.root().join("components/c/templates")).unwrap();
    std::fs::write(binary.workspace.root().join("components/c/templates/a.j2"), b"\xff\xfe").unwrap();
    note(&mut found, problems(&binary, &inputs()));
    assert_snapshot!(found);
}

#[test]
fn modes_in_decimal() {
    let mut found = String::new();
    note(
        &mut found,
        check_install(
            "    files.content(\"/etc/a\", \"x\", mode = 644)
    files.directory(\"/srv/b\", mode = 400)
    MODE = 755
    files.directory(\"/srv/c\", mode = MODE)
    files.directory(\"/srv/d\", mode = 493)
    files.directory(\"/srv/e\", mode = \"0755\")
    files.directory(\"/srv/f\", mode = 0o1777)
    files.directory(\"/srv/g\", mode = 0)
    files.directory(\"/srv/h\", mode = 0o640 if s.workers else 0o600)",
        ),
    );
    assert_snapshot!(found);
}

/// From whichever of them one comes to it, a circle is one mistake.
#[test]
fn a_circle_is_reported_once() {
    let image = |name: &str, base: &str| format!("image(name = \"{name}\", base = \"//images/{base}\")\n");
    let component = |name: &str, next: &str| {
        format!("load(\"//components/{next}/component.star\", \"x\")\ncomponent(name = \"{name}\")\n")
    };
    let made = make(&[
        ("images/one/image.star", &image("one", "two")),
        ("images/two/image.star", &image("two", "three")),
        ("images/three/image.star", &image("three", "one")),
        ("components/a/component.star", &component("a", "b")),
        ("components/b/component.star", &component("b", "c")),
        ("components/c/component.star", &component("c", "a")),
    ]);
    let found = made.workspace.check(&inputs());
    assert_snapshot!(common::draw(&made.workspace, &found));
    // Whichever is looked at first.
    let other = made.workspace.settings_reference(&"c".parse().unwrap()).unwrap_err();
    assert!(found.0.contains(&other.0[0]), "{other}");
}

/// What the machine would find out only when it reads it.
#[test]
fn what_is_written_in_arguments_is_read() {
    let mut found = String::new();
    note(
        &mut found,
        check_install(
            r#"    systemd.timer("a", command = ["true"], on_calendar = ["daily", "dayly", "25:00"], delay = "5 minuts")
    systemd.timer("a b", unit = "b.servce", on_boot = "soon")
    systemd.service("a/b")
    systemd.unit("x.timers", "[Unit]\n")
    files.attributes("/srv/a", acl = ["u:daemon:rx", "u:daemon"], capabilities = "cap_net_bind=ep", owner = "a b")
    files.content("/etc/a", "x", owner = "root:root", group = 5)
    run.command(["true"], user = "no body")
    apt.repo("r", uris = "deb.debian.org/debian", suites = ["book worm"], components = ["main contrib"])
    users.membership("web", ["www data"])
    cron.job("job", "@daily", "true", user = "-root")"#,
        ),
    );
    let verify = component("    pass").replace(
        "\ncomponent(",
        "\ndef verify(s, m):\n    check.port(0)\n    check.port(70000)\n    check.unit(\"a.servce\")\n    check.user(\"a b\")\n\ncomponent(",
    );
    note(
        &mut found,
        problems(
            &one(&verify.replace("install = install)", "install = install, verify = verify)"), ""),
            &inputs(),
        ),
    );
    assert_snapshot!(found);
}

#[test]
fn names_that_no_file_can_have() {
    let long = "a".repeat(256);
    let found = check_install(&format!(
        "    files.content(\"/etc/{long}\", \"x\")\n    systemd.dropin(\"a\", \"{long}\", \"[Unit]\\n\")\n    files.directory(\"/{}\")",
        "a/".repeat(2100)
    ));
    assert_snapshot!(
        found.replace(&long, "LONG").replace(&"a/".repeat(2100), "DEEP").replace(&"^".repeat(200), "")
    );
}

/// A file is no directory, whoever declares what is below it, and in whatever order.
#[test]
fn what_lies_below_a_file() {
    let mut found = String::new();
    note(
        &mut found,
        check_install(
            "    files.content(\"/etc/a\", \"1\")\n    files.content(\"/etc/a/b\", \"2\")\n    files.directory(\"/etc/c/d\")\n    files.content(\"/etc/c\", \"1\")\n    files.line(\"/etc/a/x/y\", \"z\")",
        ),
    );
    // A directory, a link to one, and what is gone have nothing against it.
    note(
        &mut found,
        check_install(
            "    files.directory(\"/etc/a\")\n    files.content(\"/etc/a/b\", \"2\")\n    files.link(\"/etc/c\", \"/srv\")\n    files.content(\"/etc/c/d\", \"1\")\n    files.absent(\"/etc/e\")\n    files.content(\"/etc/e/f\", \"1\")\n    files.absent(\"/etc/e/f/g\")",
        ),
    );
    assert_snapshot!(found);
}
