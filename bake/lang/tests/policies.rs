//! Policies over plans.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod common;

use common::draw;
use common::stacks::{evaluate, offline, stacks};
use insta::assert_snapshot;
use olbake_core::Digest;
use olbake_core::diagnostic::Diagnostics;
use olbake_core::stack::plan::{Act, Action, Reason, STACK_PLAN_SCHEMA};
use olbake_core::stack::{Declaration, ObjectId, StackPlan};
use olbake_lang::Violation;

const RECIPE: &str = r#"
def stack(c, ctx):
    network = local.network("network", cidr = "10.0.0.0/8")
    local.balancer("lb", network = network.network_id, port = 80)
    local.volume("data", size = "2TiB")

project(stack = stack)
"#;

const POLICIES: &str = r#"
def _no_public_port(plan):
    for one in plan.resources:
        if plan.environment == "Production" and one.type == "local.balancer" and one.inputs["port"] == 80:
            deny(f"port 80 in {plan.stack}, network {one.inputs['network']}", resource = one)

def _size(plan):
    for action in plan.actions:
        if action.inputs.get("size", 0) > 1 << 40:
            warn("more than a terabyte", resource = action.name)
    if len(plan.actions) > 2:
        deny("too much at once: " + ", ".join([action.do for action in plan.actions]))

policy(name = "no-public-port", check = _no_public_port, doc = "Production has TLS")
policy(name = "size", check = _size)
"#;

/// A plan that makes everything.
fn plan(declaration: &Declaration) -> StackPlan {
    let actions = declaration.resources.iter().enumerate().map(|(number, one)| Action {
        key: serde_json::from_value(serde_json::json!(format!("{}@1:create", number))).unwrap(),
        act: Act::Create,
        name: one.name.clone(),
        ty: one.ty.clone(),
        id: ObjectId::of(&declaration.stack, &one.name, 1),
        generation: 1,
        inputs: one.inputs.clone(),
        secrets: Default::default(),
        changes: Vec::new(),
        reasons: vec![Reason::New],
        after: Default::default(),
        dependencies: Default::default(),
        protect: false,
        retain: false,
        holds_data: false,
    });
    StackPlan {
        schema: STACK_PLAN_SCHEMA,
        stack: declaration.stack.clone(),
        base: Digest::of(b""),
        images: Default::default(),
        actions: actions.collect(),
        unchanged: 0,
        outputs: Default::default(),
        references: Default::default(),
    }
}

fn judged(policies: &str, stack: &str) -> (common::Made, Result<Vec<Violation>, Diagnostics>) {
    let made = stacks(&[
        ("stacks/a/stack.star", RECIPE),
        ("stacks/a/QA.toml", ""),
        ("stacks/a/Production.toml", ""),
        ("policies/ours.star", policies),
    ]);
    let declaration = evaluate(&made, stack, &offline()).declaration;
    let found = made.workspace.judge(&plan(&declaration), &declaration);
    (made, found)
}

#[test]
fn violations_point_at_the_resource_and_the_policy() {
    let (made, found) = judged(POLICIES, "a.Production");
    let all = found.unwrap().iter().map(Violation::diagnostic).collect();
    assert_snapshot!(draw(&made.workspace, &Diagnostics(all)));
}

#[test]
fn another_environment_may_break_fewer() {
    let (_, found) = judged(POLICIES, "a.QA");
    let policies: Vec<String> = found.unwrap().into_iter().map(|one| one.policy).collect();
    assert_eq!(policies, ["size", "size"]);
}

#[test]
fn a_policy_that_fails_is_no_violation() {
    let text = "policy(name = \"a\", check = lambda plan: plan.resource)\n\
                policy(name = \"b\", check = lambda plan: deny(\"x\", resource = \"none\"))\n";
    let (made, found) = judged(text, "a.QA");
    assert_snapshot!(draw(&made.workspace, &found.unwrap_err()));
}

#[test]
fn a_workspace_without_policies_allows_everything() {
    let made = stacks(&[("stacks/a/stack.star", RECIPE), ("stacks/a/QA.toml", "")]);
    let declaration = evaluate(&made, "a.QA", &offline()).declaration;
    assert_eq!(made.workspace.judge(&plan(&declaration), &declaration), Ok(Vec::new()));
}
