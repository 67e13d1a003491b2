//! Whole plans, as they are written into a plan file, held against what they were: a change of the form or of a
//! decision is seen by whoever makes it.

use serde_json::json;

use super::tests::{applied, declared, output, planned, planned_over, three};
use super::*;

const CIDR: &str = "10.0.0.0/24";

/// The plan without what says nothing to a reader: the digest of the state that it starts from.
fn text(plan: Result<StackPlan, Diagnostics>) -> String {
    let mut plan = serde_json::to_value(plan.unwrap()).unwrap();
    plan.as_object_mut().unwrap().remove("base");
    serde_json::to_string_pretty(&plan).unwrap()
}

fn nothing() -> StackState {
    StackState::default()
}

#[test]
fn everything_new_and_one_taken_in() {
    let mut declaration = three(CIDR, "one");
    let net = declaration.resources.iter_mut().find(|declared| declared.name.as_str() == "net").unwrap();
    net.import = Some("vpc-1".to_owned());
    insta::assert_snapshot!(text(planned(&declaration, &nothing(), &Wishes::default())));
}

#[test]
fn a_rollout_beside_an_update_a_removal_and_a_new_one() {
    let before = three(CIDR, "one");
    let mut after = three(CIDR, "two");
    after.resources.retain(|declared| declared.name.as_str() != "data");
    after.resources.push(declared("cache", "local.volume", json!({"network": output("net", "network_id")})));
    for declared in &mut after.resources {
        if declared.name.as_str() == "net" {
            declared.inputs.insert("note".to_owned(), json!("changed"));
            declared.protect = true;
        }
    }
    insta::assert_snapshot!(text(planned(&after, &applied(&before), &Wishes::default())));
}

#[test]
fn a_replacement_with_all_that_stands_on_it() {
    let (before, after) = (three(CIDR, "one"), three("10.1.0.0/24", "one"));
    insta::assert_snapshot!(text(planned(&after, &applied(&before), &Wishes::default())));
}

#[test]
fn what_drifted_and_what_is_gone() {
    let declaration = three(CIDR, "one");
    let state = applied(&declaration);
    let id = |name: &str| state.resources[&name.parse::<ResourceName>().unwrap()].id.clone();
    let seen = json!({"cidr": CIDR, "note": "by hand"}).as_object().unwrap().clone();
    let inventory = Inventory::from([(id("net"), Sight::There(seen)), (id("data"), Sight::Gone)]);
    insta::assert_snapshot!(text(planned_over(&declaration, &state, &inventory, &Wishes::default())));
}

#[test]
fn the_end_of_a_stack_that_retains_its_data() {
    let mut declaration = three(CIDR, "one");
    let data = declaration.resources.iter_mut().find(|declared| declared.name.as_str() == "data").unwrap();
    data.retain = true;
    let wishes = Wishes { destroy: true, ..Wishes::default() };
    insta::assert_snapshot!(text(planned(&declaration, &applied(&declaration), &wishes)));
}
