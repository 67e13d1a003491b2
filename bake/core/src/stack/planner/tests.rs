use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::rollout::{Existing, InstanceId, Release, Time};
use crate::settings::Type;
use crate::stack::catalog::Change;
use crate::stack::record::{GroupState, Record};

fn catalog() -> Catalog {
    Catalog::default()
        .with(
            "local.network",
            TypeSchema::object("a network")
                .takes("cidr", Type::Str, Change::Replace, "")
                .takes_or("note", Type::Str.or_none(), Value::Null, Change::InPlace, "")
                .gives("network_id", Type::Str, ""),
        )
        .with(
            "local.volume",
            TypeSchema::object("a volume")
                .delete_first()
                .holding_data()
                .takes("network", Type::Str, Change::Replace, "")
                .gives("volume_id", Type::Str, ""),
        )
        .with(
            "local.group",
            TypeSchema::group("a group")
                .takes("network", Type::Str, Change::Replace, "")
                .takes("image", Type::Str, Change::Rollout, "")
                .takes_or("size", Type::Int, json!(1), Change::InPlace, ""),
        )
}

pub(super) fn declared(name: &str, ty: &str, inputs: Value) -> Declared {
    Declared::new(name.parse().unwrap(), ty.parse().unwrap(), inputs.as_object().unwrap().clone())
}

pub(super) fn output(resource: &str, name: &str) -> String {
    value::Reference { resource: resource.parse().unwrap(), output: name.to_owned() }.marker()
}

/// A network, a volume on it, a group on it.
pub(super) fn three(cidr: &str, image: &str) -> Declaration {
    Declaration {
        resources: vec![
            declared(
                "web",
                "local.group",
                json!({"network": output("net", "network_id"), "image": image, "size": 2}),
            ),
            declared("data", "local.volume", json!({"network": output("net", "network_id")})),
            declared("net", "local.network", json!({"cidr": cidr, "note": null})),
        ],
        outputs: BTreeMap::from([("id".to_owned(), Value::String(output("net", "network_id")))]),
        ..Declaration::new("applications.hello.QA".parse().unwrap())
    }
}

pub(super) fn planned(
    declaration: &Declaration,
    applied: &StackState,
    wishes: &Wishes,
) -> Result<StackPlan, Diagnostics> {
    planned_over(declaration, applied, &Inventory::new(), wishes)
}

pub(super) fn planned_over(
    declaration: &Declaration,
    applied: &StackState,
    inventory: &Inventory,
    wishes: &Wishes,
) -> Result<StackPlan, Diagnostics> {
    let base = applied.digest();
    plan(&Facts { declaration, applied, base, inventory, catalog: &catalog(), wishes })
}

/// Carries a plan out as an executor would, on objects that give their id as every output.
fn carry_out(plan: &StackPlan, state: &StackState) -> StackState {
    let mut state = state.clone();
    let catalog = catalog();
    for action in &plan.actions {
        let given: BTreeMap<ResourceName, Map<String, Value>> =
            state.resources.iter().map(|(name, applied)| (name.clone(), applied.outputs.clone())).collect();
        let known = |reference: &value::Reference| reference.in_map(given.get(&reference.resource)?);
        let inputs: Map<String, Value> =
            action.inputs.iter().map(|(name, input)| (name.clone(), value::resolve(input, &known))).collect();
        assert!(!inputs.values().any(value::has_references), "{} was done too early", action.key);
        if let Some(intent) = action.intent(inputs.clone()) {
            let outputs = catalog.get(&action.ty).unwrap().outputs.keys();
            let outputs = outputs.map(|name| ((*name).to_owned(), json!(action.id))).collect();
            state.apply(&Record::Intent(Box::new(intent))).unwrap();
            state.apply(&Record::Done { key: action.key.clone(), outputs, seen: true }).unwrap();
        }
        let name = action.name.clone();
        match action.act {
            Act::Forget => state.apply(&Record::Forgotten { id: action.id.clone() }).unwrap(),
            Act::Mark => state
                .apply(&Record::Marked {
                    name,
                    protect: action.protect,
                    retain: action.retain,
                    dependencies: action.dependencies.clone(),
                })
                .unwrap(),
            Act::Roll => {
                let release = release(catalog.get(&action.ty).unwrap(), &inputs, &action.secrets);
                let size = inputs["size"].as_u64().unwrap();
                let instances = (0..size).map(instance).collect();
                let group = GroupState { release, instances, ..GroupState::default() };
                state.apply(&Record::RolledOut { name, group }).unwrap();
            }
            _ => {}
        }
    }
    assert_eq!(state.lint(), Vec::<String>::new());
    state
}

