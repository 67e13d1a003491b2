//! Roles and what they may do.

use olbake_core::settings::Type;
use olbake_core::stack::catalog::{Change, TypeSchema};
use serde_json::json;

use super::shorthand::{Common as _, set_of};

pub(super) fn role() -> TypeSchema {
    TypeSchema::object("Who may do something, once somebody takes it on.")
        .takes(
            "assume_role_policy",
            policy_type(),
            Change::InPlace,
            "who may take it on: a policy, as a record or as JSON",
        )
        .takes_or(
            "managed_policy_arns",
            set_of(Type::Str),
            json!([]),
            Change::InPlace,
            "the managed policies that hold for it, all of them",
        )
        .gives_id("its name")
        .gives("arn", Type::Str, "its ARN")
}

pub(super) fn policy() -> TypeSchema {
    TypeSchema::object("What roles may do that have it.")
        .takes("policy", policy_type(), Change::InPlace, "what is allowed: a record, or JSON")
        .gives_id("its ARN")
        .gives("arn", Type::Str, "its ARN")
}

pub(super) fn role_policy() -> TypeSchema {
    TypeSchema::object("What one role may do: a policy of its own.")
        .takes("role", Type::Str, Change::Replace, "the role: its `id`")
        .takes("policy", policy_type(), Change::InPlace, "what is allowed: a record, or JSON")
        .gives_id("its name")
}

pub(super) fn instance_profile() -> TypeSchema {
    TypeSchema::object("The way in which instances take on a role.")
        .takes("role", Type::Str, Change::InPlace, "the role: its `id`")
        .gives_id("its name")
        .gives("arn", Type::Str, "its ARN")
}

/// A policy as a property: a record, or JSON as text.
fn policy_type() -> Type {
    let record = Type::Map(Box::new(Type::Str), Box::new(json_type(6)));
    Type::Str.or(record)
}

/// Any JSON, so deep.
fn json_type(depth: usize) -> Type {
    let leaf = Type::Bool.or(Type::Int).or(Type::Str);
    match depth {
        0 => leaf,
        _ => leaf
            .or(Type::List(Box::new(json_type(depth - 1))))
            .or(Type::Map(Box::new(Type::Str), Box::new(json_type(depth - 1)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_records_or_text() {
        let policy = json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": ["sts:AssumeRole"],
                "Condition": {"Bool": {"aws:SecureTransport": "true"}},
            }],
        });
        assert_eq!(policy_type().coerce(&policy), Ok(policy.clone()));
        assert_eq!(policy_type().coerce(&json!("{}")), Ok(json!("{}")));
    }
}
