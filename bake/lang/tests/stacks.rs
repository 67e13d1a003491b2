//! Projects and stacks: what is declared, what it comes to.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::stacks::{body, evaluate, offline, readable, stacks, wrong};
use common::{draw, inputs};
use insta::assert_snapshot;
use olbake_core::Digest;
use olbake_core::secret::SecretId;
use olbake_core::stack::declare::PinnedImage;
use olbake_lang::{OtherStack, StackInputs};
use serde_json::json;

const NETWORK: &str = r#"
def stack(c, ctx):
    network = local.network("network", cidr = "10.1.0.0/24")
    output("network_id", network.network_id)

project(stack = stack)
"#;

const SERVICE: &str = r#"
def _service(name, image, network, size = 1, env = {}):
    balancer = local.balancer("balancer", network = network)
    group = local.group("group", image = image, network = network, size = size, env = env, depends_on = [balancer])
    return struct(url = f"http://{balancer.address}:{balancer.port}/", group = group)

service = component_resource(_service)
"#;

const HELLO: &str = r#"
load("//stacks/components/service.star", "service")

Config = settings(name = "hello", fields = {
    "instances": setting(int, default = 3, ge = 1, doc = "How many"),
    "db_password": setting(secret, doc = "Of the database"),
    "image": setting(str, default = "web", doc = "What runs"),
    "total": setting(int, computed = lambda s: s.instances * 2, doc = "With the old ones"),
})

def stack(c, ctx):
    network = ctx.stack("infrastructure.local.network." + ctx.environment)
    web = service("web", image = ctx.image(c.image), network = network.network_id, size = c.instances,
        env = {"PASSWORD": c.db_password, "STACK": ctx.name, "TOTAL": str(c.total)})
    local.volume("data", size = "1GiB", protect = True, depends_on = "web/group", ignore_changes = ["size"])
    output("url", web.url)
    output("first", web.group.members[0].ip)

project(config = Config, stack = stack)
"#;

const QA: &str = "db_password = { secure = \"v1:abc\" }\n";

fn hello() -> common::Made {
    stacks(&[
        ("images/web/image.star", "image(name = \"web\", base = debian(\"bookworm\"), components = [])\n"),
        ("stacks/infrastructure/local/network/stack.star", NETWORK),
        ("stacks/infrastructure/local/network/QA.toml", ""),
        ("stacks/components/service.star", SERVICE),
        ("stacks/applications/hello/stack.star", HELLO),
        ("stacks/applications/hello/QA.toml", QA),
        ("stacks/applications/hello/Production.toml", &format!("instances = 5\n{QA}")),
    ])
}

/// Inputs as a deploy has them: a state with the network, a registry with the image.
fn online() -> StackInputs {
    let outputs = BTreeMap::from([("network_id".to_owned(), json!("network-1"))]);
    let image = PinnedImage { digest: Digest::of(b"web"), channel: Some("QA".into()) };
    StackInputs {
        outputs: Arc::new(move |_| Ok(OtherStack::Deployed(outputs.clone()))),
        images: Arc::new(move |wanted| {
            Ok(Some(match wanted.pinned {
                Some(digest) => PinnedImage { digest, channel: None },
                None => PinnedImage { channel: Some(wanted.channel.clone()), ..image.clone() },
            }))
        }),
        ..offline()
    }
}

#[test]
fn a_stack_becomes_a_declaration() {
    let made = hello();
    let evaluated = evaluate(&made, "applications.hello.QA", &online());
    assert_snapshot!(readable(&serde_json::to_string_pretty(&evaluated.declaration).unwrap()));
    assert_eq!(evaluated.config["total"].value, json!(6));
    let id = SecretId("config.db_password".into());
    assert_eq!(evaluated.sealed[&id], "v1:abc");
    assert_eq!(evaluated.declaration.secrets[&id], Digest::of(b"v1:abc"));
}

#[test]
fn a_workspace_knows_its_projects_and_their_order() {
    let made = hello();
    let workspace = &made.workspace;
    assert_eq!(workspace.projects(), ["applications.hello", "infrastructure.local.network"]);
    let stacks: Vec<String> = workspace.stacks().iter().map(ToString::to_string).collect();
    assert_eq!(
        stacks,
        ["applications.hello.Production", "applications.hello.QA", "infrastructure.local.network.QA"]
    );
    let folder = workspace.root().join("stacks/applications/hello/files");
    assert_eq!(workspace.project_at(&folder).as_deref(), Some("applications.hello"));
    assert_eq!(workspace.project_at("stacks/applications".into()), None);
}

#[test]
fn images_follow_the_configuration() {
    let recipe = "def stack(c, ctx):\n    output(\"all\", [ctx.image(name) for name in [\"web\", \"web/large\", \"db\", \"web\"]])\n\nproject(stack = stack)\n";
    let pin = Digest::of(b"pinned");
    let toml = format!("[images]\n\"web/large\" = \"{pin}\"\n[channels]\ndb = \"CI\"\n");
    let made = stacks(&[("stacks/a/stack.star", recipe), ("stacks/a/QA.toml", &toml)]);
    let evaluated = evaluate(&made, "a.QA", &online());
    let images: Vec<String> = evaluated
        .declaration
        .images
        .iter()
        .map(|(image, pinned)| format!("{image} {:?} {}", pinned.channel, pinned.digest == pin))
        .collect();
    assert_eq!(images, ["db Some(\"CI\") false", "web Some(\"QA\") false", "web/large None true"]);
    assert_eq!(evaluated.declaration.outputs["all"][1]["variant"], "large");
    assert_eq!(evaluated.declaration.outputs["all"][1]["digest"], pin.to_string());
    assert_eq!(evaluate(&made, "a.QA", &online()), evaluated);
}

#[test]
fn check_evaluates_every_stack_without_a_state() {
    let made = hello();
    assert_snapshot!(draw(&made.workspace, &made.workspace.check(&inputs())));
}

#[test]
fn bad_values_for_a_resource_come_together() {
    let made = body(
        "network = local.network(\"network\", cidrr = \"10.0.0.0/8\", protekt = True)\n\
         local.balancer(\"lb\", network = network, port = 70000)\n\
         local.balancer(\"lb\", network = network.network_id, ignore_changes = [\"prot\"])\n\
         local.volume(\"9\", size = 1)\n",
    );
    assert_snapshot!(wrong(&made, "a.QA", &offline()));
}

#[test]
fn ten_thousand_resources_in_a_loop() {
    let made = body(
        "network = local.network(\"network\", cidr = \"10.0.0.0/8\")\n\
         before = network\n\
         for i in range(9999):\n    \
             before = local.balancer(f\"lb-{i}\", network = network.network_id, port = 1 + i, depends_on = [before])\n\
         output(\"address\", before.address)",
    );
    let declaration = evaluate(&made, "a.QA", &offline()).declaration;
    assert_eq!(declaration.resources.len(), 10_000);
    assert_eq!(declaration.resources[9999].dependencies().len(), 2);
}
