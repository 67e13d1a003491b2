//! Load balancers and where they send requests.

use olbake_core::settings::Type;
use olbake_core::stack::catalog::{Change, TypeSchema};
use serde_json::json;

use super::shorthand::{Common as _, field, optional, set_of, words};

pub(super) fn load_balancer() -> TypeSchema {
    TypeSchema::object("Requests come to it, and it sends them on.")
        .takes("subnet_ids", set_of(Type::Str), Change::InPlace, "where it is: subnets of two zones at least")
        .takes_or("security_group_ids", set_of(Type::Str), json!([]), Change::InPlace, "what may reach it")
        .takes_or(
            "scheme",
            words(&["internet-facing", "internal"]),
            json!("internet-facing"),
            Change::Replace,
            "who can reach it",
        )
        .takes_or(
            "type",
            words(&["application", "network"]),
            json!("application"),
            Change::Replace,
            "whether it understands HTTP",
        )
        .takes_or(
            "idle_timeout",
            Type::Int,
            json!(60),
            Change::InPlace,
            "seconds after which a silent connection is closed; of type `application`",
        )
        .gives_id("its ARN")
        .gives("arn", Type::Str, "its ARN")
        .gives("dns_name", Type::Hostname, "its name")
        .gives("zone_id", Type::Str.or_none(), "the hosted zone of its name, for aliases")
}

pub(super) fn target_group() -> TypeSchema {
    let check = Type::Record(vec![
        optional("protocol", words(&["HTTP", "HTTPS", "TCP"])),
        optional("path", Type::Str),
        optional("port", Type::Port),
        field("interval", Type::Int, Some(json!(10))),
        field("timeout", Type::Int, Some(json!(5))),
        field("healthy_threshold", Type::Int, Some(json!(2))),
        field("unhealthy_threshold", Type::Int, Some(json!(2))),
        optional("matcher", Type::Str),
    ]);
    let check_default = json!({
        "protocol": null, "path": null, "port": null, "interval": 10, "timeout": 5,
        "healthy_threshold": 2, "unhealthy_threshold": 2, "matcher": null,
    });
    TypeSchema::object("Instances or addresses that requests are sent to, as long as they are healthy.")
        .takes("vpc_id", Type::Str, Change::Replace, "the VPC: its `id`")
        .takes("port", Type::Port, Change::Replace, "on which targets have their requests")
        .takes_or(
            "protocol",
            words(&["HTTP", "HTTPS", "TCP", "UDP", "TLS"]),
            json!("HTTP"),
            Change::Replace,
            "how they are spoken to",
        )
        .takes_or(
            "target_type",
            words(&["instance", "ip"]),
            json!("instance"),
            Change::Replace,
            "what targets are",
        )
        .takes_or(
            "health_check",
            check,
            check_default,
            Change::InPlace,
            "how targets are checked; times in seconds",
        )
        .takes_or(
            "deregistration_delay",
            Type::Int,
            json!(30),
            Change::InPlace,
            "seconds that requests under way have when a target leaves",
        )
        .gives_id("its ARN")
        .gives("arn", Type::Str, "its ARN")
}

pub(super) fn listener() -> TypeSchema {
    TypeSchema::object("A port of a load balancer, and where its requests go.")
        .delete_first()
        .takes("load_balancer_arn", Type::Str, Change::Replace, "the load balancer: its `id`")
        .takes("port", Type::Port, Change::Replace, "the port")
        .takes_or(
            "protocol",
            words(&["HTTP", "HTTPS", "TCP", "TLS", "UDP"]),
            json!("HTTP"),
            Change::InPlace,
            "what is spoken on it",
        )
        .may_take("certificate_arn", Type::Str, Change::InPlace, "its certificate, for HTTPS and TLS")
        .may_take("ssl_policy", Type::Str, Change::InPlace, "which versions of TLS it speaks")
        .takes_or(
            "target_group_arns",
            set_of(Type::Str),
            json!([]),
            Change::InPlace,
            "where requests go: one target group, or two for blue-green rollouts, which divide requests",
        )
        .takes_or(
            "redirect_to_https",
            Type::Bool,
            json!(false),
            Change::InPlace,
            "requests are sent to the same place over TLS",
        )
        .gives_id("its ARN")
        .gives("arn", Type::Str, "its ARN")
}

pub(super) fn listener_rule() -> TypeSchema {
    TypeSchema::object("Requests of a listener that go elsewhere than the others.")
        .delete_first()
        .takes("listener_arn", Type::Str, Change::Replace, "the listener: its `id`")
        .takes("priority", Type::Int, Change::Replace, "lower ones are asked first")
        .takes_or("hosts", set_of(Type::Str), json!([]), Change::InPlace, "the hosts of such requests")
        .takes_or("paths", set_of(Type::Str), json!([]), Change::InPlace, "their paths")
        .takes(
            "target_group_arns",
            set_of(Type::Str),
            Change::InPlace,
            "where they go: one target group, or two for blue-green rollouts",
        )
        .gives_id("its ARN")
        .gives("arn", Type::Str, "its ARN")
}
