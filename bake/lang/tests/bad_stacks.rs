//! What is wrong with projects, their configuration and policies, and what people read about it.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod common;

use std::fmt::Write as _;
use std::sync::Arc;

use common::stacks::{body, evaluate, offline, stacks, wrong};
use common::{draw, inputs};
use insta::assert_snapshot;
use olbake_core::diagnostic::Diagnostic;
use olbake_lang::{OtherStack, StackInputs};

/// Titles and what is wrong, one after the other.
#[derive(Default)]
struct Found(String);

impl Found {
    fn note(&mut self, title: &str, problems: &str) {
        write!(self.0, "## {title}\n{problems}\n").unwrap();
    }

    /// A stack whose function has this body.
    fn body(&mut self, title: &str, text: &str) {
        self.note(title, &wrong(&body(text), "a.QA", &offline()));
    }
}

const CONFIG: &str = r#"
Config = settings(name = "a", fields = {
    "size": setting(int, ge = 1, doc = "d"),
    "names": setting(list[hostname], default = [], doc = "d"),
    "password": setting(secret, doc = "d"),
    "token": setting(secret | None, doc = "d"),
}, validate = [("more than nine needs names", lambda s: s.size < 10 or s.names)])

project(config = Config, stack = lambda c, ctx: None)
"#;

const SEALED: &str = "password = { secure = \"v1:x\" }\n";

fn configured(toml: &str) -> common::Made {
    stacks(&[("stacks/a/stack.star", CONFIG), ("stacks/a/QA.toml", toml)])
}

#[test]
fn configurations() {
    let mut found = Found::default();
    for (title, toml) in [
        ("nothing is given", ""),
        ("unknown keys", &*format!("size = 1\nsice = 2\n{SEALED}[image]\nweb = 'x'\n")),
        ("wrong types", &*format!("size = 'many'\nnames = ['a', '-b']\n{SEALED}")),
        ("broken rules", &*format!("size = 0\n{SEALED}")),
        ("a broken validator", &*format!("size = 10\n{SEALED}")),
        ("secrets in the open", "size = 1\npassword = 'hunter2'\ntoken = { secured = 'v1:x' }\n"),
        ("a sealed value that is no secret", &*format!("size = {{ secure = 'v1:x' }}\n{SEALED}")),
        ("no TOML", "size = \nnames = ["),
        ("values that TOML has and settings have not", "size = 2020-01-01\nnames = [nan]"),
        ("images and channels", "[images]\nweb = 'latest'\nWeb = 'sha256:0'\n[channels]\nweb = 1\n"),
    ] {
        found.note(title, &wrong(&configured(toml), "a.QA", &offline()));
    }
    let fine = configured(&format!("size = 1\n{SEALED}"));
    let mut given = offline();
    given.environment.insert("A_SIZE".into(), "many".into());
    given.environment.insert("A_PASSWORD".into(), "hunter2".into());
    given.sets = vec!["a.sice=1".into(), "b.size=1".into(), "a.token=hunter2".into(), "x".into()];
    found.note("values from outside", &wrong(&fine, "a.QA", &given));
    assert_snapshot!(found.0);
    assert!(!found.0.contains("hunter2"), "a secret is shown");
}

#[test]
fn layers_lie_over_each_other() {
    let made = configured(&format!("size = 2\n{SEALED}"));
    let mut given = offline();
    assert_eq!(evaluate(&made, "a.QA", &given).config["size"].value, 2);
    given.dotenv = Some((".env".into(), "A_SIZE=3\n".into()));
    assert_eq!(evaluate(&made, "a.QA", &given).config["size"].value, 3);
    given.environment.insert("A_SIZE".into(), "4".into());
    assert_eq!(evaluate(&made, "a.QA", &given).config["size"].value, 4);
    given.sets = vec!["a.size=5".into(), "a.Production:a.size=6".into()];
    let evaluated = evaluate(&made, "a.QA", &given);
    let layers: Vec<&str> =
        evaluated.config["size"].provenance.iter().map(|origin| origin.layer.as_str()).collect();
    assert_eq!(evaluated.config["size"].value, 5);
    assert_eq!(layers, ["environment file", ".env", "environment", "--set"]);
}

#[test]
fn names_of_stacks() {
    let project = "project(stack = lambda c, ctx: None)\n";
    let made = stacks(&[
        ("stacks/applications/hello/stack.star", project),
        ("stacks/applications/hello/QA.toml", ""),
        ("stacks/applications/hello/qa.toml", ""),
        ("stacks/applications/Hello/stack.star", project),
        ("stacks/applications/idle/stack.star", project),
        ("stacks/applications/none/stack.star", "x = 1\n"),
        ("stacks/applications/none/QA.toml", ""),
        (
            "stacks/applications/twice/stack.star",
            "project(stack = lambda c, ctx: None)\nproject(stack = 1)\n",
        ),
        ("stacks/components/broken.star", "def f(:\n"),
        ("stacks/components/project.star", project),
        ("policies/none.star", "x = 1\n"),
        ("policies/broken.star", "policy(name = \"a\", check = 1)\n"),
    ]);
    let mut found = Found::default();
    for name in [
        "applications.helo.QA",
        "applications.hello.qa",
        "applications.hello.Production",
        "applications.hello.Staging",
        "applications.hello",
        "hello",
    ] {
        let problems = made.workspace.stack(name).unwrap_err();
        found.note(name, &draw(&made.workspace, &problems));
    }
    found.note("check", &draw(&made.workspace, &made.workspace.check(&inputs())));
    assert_snapshot!(found.0);
}

