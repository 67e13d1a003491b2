//! Security groups and their rules.

use olbake_core::settings::Type;
use olbake_core::stack::catalog::{Change, TypeSchema};
use serde_json::json;

use super::shorthand::{Common as _, words};

pub(super) fn security_group() -> TypeSchema {
    TypeSchema::object(
        "What may reach its members, and what they may reach: with `aws.security_group_rule`s.",
    )
    .takes("vpc_id", Type::Str, Change::Replace, "the VPC: its `id`")
    .takes_or("description", Type::Str, json!("olbake"), Change::Replace, "what it is for")
    .takes_or("allow_all_egress", Type::Bool, json!(true), Change::InPlace, "its members may reach anything")
    .tagged()
    .gives_id("its id: `sg-…`")
    .gives("name", Type::Str, "its name")
}

pub(super) fn security_group_rule() -> TypeSchema {
    TypeSchema::object("One thing that a security group lets through.")
        .delete_first()
        .takes("security_group_id", Type::Str, Change::Replace, "the group: its `id`")
        .takes_or(
            "direction",
            words(&["ingress", "egress"]),
            json!("ingress"),
            Change::Replace,
            "to its members, or from them",
        )
        .takes_or("protocol", Type::Str, json!("tcp"), Change::Replace, "`tcp`, `udp`, `icmp`, or `all`")
        .may_take("from_port", Type::Int, Change::Replace, "the first port")
        .may_take("to_port", Type::Int, Change::Replace, "the last port; none: the first")
        .may_take("cidr", Type::Cidr, Change::Replace, "addresses at the other end")
        .may_take("source_security_group_id", Type::Str, Change::Replace, "or members of a group")
        .may_take("description", Type::Str, Change::InPlace, "what it is for")
        .tagged()
        .gives_id("its id: `sgr-…`")
}
