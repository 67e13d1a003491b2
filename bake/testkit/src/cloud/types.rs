//! The types of the cloud's objects. Main function: [`catalog`].

use olbake_core::settings::Type;
use olbake_core::stack::Catalog;
use olbake_core::stack::catalog::{Change, TypeSchema};
use olbake_engine::stack::group;
use serde_json::{Value, json};

/// Networks, volumes (the old one goes first), balancers and groups.
pub fn catalog() -> Catalog {
    Catalog::default()
        .with("fake.network", network())
        .with("fake.volume", volume())
        .with("fake.balancer", balancer())
        .with("fake.group", group())
}

fn network() -> TypeSchema {
    TypeSchema::object("a network")
        .takes("cidr", Type::Str, Change::Replace, "its addresses")
        .takes_or("note", Type::Str.or_none(), Value::Null, Change::InPlace, "anything")
        .gives("network_id", Type::Str, "its id")
}

fn volume() -> TypeSchema {
    TypeSchema::object("a volume")
        .delete_first()
        .holding_data()
        .takes("network", Type::Str, Change::Replace, "where it is")
        .takes_or("megabytes", Type::Int, json!(10), Change::InPlace, "how large")
        .gives("volume_id", Type::Str, "its id")
}

fn balancer() -> TypeSchema {
    TypeSchema::object("a load balancer")
        .takes("network", Type::Str, Change::Replace, "where it is")
        .takes_or("port", Type::Port, json!(80), Change::InPlace, "listens on")
        .gives("balancer_id", Type::Str, "its id")
}

fn group() -> TypeSchema {
    group::properties(TypeSchema::group("a group of instances"))
        .takes("network", Type::Str, Change::Replace, "where it is")
        .takes_or("load_balancer", Type::Str.or_none(), Value::Null, Change::Settle, "in front of it")
        .takes_or(
            "boot",
            Type::Str.or_none(),
            Value::Null,
            Change::Rollout,
            "what instances are told when they boot",
        )
        .gives("group_id", Type::Str, "its id")
}
