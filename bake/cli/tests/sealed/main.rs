//! What `olbake` says and how it ends, for commands that need neither root nor a network: standard output, standard
//! error and exit code together, in a sealed environment.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod promotion;
mod stacks;
mod support;

use support::Sealed;

/// Compares what a command did with the snapshot of this test.
macro_rules! check {
    ($ran:expr) => {
        insta::assert_snapshot!($ran.text())
    };
}

const SECRET: (&str, &str) = ("HELLO_TOKEN_VALUE", "a secret that nobody may see");

#[test]
fn what_a_stack_does_not_declare_is_not_set_and_a_secret_only_sealed() {
    let sealed = Sealed::empty();
    sealed.write(
        "stacks/applications/shop/stack.star",
        "project(\n    config = settings(name = \"shop\", fields = {\n        \
         \"size\": setting(int, default = 1, doc = \"how many\"),\n        \
         \"token\": setting(secret | None, doc = \"a token\"),\n    }),\n    \
         stack = lambda c, ctx: None,\n)\n",
    );
    sealed.write("stacks/applications/shop/QA.toml", "");
    let set = |more: &[&str]| {
        sealed.olbake(&[&["config", "--stack", "applications.shop.QA", "set"][..], more].concat()).text()
    };
    let file = || std::fs::read_to_string(sealed.path().join("stacks/applications/shop/QA.toml")).unwrap();
    for (more, said) in [
        (&["token", "hunter2"][..], "`token` is a secret"),
        (&["sise", "3"], "did you mean `size`?"),
        (&["--secret", "size"], "`size` is no secret"),
    ] {
        let text = set(more);
        assert!(text.contains(said), "{text}");
        assert_eq!(file(), "", "something was written");
    }
    set(&["size", "3"]);
    assert_eq!(file(), "size = 3\n");
}

#[test]
fn check_finds_nothing() {
    check!(Sealed::fixture().olbake(&["check"]));
}

#[test]
fn check_reports_every_mistake_at_its_place() {
    let sealed = Sealed::fixture();
    sealed.replace("images/web/image.star", "greeting = ", "greting = ");
    sealed.replace("images/web/image.star", "\"workers\": 8", "\"workers\": \"many\"");
    check!(sealed.olbake(&["check"]));
}

#[test]
fn check_as_json_ends_with_the_error() {
    let sealed = Sealed::fixture();
    sealed.replace("images/web/image.star", "greeting = ", "greting = ");
    check!(sealed.olbake(&["check", "--json"]));
}

#[test]
fn check_is_strict_about_warnings_when_asked() {
    let sealed = Sealed::fixture();
    sealed.replace(
        "components/hello/component.star",
        "\"/etc/hello/hello.conf\", \"t",
        "\"/srv/odd/hello.conf\", \"t",
    );
    let lenient = sealed.olbake(&["check"]);
    assert_eq!(lenient.code, Some(0), "{}", lenient.text());
    check!(sealed.olbake(&["check", "--strict"]));
}

#[test]
fn a_template_with_an_unknown_variable_points_at_it() {
    let sealed = Sealed::fixture();
    sealed.replace("components/hello/templates/hello.conf.j2", "s.workers", "s.wrokers");
    check!(sealed.olbake(&["check"]));
}

#[test]
fn plan_lists_operations_by_phase() {
    check!(Sealed::fixture().olbake_with(&["plan", "web"], &[SECRET]));
}

#[test]
fn a_plan_has_no_secret_in_it() {
    let ran = Sealed::fixture().olbake_with(&["plan", "web", "--json"], &[SECRET]);
    assert_eq!(ran.code, Some(0), "{}", ran.text());
    let plan: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(plan["image"], "web");
    assert!(!ran.stdout.contains(SECRET.1));
}

#[test]
fn plan_of_a_secret_that_is_not_there() {
    check!(Sealed::fixture().olbake(&["plan", "web"]));
}

#[test]
fn plan_without_an_image_names_them() {
    check!(Sealed::fixture().olbake(&["plan"]));
}