fn instance(number: u64) -> Existing {
    let digest = Digest::of(b"any");
    Existing {
        id: InstanceId(number.to_string()),
        release: Release { image: digest, inputs: digest },
        since: Time(0),
        slot: None,
    }
}

fn keys(plan: &StackPlan) -> Vec<String> {
    plan.actions.iter().map(|action| format!("{} {}", action.act.verb(), action.name)).collect()
}

#[test]
fn everything_is_made_in_order_and_then_there_is_nothing_to_do() {
    let declaration = three("10.0.0.0/24", "one");
    let first = planned(&declaration, &StackState::default(), &Wishes::default()).unwrap();
    assert_eq!(keys(&first), ["create net", "create data", "create web", "roll web"]);
    assert_eq!(first.outputs["id"], json!(output("net", "network_id")), "it is known after apply");
    let state = carry_out(&first, &StackState::default());
    let second = planned(&declaration, &state, &Wishes::default()).unwrap();
    assert!(second.is_empty(), "{:#?}", second.actions);
    assert_eq!(second.unchanged, 3);
    assert_eq!(second.outputs["id"], json!(state.resources[&"net".parse().unwrap()].id));
}

pub(super) fn applied(declaration: &Declaration) -> StackState {
    let plan = planned(declaration, &StackState::default(), &Wishes::default()).unwrap();
    carry_out(&plan, &StackState::default())
}

#[test]
fn another_image_is_a_rollout_only() {
    let state = applied(&three("10.0.0.0/24", "one"));
    let plan = planned(&three("10.0.0.0/24", "two"), &state, &Wishes::default()).unwrap();
    assert_eq!(keys(&plan), ["update web", "roll web"]);
    assert_eq!(plan.actions[0].changes[0].path, "image");
    assert!(matches!(plan.actions[1].reasons[..], [Reason::Release { from: Some(_), to: Some(_) }]));
}

#[test]
fn a_replacement_takes_along_what_cannot_follow() {
    let state = applied(&three("10.0.0.0/24", "one"));
    let changed = three("10.1.0.0/24", "one");
    let plan = planned(&changed, &state, &Wishes::default()).unwrap();
    assert_eq!(
        keys(&plan),
        ["create net", "create web", "delete data", "create data", "roll web", "delete web", "delete net"]
    );
    let after = carry_out(&plan, &state);
    assert!(after.deposed.is_empty());
    assert!(planned(&changed, &after, &Wishes::default()).unwrap().is_empty());
    assert_eq!(plan.risk(), super::super::plan::Risk::DataLoss);
}

#[test]
fn protected_resources_stand() {
    let mut declaration = three("10.0.0.0/24", "one");
    declaration.resources[1].protect = true;
    let state = applied(&declaration);
    let mut changed = three("10.1.0.0/24", "one");
    changed.resources[1].protect = true;
    let problems = planned(&changed, &state, &Wishes::default()).unwrap_err();
    assert_eq!(problems.0[0].code, "protected");
    let destroy = Wishes { destroy: true, ..Wishes::default() };
    assert_eq!(planned(&declaration, &state, &destroy).unwrap_err().0[0].code, "protected");
    // Taking the protection away is a change that no provider hears of.
    declaration.resources[1].protect = false;
    let plan = planned(&declaration, &state, &Wishes::default()).unwrap();
    assert_eq!(keys(&plan), ["mark data"]);
    assert!(planned(&declaration, &carry_out(&plan, &state), &destroy).is_ok());
}

#[test]
fn a_destroy_goes_backwards() {
    let declaration = three("10.0.0.0/24", "one");
    let state = applied(&declaration);
    let destroy = Wishes { destroy: true, ..Wishes::default() };
    let plan = planned(&declaration, &state, &destroy).unwrap();
    assert_eq!(keys(&plan), ["delete data", "delete web", "delete net"]);
    assert!(carry_out(&plan, &state).is_empty());
}

