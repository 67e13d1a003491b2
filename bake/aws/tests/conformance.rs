//! What every provider has to keep to, asked of AWS's types: each create's first answer is lost on the way.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail where something is amiss")]

mod support;

use olbake_core::stack::declare::Declared;
use olbake_testkit::conformance::{Course, check};
use serde_json::json;
use support::{World, declaration, output, resource};

/// The call that makes an object of a type.
fn making(resource: &Declared) -> &'static str {
    match resource.ty.kind() {
        "elastic_ip" => "AllocateAddress",
        "security_group_rule" => "AuthorizeSecurityGroupIngress",
        "role_policy" => "PutRolePolicy",
        "parameter" => "PutParameter",
        "record" => "ChangeResourceRecordSets",
        _ => "Create*",
    }
}

async fn conforms(world: &World, resources: Vec<Declared>, changes: &[(&str, &str, serde_json::Value)]) {
    let declaration = declaration("infrastructure.aws.network.QA", resources, &[]);
    let lose = |resource: &Declared| {
        world.cloud.fault(making(resource), "cut_after");
    };
    let course = Course { declaration: &declaration, changes, lose_an_answer: &lose };
    let found = check(&*world.provider, &course).await;
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn networks_conform() {
    let Some(world) = World::new("us-east-1").await else { return };
    let vpc = output("vpc", "id");
    let subnet = |name: &str, number: u8| {
        resource(name, "aws.subnet", &json!({"vpc_id": vpc, "cidr": format!("10.9.{number}.0/24")}))
    };
    let resources = vec![
        resource("vpc", "aws.vpc", &json!({"cidr": "10.9.0.0/16", "tags": {"team": "one"}})),
        resource("other", "aws.vpc", &json!({"cidr": "10.10.0.0/16"})),
        subnet("a", 1),
        subnet("b", 2),
        resource("internet", "aws.internet_gateway", &json!({"vpc_id": vpc})),
        resource("address", "aws.elastic_ip", &json!({})),
        resource(
            "nat",
            "aws.nat_gateway",
            &json!({"subnet_id": output("a", "id"), "allocation_id": output("address", "id")}),
        ),
        resource("peering", "aws.peering", &json!({"vpc_id": vpc, "peer_vpc_id": output("other", "id")})),
        resource(
            "table",
            "aws.route_table",
            &json!({
                "vpc_id": vpc, "subnet_ids": [output("a", "id")],
                "routes": [
                    {"cidr": "0.0.0.0/0", "target": output("internet", "id")},
                    {"cidr": "10.10.0.0/16", "target": output("peering", "id")},
                ],
            }),
        ),
        resource(
            "s3",
            "aws.gateway_endpoint",
            &json!({"vpc_id": vpc, "service": "s3", "route_table_ids": [output("table", "id")]}),
        ),
        resource("web", "aws.security_group", &json!({"vpc_id": vpc})),
        resource(
            "web-in",
            "aws.security_group_rule",
            &json!({"security_group_id": output("web", "id"), "from_port": 80, "cidr": "10.0.0.0/8"}),
        ),
        resource("template", "aws.launch_template", &json!({"security_group_ids": [output("web", "id")]})),
    ];
    let changes = [
        ("vpc", "tags", json!({"team": "two", "cost": "web"})),
        ("table", "routes", json!([])),
        ("web", "allow_all_egress", json!(false)),
        ("template", "instance_type", json!("t3.large")),
    ];
    conforms(&world, resources, &changes).await;
}

#[tokio::test]
async fn roles_and_balancers_conform() {
    let Some(world) = World::new("us-west-2").await else { return };
    let vpc = output("vpc", "id");
    let subnet = |name: &str, number: u8, zone: &str| {
        let cidr = format!("10.9.{number}.0/24");
        let inputs = json!({"vpc_id": vpc, "cidr": cidr, "availability_zone": zone});
        resource(name, "aws.subnet", &inputs)
    };
    let trust = json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ec2.amazonaws.com"}}],
    });
    let may = json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}],
    });
    let resources = vec![
        resource("vpc", "aws.vpc", &json!({"cidr": "10.9.0.0/16"})),
        subnet("a", 1, "us-west-2a"),
        subnet("b", 2, "us-west-2b"),
        resource("policy", "aws.policy", &json!({"policy": may})),
        resource(
            "role",
            "aws.role",
            &json!({"assume_role_policy": trust, "managed_policy_arns": [output("policy", "arn")]}),
        ),
        resource("own", "aws.role_policy", &json!({"role": output("role", "id"), "policy": may})),
        resource("profile", "aws.instance_profile", &json!({"role": output("role", "id")})),
        resource(
            "balancer",
            "aws.load_balancer",
            &json!({"subnet_ids": [output("a", "id"), output("b", "id")]}),
        ),
        resource("targets", "aws.target_group", &json!({"vpc_id": vpc, "port": 80})),
        resource(
            "listener",
            "aws.listener",
            &json!({
                "load_balancer_arn": output("balancer", "arn"), "port": 80,
                "target_group_arns": [output("targets", "arn")],
            }),
        ),
        resource(
            "rule",
            "aws.listener_rule",
            &json!({
                "listener_arn": output("listener", "arn"), "priority": 10, "paths": ["/api/*"],
                "target_group_arns": [output("targets", "arn")],
            }),
        ),
    ];
    let other = json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "*"}],
    });
    let changes = [
        ("policy", "policy", other.clone()),
        ("own", "policy", other),
        ("role", "managed_policy_arns", json!([])),
        ("rule", "paths", json!(["/api/*", "/v2/*"])),
        (
            "targets",
            "health_check",
            json!({
                "protocol": null, "path": "/health", "port": null, "interval": 10, "timeout": 5,
                "healthy_threshold": 3, "unhealthy_threshold": 2, "matcher": null,
            }),
        ),
    ];
    conforms(&world, resources, &changes).await;
}
