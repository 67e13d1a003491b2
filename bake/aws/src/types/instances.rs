//! Launch templates and groups of instances.

use olbake_core::settings::Type;
use olbake_core::stack::catalog::{Change, TypeSchema};
use olbake_engine::stack::group;
use serde_json::{Value, json};

use super::shorthand::{Common as _, field, optional, set_of, words};

pub(super) fn launch_template() -> TypeSchema {
    let disk = Type::Record(vec![
        field("device", Type::Str, Some(json!("/dev/xvda"))),
        field("size", Type::Bytes, None),
        field("volume_type", Type::Str, Some(json!("gp3"))),
        field("kms_key_id", Type::Str.or_none(), Some(Value::Null)),
    ]);
    TypeSchema::object("How a group's instances are launched; the image is the group's.")
        .takes_or("instance_type", Type::Str, json!("t3.small"), Change::InPlace, "the type of instances")
        .takes_or(
            "security_group_ids",
            set_of(Type::Str),
            json!([]),
            Change::InPlace,
            "the security groups of instances",
        )
        .may_take(
            "instance_profile",
            Type::Str,
            Change::InPlace,
            "the profile's name, with the role of instances",
        )
        .may_take("user_data", Type::Str, Change::InPlace, "for cloud-init; it is no place for secrets")
        .may_take("key_name", Type::Str, Change::InPlace, "a key pair for SSH")
        .may_take("disk", disk, Change::InPlace, "the disk; none: as the image says")
        .may_take("ebs_optimized", Type::Bool, Change::InPlace, "bandwidth for disks of its own")
        .tagged()
        .gives_id("its id: `lt-…`")
        .gives_anew("version", Type::Int, "the version with these properties")
}

pub(super) fn auto_scaling_group() -> TypeSchema {
    let template = Type::Record(vec![field("id", Type::Str, None), field("version", Type::Int, None)]);
    let behind = Type::Record(vec![
        field("target_group_arn", Type::Str, None),
        optional("idle_target_group_arn", Type::Str),
        optional("listener_arn", Type::Str),
    ]);
    let hook = Type::Record(vec![
        field("name", Type::Str, None),
        field("transition", words(&["launching", "terminating"]), Some(json!("terminating"))),
        field("timeout", Type::Int, Some(json!(3600))),
        field("default_result", words(&["continue", "abandon"]), Some(json!("continue"))),
    ]);
    let group =
        TypeSchema::group("Instances of one image that Auto Scaling keeps alive, replaced by rollouts.");
    group::properties(group)
        .takes(
            "launch_template",
            template,
            Change::Rollout,
            "how instances are launched: `id` and `version` of an `aws.launch_template`",
        )
        .takes("subnet_ids", set_of(Type::Str), Change::InPlace, "where instances are, one after the other")
        .may_take(
            "load_balancer",
            behind,
            Change::Settle,
            "the target group in front of them; for blue-green also an idle one, and the listener (or rule) that \
             divides requests between the two",
        )
        .takes_or(
            "lifecycle_hooks",
            Type::List(Box::new(hook)),
            json!([]),
            Change::InPlace,
            "where Auto Scaling waits for somebody to say that it may go on; timeouts in seconds",
        )
        .takes_or(
            "health_check_type",
            words(&["ec2", "elb"]),
            json!("ec2"),
            Change::InPlace,
            "by what Auto Scaling knows that an instance is dead",
        )
        .takes_or(
            "health_check_grace_period",
            Type::Int,
            json!(300),
            Change::InPlace,
            "seconds in which a new instance is not dead",
        )
        .takes_or(
            "delegate",
            words(&["instance_refresh"]).or_none(),
            Value::Null,
            Change::InPlace,
            "who replaces instances instead of olbake",
        )
        .tagged()
        .gives_id("its name")
        .gives("arn", Type::Str, "its ARN")
}