#[test]
fn targets_bring_what_they_need() {
    let declaration = three("10.0.0.0/24", "one");
    let wishes = Wishes { targets: BTreeSet::from(["data".parse().unwrap()]), ..Wishes::default() };
    let plan = planned(&declaration, &StackState::default(), &wishes).unwrap();
    assert_eq!(keys(&plan), ["create net", "create data"]);
    let unknown = Wishes { targets: BTreeSet::from(["dta".parse().unwrap()]), ..Wishes::default() };
    let problem = &planned(&declaration, &StackState::default(), &unknown).unwrap_err().0[0];
    assert_eq!(
        (problem.code.as_str(), problem.help.as_deref()),
        ("unknown-resource", Some("did you mean `data`?"))
    );
}

#[test]
fn drift_and_loss_are_mended() {
    let declaration = three("10.0.0.0/24", "one");
    let state = applied(&declaration);
    let id = |name: &str| state.resources[&name.parse::<ResourceName>().unwrap()].id.clone();
    let inventory = Inventory::from([
        (
            id("net"),
            Sight::There(json!({"cidr": "10.0.0.0/24", "note": "by hand"}).as_object().unwrap().clone()),
        ),
        (id("web"), Sight::Group { properties: Map::new(), running: 1 }),
        (id("data"), Sight::Gone),
    ]);
    let plan = planned_over(&declaration, &state, &inventory, &Wishes::default()).unwrap();
    assert_eq!(keys(&plan), ["update net", "create data", "forget data", "roll web"]);
    assert!(
        matches!(&plan.actions[0].reasons[..], [Reason::Drifted { changes }] if changes[0].path == "note")
    );
    assert_eq!(plan.actions[3].reasons, [Reason::Instances { running: 1, size: 2 }]);
    let after = carry_out(&plan, &state);
    assert!(planned(&declaration, &after, &Wishes::default()).unwrap().is_empty());
}

/// A host was switched off: what stands on the network stays what it is.
#[test]
fn what_does_not_run_is_updated_where_it_stands() {
    let declaration = three("10.0.0.0/24", "one");
    let state = applied(&declaration);
    let id = state.resources[&"net".parse::<ResourceName>().unwrap()].id.clone();
    let seen = json!({"cidr": "10.0.0.0/24"}).as_object().unwrap().clone();
    let inventory = Inventory::from([(id, Sight::Stopped(seen))]);
    let plan = planned_over(&declaration, &state, &inventory, &Wishes::default()).unwrap();
    assert_eq!(keys(&plan), ["update net"]);
    assert_eq!(plan.actions[0].reasons, [Reason::Stopped]);
}

#[test]
fn what_was_cut_short_is_finished() {
    let declaration = three("10.0.0.0/24", "one");
    let mut state = applied(&declaration);
    let changed = three("10.0.0.0/24", "two");
    let plan = planned(&changed, &state, &Wishes::default()).unwrap();
    let update = &plan.actions[0];
    let intent = update.intent(update.inputs.clone()).unwrap();
    state.apply(&Record::Intent(Box::new(intent))).unwrap();
    state.apply(&Record::NotDone { key: update.key.clone() }).unwrap();
    let again = planned(&declaration, &state, &Wishes::default()).unwrap();
    assert_eq!(again.actions[0].reasons, [Reason::Interrupted], "what stands there may be either");
}

#[test]
fn a_secret_that_changed_is_a_change() {
    let id = SecretId("config.note".into());
    let with = |digest: Digest| {
        let mut declaration = three("10.0.0.0/24", "one");
        declaration.resources[2].inputs.insert("note".into(), Value::String(id.marker()));
        declaration.secrets.insert(id.clone(), digest);
        declaration
    };
    let state = applied(&with(Digest::of(b"one")));
    assert!(planned(&with(Digest::of(b"one")), &state, &Wishes::default()).unwrap().is_empty());
    let plan = planned(&with(Digest::of(b"two")), &state, &Wishes::default()).unwrap();
    assert_eq!(keys(&plan), ["update net"]);
}

