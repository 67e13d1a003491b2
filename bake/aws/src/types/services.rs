//! Names, certificates, buckets, keys, parameters and secrets.

use olbake_core::settings::Type;
use olbake_core::stack::catalog::{Change, TypeSchema};
use serde_json::json;

use super::shorthand::{Common as _, field, set_of, words};

pub(super) fn hosted_zone() -> TypeSchema {
    TypeSchema::object("Names below a name, answered by Route 53.")
        .takes("name", Type::Hostname, Change::Replace, "the name")
        .may_take("vpc_id", Type::Str, Change::Replace, "the VPC in which it is answered; none: everywhere")
        .gives_id("its id: `Z…`")
        .gives("name_servers", Type::List(Box::new(Type::Str)), "who answers; none in a VPC")
}

pub(super) fn record() -> TypeSchema {
    let alias = Type::Record(vec![field("dns_name", Type::Str, None), field("zone_id", Type::Str, None)]);
    TypeSchema::object("What a name stands for.")
        .takes("zone_id", Type::Str, Change::Replace, "the hosted zone: its `id`")
        .takes("name", Type::Str, Change::Replace, "the whole name")
        .takes_or(
            "type",
            words(&["A", "AAAA", "CNAME", "TXT", "MX", "NS", "SRV", "CAA"]),
            json!("A"),
            Change::Replace,
            "what kind of thing it stands for",
        )
        .takes_or("ttl", Type::Int, json!(300), Change::InPlace, "seconds for which it may be remembered")
        .takes_or("records", set_of(Type::Str), json!([]), Change::InPlace, "what it stands for")
        .may_take(
            "alias",
            alias,
            Change::InPlace,
            "or what it follows: `dns_name` and `zone_id` of a load balancer",
        )
        .gives_id("its name and type")
        .gives("name", Type::Str, "the name")
}

pub(super) fn certificate() -> TypeSchema {
    TypeSchema::object("A certificate for TLS. It is issued once the record that it gives is answered.")
        .takes("domain_name", Type::Hostname, Change::Replace, "the name that it is for")
        .gives_id("its ARN")
        .gives("arn", Type::Str, "its ARN")
        .gives("validation_name", Type::Str, "the name of the record that shows that the name is ours")
        .gives("validation_value", Type::Str, "what that record, a CNAME, stands for")
}

pub(super) fn certificate_validation() -> TypeSchema {
    TypeSchema::object("That a certificate is issued: what uses it comes after this.")
        .takes("certificate_arn", Type::Str, Change::Replace, "the certificate: its `id`")
        .gives_id("the certificate's ARN")
        .gives("arn", Type::Str, "the certificate's ARN")
}

pub(super) fn bucket() -> TypeSchema {
    TypeSchema::object("A bucket of S3. Nothing in it is ever public.")
        .holding_data()
        .takes("name", Type::Str, Change::Replace, "its name, which nobody else in the world has")
        .takes_or("versioning", Type::Bool, json!(true), Change::InPlace, "what is overwritten is kept")
        .may_take("kms_key_id", Type::Str, Change::InPlace, "the key it is encrypted with; none: S3's own")
        .gives_id("its name")
        .gives("arn", Type::Str, "its ARN")
}

pub(super) fn kms_key() -> TypeSchema {
    TypeSchema::object("A key that never leaves KMS.")
        .holding_data()
        .takes_or("description", Type::Str, json!("olbake"), Change::InPlace, "what it is for")
        .takes_or("enable_key_rotation", Type::Bool, json!(true), Change::InPlace, "it is renewed each year")
        .takes_or(
            "deletion_window",
            Type::Int,
            json!(30),
            Change::InPlace,
            "days until it is gone once it was removed, 7 to 30",
        )
        .gives_id("its id")
        .gives("arn", Type::Str, "its ARN")
}

pub(super) fn kms_alias() -> TypeSchema {
    TypeSchema::object("A name of a key.")
        .takes("name", Type::Str, Change::Replace, "the name: `alias/…`")
        .takes("key_id", Type::Str, Change::InPlace, "the key: its `id`")
        .gives_id("the name")
}

pub(super) fn parameter() -> TypeSchema {
    TypeSchema::object("A value in Systems Manager's parameter store.")
        .takes("name", Type::Str, Change::Replace, "its name: `/hello/QA/url`")
        .may_take("value", Type::Str, Change::InPlace, "the value")
        .may_take("secret", Type::Secret, Change::InPlace, "or the value, where it is a secret")
        .gives_id("its name")
}

pub(super) fn secret() -> TypeSchema {
    TypeSchema::object("A secret in Secrets Manager.")
        .holding_data()
        .takes("name", Type::Str, Change::Replace, "its name")
        .takes("secret", Type::Secret, Change::InPlace, "the secret")
        .takes_or(
            "recovery_window",
            Type::Int,
            json!(7),
            Change::InPlace,
            "days in which it can be had back once it was removed, 7 to 30; 0: none",
        )
        .gives_id("its ARN")
        .gives("arn", Type::Str, "its ARN")
}