#[test]
fn references_to_what_is_not_there() {
    let mut found = Found::default();
    found.body(
        "outputs that a type has not",
        "lb = local.balancer(\"lb\", network = \"n\")\noutput(\"a\", lb.adress)",
    );
    found.body(
        "parts that an output has not",
        "g = local.group(\"g\", image = ctx.image(\"web\"), network = \"n\")\noutput(\"a\", g.members[0].id)",
    );
    found.body(
        "parts of text",
        "g = local.network(\"n\", cidr = \"10.0.0.0/8\")\noutput(\"a\", g.network_id[:3])",
    );
    found.body("types that a provider has not", "local.netwrk(\"n\")");
    found.body("providers that there are not", "locl.network(\"n\")");
    found.body(
        "a reference that somebody made up",
        "local.network(\"n\", cidr = chr(0xe002) + \"x.id\" + chr(0xe003))",
    );
    found.body("a secret that somebody made up", "output(\"n\", chr(0xe000) + \"config.x\" + chr(0xe001))");
    found.body("dependencies", "local.network(\"net\", cidr = \"10.0.0.0/8\", depends_on = [\"nett\", 1])\nlocal.volume(\"v\", size = 1, depends_on = \"met\")");
    found.body(
        "resources in a circle",
        "local.volume(\"a\", size = 1, depends_on = [\"b\"])\nlocal.volume(\"b\", size = 1, depends_on = [\"a\"])",
    );
    found.body("outputs twice and misnamed", "output(\"a\", 1)\noutput(\"a\", 2)\noutput(\"a-b\", len)");
    found.body("images", "ctx.image(\"wbe\")\nctx.image(\"Web\")\nctx.image(1)");
    found.body("the context", "ctx.enviroment");
    found.body("stacks", "ctx.stack(\"b\")\nctx.stack(\"a\")\nctx.stack(\"a.QA\")\nctx.stack(\"a.Q\")");
    found.body("files", "ctx.file(\"../x\")\nctx.file(\"none\")\nctx.foreign(\"//stacks/a/QA.toml\")");
    found.body("the settings", "c.size");
    assert_snapshot!(found.0);
}

#[test]
fn secrets_that_would_show() {
    let recipe = CONFIG.replace(
        "project(config = Config, stack = lambda c, ctx: None)",
        "def stack(c, ctx):\n    db = local.database(\"db\", password = c.password)\n    output(\"a\", \"pw=\" + c.password)\n    output(\"b\", [db.token])\n    output(\"c\", db.address)\n    output(\"d\", hasattr(db, \"adress\"))\n\nproject(config = Config, stack = stack)",
    );
    let made =
        stacks(&[("stacks/a/stack.star", &recipe), ("stacks/a/QA.toml", &format!("size = 1\n{SEALED}"))]);
    assert_snapshot!(wrong(&made, "a.QA", &offline()));
}

#[test]
fn recipes_that_do_not_end() {
    let mut found = Found::default();
    found.body("recursion", "def f(n):\n    return f(n + 1)\nf(0)");
    found.body("a loop", "for i in range(100000):\n    for j in range(100000):\n        len([])");
    assert_snapshot!(found.0);
}

#[test]
fn what_is_called_in_the_wrong_place() {
    let mut found = Found::default();
    for (title, text) in [
        ("a resource", "local.network(\"n\", cidr = \"10.0.0.0/8\")\n"),
        ("an output", "output(\"a\", 1)\n"),
        ("a policy", "policy(name = \"a\", check = lambda plan: None)\n"),
        ("a violation", "def stack(c, ctx):\n    deny(\"no\")\nproject(stack = stack)\n"),
        ("no function", "project(stack = 1)\n"),
        ("no config", "project(stack = lambda c, ctx: None, config = 1)\n"),
        (
            "settings that cannot be",
            "project(config = settings(name = \"a\", fields = {\"images\": setting(str)}), stack = lambda c, ctx: None)\n",
        ),
        (
            "secrets with a source",
            "project(config = settings(name = \"a\", fields = {\"x\": setting(secret, source = \"env:X\")}), stack = lambda c, ctx: None)\n",
        ),
        ("a phase", "def stack(c, ctx):\n    apt.packages([\"x\"])\nproject(stack = stack)\n"),
        ("a component resource", "f = component_resource(lambda name: None)\nf(\"x\")\n"),
    ] {
        let made = stacks(&[("stacks/a/stack.star", text), ("stacks/a/QA.toml", "")]);
        found.note(title, &wrong(&made, "a.QA", &offline()));
    }
    assert_snapshot!(found.0);
}