#[test]
fn of_secrets_only_a_difference_is_seen() {
    let id = SecretId("config.note".into());
    let mut declaration = three("10.0.0.0/24", "one");
    declaration.resources[2].inputs.insert("note".into(), Value::String(id.marker()));
    declaration.secrets.insert(id, Digest::of(b"one"));
    let state = applied(&declaration);
    let net = state.resources[&"net".parse::<ResourceName>().unwrap()].id.clone();
    let seen = |note: Value| {
        let sight = Sight::There(Map::from_iter([("note".to_owned(), note)]));
        planned_over(&declaration, &state, &Inventory::from([(net.clone(), sight)]), &Wishes::default())
            .unwrap()
    };
    assert!(seen(json!("what a provider tells by mistake")).is_empty());
    assert_eq!(keys(&seen(Value::Null)), ["update net"]);
}

#[test]
fn mistakes_are_named_together() {
    let mut declaration = three("10.0.0.0/24", "one");
    declaration.resources[0].depends_on.insert("dat".parse().unwrap());
    declaration.resources[1].inputs.insert("network".into(), Value::String(output("nett", "network_id")));
    let problems = planned(&declaration, &StackState::default(), &Wishes::default()).unwrap_err();
    assert_eq!(problems.0.len(), 2);
    let mut cyclic = three("10.0.0.0/24", "one");
    cyclic.resources[2].depends_on.insert("data".parse().unwrap());
    let problems = planned(&cyclic, &StackState::default(), &Wishes::default()).unwrap_err();
    assert_eq!(problems.0[0].message, "resources depend on themselves: `data` → `net` → `data`");
}

#[test]
fn an_id_is_not_given_again_while_its_object_is_to_be_removed() {
    let declaration = three("10.0.0.0/24", "one");
    let mut state = applied(&declaration);
    let name: ResourceName = "net".parse().unwrap();
    let was = state.resources.remove(&name).unwrap();
    let old = was.id.clone();
    state.deposed.insert(old.clone(), super::super::state::Deposed { name: name.clone(), was });
    let plan = planned(&declaration, &state, &Wishes::default()).unwrap();
    let made = plan.actions.iter().find(|action| action.act == Act::Create && action.name == name).unwrap();
    assert_eq!(made.generation, 2);
    assert_ne!(made.id, old);
    assert!(planned(&declaration, &carry_out(&plan, &state), &Wishes::default()).unwrap().is_empty());
}

#[test]
fn what_is_gone_is_let_go_of_when_its_successor_is_known() {
    let declaration = three("10.0.0.0/24", "one");
    let state = applied(&declaration);
    let id = state.resources[&"data".parse::<ResourceName>().unwrap()].id.clone();
    let plan = planned_over(&declaration, &state, &Inventory::from([(id, Sight::Gone)]), &Wishes::default())
        .unwrap();
    assert_eq!(keys(&plan), ["create data", "forget data"]);
}

/// Stacks of networks and volumes that depend on those before them.
fn any_declaration() -> impl Strategy<Value = Declaration> {
    let resource = (0_usize..3, 0_u8..3, any::<bool>(), proptest::collection::btree_set(0_usize..8, 0..3));
    proptest::collection::vec(proptest::option::of(resource), 8).prop_map(|slots| {
        let present: Vec<usize> = (0..8).filter(|slot| slots[*slot].is_some()).collect();
        let resources = slots.iter().enumerate().filter_map(|(slot, resource)| {
            let (kind, value, note, needs) = resource.as_ref()?;
            let before: Vec<&usize> = needs.iter().filter(|n| **n < slot && present.contains(n)).collect();
            let given = |n: &usize| {
                let (kind, ..) = slots[*n].as_ref()?;
                let name = ["network_id", "volume_id", ""][*kind];
                (!name.is_empty()).then(|| output(&format!("r{n}"), name))
            };
            let text = before.iter().filter_map(|n| given(n)).collect::<String>() + &value.to_string();
            let mut made = match kind {
                0 => declared(
                    &format!("r{slot}"),
                    "local.network",
                    json!({"cidr": text, "note": note.then_some("n")}),
                ),
                1 => declared(&format!("r{slot}"), "local.volume", json!({"network": text})),
                _ => declared(
                    &format!("r{slot}"),
                    "local.group",
                    json!({"network": text, "image": "i", "size": value}),
                ),
            };
            made.depends_on = before.iter().map(|n| format!("r{n}").parse().unwrap()).collect();
            Some(made)
        });
        Declaration {
            resources: resources.collect(),
            ..Declaration::new("applications.hello.QA".parse().unwrap())
        }
    })
}

