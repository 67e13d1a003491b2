//! The types of resources that the local cloud has.

use olbake_core::settings::{RecordField, Type};
use olbake_core::stack::Catalog;
use olbake_core::stack::catalog::{Change, TypeSchema};
use olbake_engine::stack::group;
use serde_json::{Value, json};

pub(super) const NETWORK: &str = "local.network";
pub(super) const VOLUME: &str = "local.volume";
pub(super) const BALANCER: &str = "local.load_balancer";
pub(super) const NAME: &str = "local.name";
pub(super) const GROUP: &str = "local.instance_group";

fn field(name: &str, ty: Type, default: Option<Value>) -> RecordField {
    RecordField { name: name.to_owned(), ty, default }
}

fn list(ty: Type) -> Type {
    Type::List(Box::new(ty))
}

fn words(words: &[&str]) -> Type {
    Type::Enum(words.iter().map(|word| (*word).to_owned()).collect())
}

/// The types, under their names.
pub(super) fn catalog() -> Catalog {
    Catalog::default()
        .with(NETWORK, network())
        .with(VOLUME, volume())
        .with(BALANCER, balancer())
        .with(NAME, name())
        .with(GROUP, instance_group())
}

fn network() -> TypeSchema {
    TypeSchema::object("A network of this host: a bridge, on which the host has the first address.")
        .delete_first()
        .takes("cidr", Type::Cidr, Change::Replace, "its addresses; no other network may have one of them")
        .gives("id", Type::Str, "what other resources name it by")
        .gives("cidr", Type::Cidr, "its addresses")
        .gives(
            "gateway",
            Type::Ip,
            "the host's address in it, where load balancers listen and names are answered",
        )
}

fn volume() -> TypeSchema {
    TypeSchema::object("A file system that outlives the instances that have it, one at a time.")
        .delete_first()
        .holding_data()
        .takes("size", Type::Bytes, Change::Replace, "its size; it takes as much space as is written to it")
        .gives("id", Type::Str, "what other resources name it by")
        .gives("size", Type::Bytes, "its size")
}

fn balancer() -> TypeSchema {
    let listener = Type::Record(vec![
        field("port", Type::Port, None),
        field("backend", Type::Str, Some(json!("default"))),
        field("mode", words(&["http", "tcp"]), Some(json!("http"))),
        field("on", words(&["gateway", "loopback"]), Some(json!("gateway"))),
    ]);
    TypeSchema::object("A load balancer (HAProxy) that listens on the network's gateway address.")
        .delete_first()
        .takes("network", Type::Str, Change::Replace, "the network of its members: its `id`")
        .takes("listeners", list(listener), Change::InPlace, "ports, and the backend behind each")
        .takes_or(
            "health_path",
            Type::Str.or_none(),
            Value::Null,
            Change::InPlace,
            "asked of each member by HTTP; none: that it accepts a connection is enough",
        )
        .takes_or(
            "health_interval",
            Type::Duration,
            json!("1s"),
            Change::InPlace,
            "the time between two checks of a member",
        )
        .takes_or(
            "health_timeout",
            Type::Duration,
            json!("5s"),
            Change::InPlace,
            "how long a member may take to answer a check",
        )
        .takes_or("rise", Type::Int, json!(2), Change::InPlace, "good checks that make a member healthy")
        .takes_or("fall", Type::Int, json!(2), Change::InPlace, "bad checks that make it unhealthy")
        .takes_or(
            "drain_timeout",
            Type::Duration,
            json!("60s"),
            Change::InPlace,
            "how long old connections may take when listeners change",
        )
        .gives("id", Type::Str, "what groups name it by")
        .gives("address", Type::Ip, "where it listens")
}

fn name() -> TypeSchema {
    TypeSchema::object("A name that is answered in a network.")
        .delete_first()
        .takes("network", Type::Str, Change::Replace, "where it is answered: the network's `id`")
        .takes("name", Type::Hostname, Change::InPlace, "the name")
        .takes("addresses", list(Type::Ip), Change::InPlace, "what it stands for")
        .gives("id", Type::Str, "its id")
        .gives("name", Type::Hostname, "the name")
}

fn instance_group() -> TypeSchema {
    let volume = Type::Record(vec![field("path", Type::Path, None), field("volumes", list(Type::Str), None)]);
    let balancer = Type::Record(vec![
        field("balancer", Type::Str, None),
        field("backend", Type::Str, Some(json!("default"))),
        field("port", Type::Port, None),
    ]);
    let group = TypeSchema::group("Instances of one image, replaced by rollouts.");
    group::properties(group)
        .takes(
            "network",
            Type::Str,
            Change::Replace,
            "where instances have their addresses: the network's `id`",
        )
        .takes_or(
            "load_balancer",
            balancer.or_none(),
            Value::Null,
            Change::Settle,
            "what stands in front of them, and the port that they answer on",
        )
        .takes_or(
            "hostname",
            Type::Str.or_none(),
            Value::Null,
            Change::Rollout,
            "host name of instances; none: the resource's name",
        )
        .takes_or(
            "dns_name",
            Type::Hostname.or_none(),
            Value::Null,
            Change::InPlace,
            "a name in the network that stands for the instances",
        )
        .takes_or(
            "user_data",
            Type::Str.or_none(),
            Value::Null,
            Change::Rollout,
            "for cloud-init; it is no place for secrets",
        )
        .takes_or(
            "volumes",
            list(volume),
            json!([]),
            Change::Rollout,
            "where volumes are mounted; the instance in the first place has the first of each",
        )
        .takes_or(
            "vm",
            Type::Bool,
            json!(false),
            Change::Rollout,
            "instances are virtual machines instead of containers",
        )
        .takes_or(
            "memory",
            Type::Bytes.or_none(),
            Value::Null,
            Change::Rollout,
            "memory that an instance may take",
        )
        .takes_or(
            "cpu_percent",
            Type::Int.or_none(),
            Value::Null,
            Change::Rollout,
            "hundredths of a processor that an instance may take",
        )
        .gives("id", Type::Str, "the group's id")
        .gives("dns_name", Type::Str.or_none(), "the name that stands for the instances")
}
