//! Networks and the ways between them.

use olbake_core::settings::Type;
use olbake_core::stack::catalog::{Change, TypeSchema};
use serde_json::json;

use super::shorthand::{Common as _, field, set_of, words};

pub(super) fn vpc() -> TypeSchema {
    TypeSchema::object("A network of its own.")
        .takes("cidr", Type::Cidr, Change::Replace, "its addresses")
        .takes_or("enable_dns_support", Type::Bool, json!(true), Change::InPlace, "names are answered in it")
        .takes_or(
            "enable_dns_hostnames",
            Type::Bool,
            json!(true),
            Change::InPlace,
            "instances with public addresses have names",
        )
        .tagged()
        .gives_id("its id: `vpc-…`")
        .gives("cidr", Type::Cidr, "its addresses")
}

pub(super) fn subnet() -> TypeSchema {
    TypeSchema::object("A part of a VPC's addresses, in one zone.")
        .delete_first()
        .takes("vpc_id", Type::Str, Change::Replace, "the VPC: its `id`")
        .takes("cidr", Type::Cidr, Change::Replace, "its addresses")
        .may_take("availability_zone", Type::Str, Change::Replace, "its zone; none: AWS chooses one")
        .takes_or(
            "map_public_ip_on_launch",
            Type::Bool,
            json!(false),
            Change::InPlace,
            "instances have public addresses",
        )
        .tagged()
        .gives_id("its id: `subnet-…`")
        .gives("cidr", Type::Cidr, "its addresses")
        .gives("availability_zone", Type::Str, "its zone")
}

pub(super) fn internet_gateway() -> TypeSchema {
    TypeSchema::object("The way from a VPC to the internet and back.")
        .delete_first()
        .takes("vpc_id", Type::Str, Change::Replace, "the VPC: its `id`")
        .tagged()
        .gives_id("its id: `igw-…`")
}

pub(super) fn nat_gateway() -> TypeSchema {
    TypeSchema::object("The way from private subnets to the internet.")
        .delete_first()
        .takes("subnet_id", Type::Str, Change::Replace, "a public subnet: its `id`")
        .takes("allocation_id", Type::Str, Change::Replace, "its public address: an `aws.elastic_ip`'s `id`")
        .tagged()
        .gives_id("its id: `nat-…`")
        .gives("public_ip", Type::Str.or_none(), "its public address")
}

pub(super) fn elastic_ip() -> TypeSchema {
    TypeSchema::object("A public address that stays.").tagged().gives_id("its id: `eipalloc-…`").gives(
        "public_ip",
        Type::Str,
        "the address",
    )
}

pub(super) fn route_table() -> TypeSchema {
    let route = Type::Record(vec![field("cidr", Type::Cidr, None), field("target", Type::Str, None)]);
    TypeSchema::object("Where subnets send what is not for their VPC.")
        .takes("vpc_id", Type::Str, Change::Replace, "the VPC: its `id`")
        .takes_or(
            "routes",
            set_of(route),
            json!([]),
            Change::InPlace,
            "`cidr`, and the `target`'s id: an internet or NAT gateway, a peering, a network interface",
        )
        .takes_or("subnet_ids", set_of(Type::Str), json!([]), Change::InPlace, "the subnets that use it")
        .tagged()
        .gives_id("its id: `rtb-…`")
}

pub(super) fn peering() -> TypeSchema {
    TypeSchema::object("A way between two VPCs of this account and region.")
        .takes("vpc_id", Type::Str, Change::Replace, "one VPC: its `id`")
        .takes("peer_vpc_id", Type::Str, Change::Replace, "the other: its `id`")
        .tagged()
        .gives_id("its id: `pcx-…`")
}

pub(super) fn gateway_endpoint() -> TypeSchema {
    TypeSchema::object("The way from a VPC to S3 or DynamoDB without the internet.")
        .takes("vpc_id", Type::Str, Change::Replace, "the VPC: its `id`")
        .takes("service", words(&["s3", "dynamodb"]), Change::Replace, "what it leads to")
        .takes_or(
            "route_table_ids",
            set_of(Type::Str),
            json!([]),
            Change::InPlace,
            "the tables that know of it",
        )
        .tagged()
        .gives_id("its id: `vpce-…`")
}