proptest! {
    #[test]
    fn a_plan_that_was_carried_out_leaves_nothing_to_do(before in any_declaration(), after in any_declaration()) {
        let first = applied(&before);
        let plan = planned(&after, &first, &Wishes::default()).unwrap();
        let second = carry_out(&plan, &first);
        prop_assert!(second.deposed.is_empty());
        prop_assert_eq!(second.resources.len(), after.resources.len());
        let nothing = planned(&after, &second, &Wishes::default()).unwrap();
        prop_assert!(nothing.is_empty(), "{:#?}", nothing.actions);
    }

    #[test]
    fn the_order_of_declaration_means_nothing(before in any_declaration(), mut after in any_declaration()) {
        let state = applied(&before);
        let forwards = planned(&after, &state, &Wishes::default()).unwrap();
        after.resources.reverse();
        prop_assert_eq!(forwards, planned(&after, &state, &Wishes::default()).unwrap());
    }

    #[test]
    fn actions_wait_for_each_other_without_a_cycle(before in any_declaration(), after in any_declaration()) {
        let plan = planned(&after, &applied(&before), &Wishes::default()).unwrap();
        let mut seen = BTreeSet::new();
        for action in &plan.actions {
            let known = plan.actions.iter().map(|action| &action.key);
            let waits: BTreeSet<&OperationKey> = known.filter(|key| action.after.contains(*key)).collect();
            prop_assert!(waits.iter().all(|key| seen.contains(*key)), "{} comes too early", action.key);
            seen.insert(&action.key);
        }
    }
}

#[test]
fn outputs_that_an_update_changes_are_known_after_it() {
    let catalog = catalog().with(
        "local.template",
        TypeSchema::object("a template")
            .takes("content", Type::Str, Change::InPlace, "")
            .gives("id", Type::Str, "")
            .gives_anew("version", Type::Int, ""),
    );
    let declaration = |content: &str| {
        let image = format!("{}:{}", output("template", "id"), output("template", "version"));
        Declaration {
            resources: vec![
                declared("template", "local.template", json!({"content": content})),
                declared("web", "local.group", json!({"network": "n", "image": image, "size": 0})),
            ],
            ..Declaration::new("applications.hello.QA".parse().unwrap())
        }
    };
    let first = declaration("one");
    let mut applied = StackState::default();
    for (name, inputs, outputs) in [
        ("template", json!({"content": "one"}), json!({"id": "t", "version": 1})),
        ("web", json!({"network": "n", "image": "t:1", "size": 0}), json!({})),
    ] {
        let resource = first.resources.iter().find(|resource| resource.name.as_str() == name).unwrap();
        let id = ObjectId::of(&first.stack, &resource.name, 1);
        let key = key(&Act::Create, &resource.name, &id);
        let dependencies = resource.dependencies();
        let action = Action { key, dependencies, ..made(name, resource.ty.clone(), id) };
        let intent = action.intent(inputs.as_object().unwrap().clone()).unwrap();
        applied.apply(&Record::Intent(Box::new(intent))).unwrap();
        let outputs = outputs.as_object().unwrap().clone();
        applied.apply(&Record::Done { key: action.key, outputs, seen: true }).unwrap();
    }
    let plan = |declaration: &Declaration| {
        let facts = Facts {
            declaration,
            applied: &applied,
            base: applied.digest(),
            inventory: &Inventory::new(),
            catalog: &catalog,
            wishes: &Wishes::default(),
        };
        let plan = super::plan(&facts).unwrap();
        plan.actions.iter().map(|action| format!("{} {}", action.act.verb(), action.name)).collect::<Vec<_>>()
    };
    assert_eq!(plan(&first), ["roll web"], "the first rollout is still to come");
    assert_eq!(plan(&declaration("two")), ["update template", "update web", "roll web"]);
}

