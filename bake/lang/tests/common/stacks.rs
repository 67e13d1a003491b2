//! A small catalog, stacks from texts, and what comes of them as text.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
#![allow(dead_code, reason = "not every test file needs all of it")]

use olbake_core::settings::{RecordField, Type};
use olbake_core::stack::catalog::{Change, Output};
use olbake_core::stack::{Catalog, TypeSchema};
use olbake_lang::{Evaluated, StackInputs};
use serde_json::json;

use super::{Made, draw, inputs, make};

/// Types like those of the local cloud.
pub(crate) fn catalog() -> Catalog {
    let image = Type::Record(
        [("image", Type::Str), ("variant", Type::Str.or_none()), ("digest", Type::Str)]
            .map(|(name, ty)| RecordField { name: name.to_owned(), ty, default: None })
            .to_vec(),
    );
    let addresses = Type::List(Box::new(Type::Record(vec![RecordField {
        name: "ip".to_owned(),
        ty: Type::Ip,
        default: None,
    }])));
    let env = Type::Map(Box::new(Type::Str), Box::new(Type::Str));
    Catalog::default()
        .with(
            "local.network",
            TypeSchema::object("a network").takes("cidr", Type::Cidr, Change::Replace, "its range").gives(
                "network_id",
                Type::Str,
                "its id",
            ),
        )
        .with(
            "local.balancer",
            TypeSchema::object("a load balancer")
                .takes("network", Type::Str, Change::Replace, "where")
                .takes_or("port", Type::Port, json!(80), Change::InPlace, "listens on")
                .gives("address", Type::Ip, "its address")
                .gives("port", Type::Port, "its port"),
        )
        .with("local.database", database())
        .with(
            "local.volume",
            TypeSchema::object("a volume")
                .takes("size", Type::Bytes, Change::InPlace, "its size")
                .holding_data()
                .gives("volume_id", Type::Str, "its id"),
        )
        .with(
            "local.group",
            TypeSchema::group("instances")
                .takes("image", image, Change::Rollout, "what runs")
                .takes_or("size", Type::Int, json!(1), Change::InPlace, "how many")
                .takes("network", Type::Str, Change::Replace, "where")
                .takes_or("env", env, json!({}), Change::Rollout, "its environment")
                .gives("members", addresses, "its instances")
                .gives("size", Type::Int, "how many"),
        )
}

/// A type with an output that is secret.
fn database() -> TypeSchema {
    let mut schema = TypeSchema::object("a database")
        .takes("password", Type::Str, Change::InPlace, "of its role")
        .gives("address", Type::Ip, "its address");
    schema
        .outputs
        .insert("token", Output { ty: Type::Str, secret: true, renewed: false, doc: "to come in by" });
    schema
}

/// A workspace with stacks.
pub(crate) fn stacks(files: &[(&str, &str)]) -> Made {
    let Made { _folder, workspace } = make(files);
    let environments = ["QA".to_owned(), "Production".to_owned()];
    Made { _folder, workspace: workspace.with_stacks(catalog(), &environments) }
}

/// A workspace with one project whose function has this body.
pub(crate) fn body(text: &str) -> Made {
    let indented: String = text.lines().map(|line| format!("    {line}\n")).collect();
    let recipe = format!("def stack(c, ctx):\n{indented}\nproject(stack = stack)\n");
    stacks(&[("stacks/a/stack.star", &recipe), ("stacks/a/QA.toml", "")])
}

pub(crate) fn offline() -> StackInputs {
    StackInputs::offline(&inputs())
}

pub(crate) fn evaluate(made: &Made, stack: &str, inputs: &StackInputs) -> Evaluated {
    made.workspace
        .evaluate(&stack.parse().unwrap(), inputs)
        .unwrap_or_else(|problems| panic!("{}", draw(&made.workspace, &problems)))
}

/// What evaluating a stack finds wrong.
pub(crate) fn wrong(made: &Made, stack: &str, inputs: &StackInputs) -> String {
    match made.workspace.evaluate(&stack.parse().unwrap(), inputs) {
        Ok(evaluated) => format!("nothing wrong: {:?}", evaluated.declaration),
        Err(found) => draw(&made.workspace, &found),
    }
}

/// Placeholders as people read them.
pub(crate) fn readable(text: &str) -> String {
    text.replace(['\u{e000}', '\u{e002}'], "<").replace(['\u{e001}', '\u{e003}'], ">")
}