#[test]
fn component_resources_used_twice_under_one_name() {
    let service = "def _s(name, size = 1):\n    local.volume(\"data\", size = size)\n    missing\nservice = component_resource(_s)\n";
    let service = service.replace("    missing\n", "");
    let recipe = "load(\"//stacks/components/s.star\", \"service\")\n\ndef stack(c, ctx):\n    service(\"web\")\n    service(\"web\")\n    service(name = \"web\", size = \"big\")\n    service(size = 1)\n\nproject(stack = stack)\n";
    let made = stacks(&[
        ("stacks/components/s.star", &service),
        ("stacks/a/stack.star", recipe),
        ("stacks/a/QA.toml", ""),
    ]);
    assert_snapshot!(wrong(&made, "a.QA", &offline()));
}

const READER: &str =
    "def stack(c, ctx):\n    output(\"x\", ctx.stack(\"OTHER.QA\").NAME)\n\nproject(stack = stack)\n";

fn reader(other: &str, name: &str) -> String {
    READER.replace("OTHER", other).replace("NAME", name)
}

#[test]
fn stacks_in_a_circle() {
    let made = stacks(&[
        ("stacks/a/stack.star", &reader("b", "x")),
        ("stacks/a/QA.toml", ""),
        ("stacks/b/stack.star", &reader("c", "x")),
        ("stacks/b/QA.toml", ""),
        ("stacks/c/stack.star", &reader("a", "x")),
        ("stacks/c/QA.toml", ""),
    ]);
    let mut found = Found::default();
    let order = made.workspace.stack_order(&offline()).unwrap_err();
    found.note("the order", &draw(&made.workspace, &order));
    found.note("one of them", &wrong(&made, "b.QA", &offline()));
    found.note("check", &draw(&made.workspace, &made.workspace.check(&inputs())));
    assert_snapshot!(found.0);
}

/// What a state says of another stack.
type Answer = fn() -> Result<OtherStack, Box<Diagnostic>>;

#[test]
fn stacks_that_read_others() {
    let made = stacks(&[
        ("stacks/a/stack.star", &reader("b", "y")),
        ("stacks/a/QA.toml", ""),
        ("stacks/b/stack.star", "def stack(c, ctx):\n    output(\"x\", 1)\n\nproject(stack = stack)\n"),
        ("stacks/b/QA.toml", ""),
    ]);
    let order: Vec<String> =
        made.workspace.stack_order(&offline()).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(order, ["b.QA", "a.QA"]);
    let mut found = Found::default();
    found.note("check", &draw(&made.workspace, &made.workspace.check(&inputs())));
    let answers: [(&str, Answer); 3] = [
        ("never deployed", || Ok(OtherStack::NeverDeployed)),
        ("a missing output", || Ok(OtherStack::Deployed([("x".to_owned(), 1.into())].into()))),
        ("a state that cannot be read", || Err(Box::new(Diagnostic::error("state", "the state is torn")))),
    ];
    for (title, answer) in answers {
        let inputs = StackInputs { outputs: Arc::new(move |_| answer()), ..offline() };
        found.note(title, &wrong(&made, "a.QA", &inputs));
    }
    let images: StackInputs = StackInputs {
        images: Arc::new(|wanted| {
            let text = format!("`{}` has no version in the channel `{}`", wanted.image, wanted.channel);
            Err(Box::new(Diagnostic::error("no-version", text)))
        }),
        ..offline()
    };
    found.note("an image without a version", &wrong(&body("ctx.image(\"web/large\")"), "a.QA", &images));
    assert_snapshot!(found.0);
}

#[test]
fn states_of_other_tools() {
    let state = r#"{"version": 4, "outputs": {
        "zone": {"value": "eu", "type": "string"},
        "key": {"value": "hidden", "type": "string", "sensitive": true}}}"#;
    let project = |text: &str| {
        let recipe = format!("def stack(c, ctx):\n    {text}\n\nproject(stack = stack)\n");
        stacks(&[("stacks/a/stack.star", &recipe), ("stacks/a/QA.toml", ""), ("stacks/a/old.tfstate", state)])
    };
    let made = project("output(\"zone\", ctx.foreign(\"old.tfstate\").zone)");
    assert_eq!(evaluate(&made, "a.QA", &offline()).declaration.outputs["zone"], "eu");
    let mut found = Found::default();
    for text in ["ctx.foreign(\"old.tfstate\").key", "ctx.foreign(\"//stacks/a/old.tfstate\")[\"zome\"]"] {
        found.note(text, &wrong(&project(text), "a.QA", &offline()));
    }
    assert_snapshot!(found.0);
    assert!(!found.0.contains("hidden"), "a secret is shown");
}