/// A name that is changed where it stands reaches what uses it in the same change; what stays is known.
#[test]
fn outputs_that_repeat_a_property_follow_it() {
    let catalog = catalog().with(
        "local.record",
        TypeSchema::object("a name")
            .takes("name", Type::Str, Change::InPlace, "")
            .takes("owner", Type::Str, Change::InPlace, "")
            .gives("name", Type::Str, ""),
    );
    let declaration = |name: &str, owner: &str| Declaration {
        resources: vec![
            declared("record", "local.record", json!({"name": name, "owner": owner})),
            declared(
                "net",
                "local.network",
                json!({"cidr": "10.0.0.0/24", "note": output("record", "name")}),
            ),
        ],
        ..Declaration::new("applications.hello.QA".parse().unwrap())
    };
    let first = declaration("one", "me");
    let mut applied = StackState::default();
    for (name, inputs, outputs) in [
        ("record", json!({"name": "one", "owner": "me"}), json!({"name": "one"})),
        ("net", json!({"cidr": "10.0.0.0/24", "note": "one"}), json!({"network_id": "n"})),
    ] {
        let resource = first.resources.iter().find(|resource| resource.name.as_str() == name).unwrap();
        let id = ObjectId::of(&first.stack, &resource.name, 1);
        let key = key(&Act::Create, &resource.name, &id);
        let action =
            Action { key, dependencies: resource.dependencies(), ..made(name, resource.ty.clone(), id) };
        let intent = action.intent(inputs.as_object().unwrap().clone()).unwrap();
        applied.apply(&Record::Intent(Box::new(intent))).unwrap();
        let outputs = outputs.as_object().unwrap().clone();
        applied.apply(&Record::Done { key: action.key, outputs, seen: true }).unwrap();
    }
    let plan = |declaration: &Declaration| {
        let facts = Facts {
            declaration,
            applied: &applied,
            base: applied.digest(),
            inventory: &Inventory::new(),
            catalog: &catalog,
            wishes: &Wishes::default(),
        };
        let plan = super::plan(&facts).unwrap();
        plan.actions.iter().map(|action| format!("{} {}", action.act.verb(), action.name)).collect::<Vec<_>>()
    };
    assert!(plan(&first).is_empty());
    assert_eq!(plan(&declaration("one", "you")), ["update record"]);
    assert_eq!(plan(&declaration("two", "me")), ["update record", "update net"]);
}

fn made(name: &str, ty: ResourceType, id: ObjectId) -> Action {
    Action {
        key: OperationKey(String::new()),
        act: Act::Create,
        name: name.parse().unwrap(),
        ty,
        id,
        generation: 1,
        inputs: Map::new(),
        secrets: BTreeMap::new(),
        changes: Vec::new(),
        reasons: Vec::new(),
        after: BTreeSet::new(),
        dependencies: BTreeSet::new(),
        protect: false,
        retain: false,
        holds_data: false,
    }
}

#[test]
fn sets_are_compared_without_order_once_what_is_in_them_is_known() {
    let catalog = Catalog::default().with(
        "local.table",
        TypeSchema::object("a table")
            .takes_or("members", Type::Set(Box::new(Type::Str)), json!([]), Change::InPlace, "")
            .gives("id", Type::Str, ""),
    );
    let mut declaration = Declaration::new("applications.hello.QA".parse().unwrap());
    let members = json!({"members": [output("a", "id"), output("b", "id")]});
    declaration.resources = vec![
        declared("a", "local.table", json!({"members": []})),
        declared("b", "local.table", json!({"members": []})),
        declared("c", "local.table", members),
    ];
    let mut applied = StackState::default();
    for (name, inputs, id) in [
        ("a", json!({"members": []}), "z"),
        ("b", json!({"members": []}), "y"),
        ("c", json!({"members": ["y", "z"]}), "x"),
    ] {
        let object = ObjectId::of(&declaration.stack, &name.parse().unwrap(), 1);
        let ty: ResourceType = "local.table".parse().unwrap();
        let mut action = made(name, ty, object);
        action.key = key(&Act::Create, &action.name, &action.id);
        let resource = declaration.resources.iter().find(|resource| resource.name.as_str() == name).unwrap();
        action.dependencies = resource.dependencies();
        let intent = action.intent(inputs.as_object().unwrap().clone()).unwrap();
        applied.apply(&Record::Intent(Box::new(intent))).unwrap();
        let outputs = json!({"id": id}).as_object().unwrap().clone();
        applied.apply(&Record::Done { key: action.key, outputs, seen: true }).unwrap();
    }
    let facts = Facts {
        declaration: &declaration,
        applied: &applied,
        base: applied.digest(),
        inventory: &Inventory::new(),
        catalog: &catalog,
        wishes: &Wishes::default(),
    };
    assert!(super::plan(&facts).unwrap().is_empty());
}
