//! Plans made by hand, changed in one place, and the reasons told.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::operation::{Action, Check, Content, Operation, Ownership};
use crate::plan::{Checks, Provenance, Setting};
use crate::secret::{Secret, SecretId};

fn name(text: &str) -> ComponentName {
    text.parse().unwrap()
}

fn operations(component: &str, phase: Phase, actions: Vec<(&str, Action)>) -> Vec<Operation> {
    let make = |(index, (title, action)): (usize, (&str, Action))| Operation {
        id: OperationId::new(&name(component), phase, index + 1),
        phase,
        title: title.to_owned(),
        spans: Vec::new(),
        action,
        when_changed: Vec::new(),
        after: Vec::new(),
    };
    actions.into_iter().enumerate().map(make).collect()
}

fn put(path: &str, content: &str, mode: u32) -> Action {
    Action::FilePut {
        path: path.into(),
        content: Content { digest: Digest::of(content.as_bytes()), secrets: Vec::new() },
        ownership: Ownership { mode: Some(mode), ..Ownership::default() },
        validate: None,
        only_if_absent: false,
    }
}

fn layer(component: &str, operations: Vec<Operation>) -> Layer {
    Layer {
        component: name(component),
        source: format!("components/{component}").into(),
        settings: BTreeMap::new(),
        operations,
        booted: None,
        key: Digest::of(b""),
    }
}

fn setting(value: Value) -> Setting {
    let provenance = vec![Provenance { layer: "image".into(), name: None, span: None, value: value.clone() }];
    Setting { value, provenance }
}

/// `hello` with two files and a check.
fn plan() -> Plan {
    let files = vec![("files.put /a", put("/a", "a", 0o644)), ("files.put /b", put("/b", "b", 0o644))];
    let mut hello = layer("hello", operations("hello", Phase::Configure, files));
    hello.settings.insert("workers".into(), setting(json!(1)));
    let port =
        Action::Check(Check::Port { port: 80, address: "127.0.0.1".into(), open: true, within_seconds: 1 });
    let checks = Checks {
        component: name("hello"),
        operations: operations("hello", Phase::Verify, vec![("check.port 80", port)]),
    };
    keyed(Plan {
        schema: PLAN_SCHEMA,
        image: "web".parse().unwrap(),
        architecture: Architecture::Amd64,
        base: Base::Debian { suite: "bookworm".into(), packages: vec![], mirror: None, disk_size: 1 << 30 },
        layers: vec![hello, layer("other", Vec::new())],
        seal: Vec::new(),
        checks: vec![checks],
        upgrade: Vec::new(),
        payloads: BTreeMap::new(),
        secrets: BTreeMap::new(),
        key: Digest::of(b""),
    })
}

fn keyed(mut plan: Plan) -> Plan {
    let mut parent = plan.base_key();
    for index in 0..plan.layers.len() {
        parent = key::layer(parent, plan.architecture, &plan.layers[index], |id| plan.secrets.get(id));
        plan.layers[index].key = parent;
    }
    plan.key = recomputed_key(&plan);
    plan
}

fn changed(change: impl FnOnce(&mut Plan)) -> Vec<Reason> {
    let old = plan();
    let mut new = old.clone();
    change(&mut new);
    why(Some(&old), &keyed(new))
}