#[test]
fn plans_are_what_their_schema_says() {
    let printed = |sealed: &Sealed, command: &[&str]| -> serde_json::Value {
        let ran = sealed.olbake_with(command, &[SECRET]);
        assert_eq!(ran.code, Some(0), "{}", ran.text());
        serde_json::from_str(&ran.stdout).unwrap()
    };
    let schema = printed(&Sealed::outside(), &["plan", "--schema"]);
    assert_eq!(schema["title"], "Plan");
    let validator = jsonschema::validator_for(&schema).unwrap();
    let sealed = Sealed::examples();
    for image in ["base", "database", "web", "web/small", "web/large"] {
        let mut plan = printed(&sealed, &["plan", image, "--json"]);
        let wrong: Vec<_> = validator.iter_errors(&plan).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{image}: {wrong:#?}");
        // It sees what is wrong.
        plan["layers"][0]["operations"][0]["action"]["do"] = "nothing".into();
        assert!(!validator.is_valid(&plan), "{image}");
    }
}

#[test]
fn the_manual_has_a_page_for_every_command() {
    let sealed = Sealed::outside();
    let ran = sealed.olbake(&["man", "pages/man1"]);
    assert_eq!(ran.code, Some(0), "{}", ran.text());
    let page =
        |name: &str| std::fs::read_to_string(sealed.path().join("pages/man1").join(name)).unwrap_or_default();
    assert!(page("olbake.1").contains("olbake\\-rollout"));
    assert!(page("olbake-rollout.1").contains("\\-\\-follow"));
    assert!(page("olbake-config-set.1").contains("\\-\\-secret"));
    sealed.write("a-file", "");
    assert_eq!(sealed.olbake(&["man", "a-file/man1"]).code, Some(5));
}

#[test]
fn explain_tells_every_layer() {
    let sealed = Sealed::fixture();
    sealed.write(".env", "HELLO_WORKERS=4\n");
    let set = ["explain", "web/large", "hello.workers", "--set", "hello.workers=6"];
    check!(sealed.olbake_with(&set, &[("hello_workers", "5")]));
}

#[test]
fn explain_names_secrets_and_shows_none() {
    let ran = Sealed::fixture().olbake_with(&["explain", "web", "hello"], &[SECRET]);
    assert!(!ran.text().contains(SECRET.1));
    check!(ran);
}

#[test]
fn explain_as_json() {
    check!(Sealed::fixture().olbake(&["explain", "web", "hello.greeting", "--json"]));
}

/// A rule that a value breaks is a reason to ask where it comes from.
#[test]
fn explain_of_an_image_that_cannot_be_planned() {
    let sealed = Sealed::fixture();
    sealed.replace("images/web/image.star", "\"workers\": 8", "\"workers\": \"many\"");
    check!(sealed.olbake(&["explain", "web/large", "hello.greeting"]));
}

#[test]
fn explain_of_what_is_not_there() {
    check!(Sealed::fixture().olbake(&["explain", "web", "hello.greetin"]));
}

#[test]
fn why_before_the_first_bake() {
    check!(Sealed::fixture().olbake_with(&["why", "web"], &[SECRET]));
}

#[test]
fn images_before_the_first_bake() {
    check!(Sealed::fixture().olbake_with(&["images"], &[SECRET]));
}

#[test]
fn an_unknown_image_has_a_suggestion() {
    check!(Sealed::fixture().olbake(&["bake", "wbe"]));
}

#[test]
fn an_unknown_version() {
    check!(Sealed::fixture().olbake(&["show", "web"]));
}

#[test]
fn an_error_as_json_is_one_line() {
    check!(Sealed::fixture().olbake(&["bake", "wbe", "--json"]));
}

#[test]
fn usage_errors_are_clap_s() {
    check!(Sealed::fixture().olbake(&["bake", "--verify", "none", "web"]));
}

#[test]
fn outside_of_a_workspace() {
    check!(Sealed::outside().olbake(&["check"]));
}

#[test]
fn a_mistake_in_the_configuration_points_at_it() {
    let sealed = Sealed::fixture();
    sealed.write("olbake.toml", "[regsitry]\nurl = \"file://x\"\n");
    check!(sealed.olbake(&["images"]));
}

#[test]
fn new_recipes_pass_the_check() {
    let sealed = Sealed::empty();
    let written = sealed.olbake(&["new", "component", "greeter"]);
    assert_eq!(written.code, Some(0), "{}", written.text());
    check!(sealed.olbake(&["new", "image", "shop"]));
    let checked = sealed.olbake(&["check", "--strict"]);
    assert_eq!(
        checked.text(),
        "$ olbake check --strict\nexit code: 0\n----- stdout -----\n1 image, 1 component: no mistakes\n"
    );
}

#[test]
fn new_does_not_overwrite() {
    let sealed = Sealed::fixture();
    check!(sealed.olbake(&["new", "component", "hello"]));
}

#[test]
fn reference_prints_writes_and_checks() {
    let sealed = Sealed::fixture();
    check!(sealed.olbake(&["reference", "hello"]));
    assert_eq!(sealed.olbake(&["reference", "--check"]).code, Some(4));
    assert_eq!(sealed.olbake(&["reference", "--write"]).stdout, "components/hello/README.md\n");
    assert_eq!(
        sealed.olbake(&["reference", "--write"]).stdout,
        "",
        "a second time there is nothing to write"
    );
    assert_eq!(sealed.olbake(&["reference", "--check"]).code, Some(0));
    sealed.replace("components/hello/component.star", "default = 1,", "default = 2,");
    assert_eq!(sealed.olbake(&["reference", "--check"]).code, Some(4));
}

#[test]
fn completions_are_a_script() {
    let ran = Sealed::outside().olbake(&["completions", "bash"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.stdout.contains("_olbake()"));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let sealed = Sealed::outside();
    let command = format!("{} plan --schema | head -n 1", env!("CARGO_BIN_EXE_olbake"));
    let output = std::process::Command::new("bash")
        .args(["-o", "pipefail", "-c", &command])
        .current_dir(sealed.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn colours_are_used_where_asked_for() {
    let sealed = Sealed::fixture();
    let always = sealed.olbake(&["plan", "--color", "always"]);
    assert!(always.stderr.contains("\u{1b}["), "{}", always.stderr);
    assert!(!sealed.olbake(&["plan"]).stderr.contains('\u{1b}'));
}

#[test]
fn help_lists_the_exit_codes() {
    check!(Sealed::outside().olbake(&["--help"]));
}