/// The differences of the only reason, which is that `hello` changed.
fn differences(change: impl FnOnce(&mut Layer)) -> Vec<Difference> {
    let mut reasons = changed(|plan| change(&mut plan.layers[0]));
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    match reasons.remove(0) {
        Reason::ComponentChanged { component, old, new, differences } => {
            assert_eq!(component.as_str(), "hello");
            assert_ne!(old, new);
            differences
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_baked_and_nothing_changed() {
    assert_eq!(why(None, &plan()), [Reason::NeverBaked]);
    assert_eq!(changed(|_| ()), []);
}

#[test]
fn a_changed_file_is_told_with_the_setting_behind_it() {
    let found = differences(|layer| {
        layer.settings.insert("workers".into(), setting(json!(8)));
        layer.operations[1].action = put("/b", "B", 0o600);
    });
    let digest = |text: &str| json!(Digest::of(text.as_bytes()).to_string());
    assert_eq!(
        found,
        [
            Difference::SettingChanged {
                setting: "workers".into(),
                old: Some(json!(1)),
                new: Some(json!(8)),
                layer: Some("image".into()),
            },
            Difference::OperationChanged {
                id: OperationId::new(&name("hello"), Phase::Configure, 2),
                title: "files.put /b".into(),
                span: None,
                fields: vec![
                    FieldChange { field: "content".into(), old: digest("b"), new: digest("B") },
                    FieldChange { field: "mode".into(), old: json!(0o644), new: json!(0o600) },
                ],
            },
        ]
    );
}

#[test]
fn what_no_key_depends_on_is_no_reason() {
    let reasons = changed(|plan| {
        plan.layers[0].settings.insert("workers".into(), setting(json!(8)));
        plan.layers[0].operations[0].title = "files.template /a".into();
        plan.layers[0].source = "elsewhere".into();
    });
    assert_eq!(reasons, []);
}

#[test]
fn an_inserted_operation_is_one_difference() {
    let found = differences(|layer| {
        let files = vec![
            ("files.put /new", put("/new", "", 0o644)),
            ("files.put /a", put("/a", "a", 0o644)),
            ("files.put /b", put("/b", "b", 0o644)),
        ];
        layer.operations = operations("hello", Phase::Configure, files);
    });
    assert!(
        matches!(&found[..], [Difference::OperationAdded { id, title, .. }]
            if id.as_str() == "hello.configure.1" && title == "files.put /new"),
        "{found:?}"
    );
}

#[test]
fn a_reference_to_a_renumbered_operation_did_not_change() {
    let service = |on: &str| Action::Service {
        unit: "a.service".into(),
        enabled: Some(true),
        masked: None,
        running: None,
        restart_on: vec![serde_json::from_value(json!(on)).unwrap()],
        reload_on: Vec::new(),
    };
    let a = || ("files.put /a", put("/a", "a", 0o644));
    let b = || ("files.put /b", put("/b", "b", 0o644));
    let with = |actions| {
        let mut plan = plan();
        plan.layers[0].operations = operations("hello", Phase::Configure, actions);
        keyed(plan)
    };
    let old = with(vec![a(), b(), ("systemd.service a.service", service("hello.configure.2"))]);
    let new = with(vec![b(), ("systemd.service a.service", service("hello.configure.1"))]);
    let reasons = why(Some(&old), &new);
    let [Reason::ComponentChanged { differences, .. }] = &reasons[..] else { panic!("{reasons:?}") };
    assert!(
        matches!(&differences[..], [Difference::OperationRemoved { title, .. }] if title == "files.put /a"),
        "{differences:?}"
    );
}

#[test]
fn another_order_is_a_difference() {
    let found = differences(|layer| {
        let files = vec![("files.put /b", put("/b", "b", 0o644)), ("files.put /a", put("/a", "a", 0o644))];
        layer.operations = operations("hello", Phase::Configure, files);
    });
    assert_eq!(found, [Difference::OrderChanged { phase: Phase::Configure }]);
}

#[test]
fn components_come_go_and_move() {
    assert_eq!(
        changed(|plan| plan.layers.push(layer("late", Vec::new()))),
        [Reason::ComponentAdded { component: name("late") }]
    );
    assert_eq!(
        changed(|plan| drop(plan.layers.pop())),
        [Reason::ComponentRemoved { component: name("other") }]
    );
    let moved = changed(|plan| plan.layers.swap(0, 1));
    assert!(matches!(&moved[..], [Reason::ComponentMoved { .. }]), "{moved:?}");
}

#[test]
fn base_architecture_checks_and_epoch_are_reasons() {
    let reasons = changed(|plan| match &mut plan.base {
        Base::Debian { packages, .. } => packages.push("vim".into()),
        other => panic!("{other:?}"),
    });
    assert!(matches!(&reasons[..], [Reason::BaseChanged { .. }]), "{reasons:?}");

    let reasons = changed(|plan| plan.architecture = Architecture::Arm64);
    assert!(matches!(&reasons[..], [Reason::ArchitectureChanged { .. }]), "{reasons:?}");

    let reasons = changed(|plan| plan.checks.clear());
    assert!(matches!(&reasons[..], [Reason::ChecksChanged { .. }]), "{reasons:?}");

    let mut old = plan();
    old.key = Digest::of(b"of an older olbake");
    assert_eq!(why(Some(&old), &plan()), [Reason::EpochChanged]);
}

#[test]
fn a_secret_of_another_value_is_a_difference() {
    let id = SecretId("hello.token".into());
    let with = |value: &str| {
        let mut plan = plan();
        let Action::FilePut { content, .. } = &mut plan.layers[0].operations[0].action else { panic!() };
        content.secrets.push(id.clone());
        let version = Some(Digest::of(value.as_bytes()));
        plan.secrets.insert(id.clone(), Secret { source: "env:TOKEN".into(), version });
        keyed(plan)
    };
    let reasons = why(Some(&with("one")), &with("two"));
    let [Reason::ComponentChanged { differences, .. }] = &reasons[..] else { panic!("{reasons:?}") };
    assert_eq!(differences[..], [Difference::SecretChanged { secret: "hello.token".into() }]);
}

#[test]
fn reasons_survive_json() {
    let reasons = changed(|plan| plan.layers[0].operations.truncate(1));
    let text = serde_json::to_string(&reasons).unwrap();
    assert!(text.contains(r#""reason":"component_changed""#), "{text}");
    assert_eq!(serde_json::from_str::<Vec<Reason>>(&text).unwrap(), reasons);
}
