//! Networks through the engine: deployed, changed, replaced, mended, removed.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail where something is amiss")]

mod support;

use olbake_core::stack::planner::Wishes;
use olbake_core::stack::{Declaration, plan::Act};
use olbake_engine::stack::Refresh;
use serde_json::{Value, json};
use support::{World, declaration, output, resource};

/// A VPC with a public and a private subnet.
fn network(cidr: &str, note: &str) -> Declaration {
    let zone = |letter: &str| format!("us-east-2{letter}");
    let part = |number: u8| cidr.replace(".0.0/16", &format!(".{number}.0/24"));
    let vpc = output("vpc", "id");
    let subnet = |name: &str, number: u8, letter: &str| {
        let inputs = json!({"vpc_id": vpc, "cidr": part(number), "availability_zone": zone(letter)});
        resource(name, "aws.subnet", &inputs)
    };
    // moto never lets go of an address that a NAT gateway had: another network has another one.
    let address = cidr.replace("10.", "address-").replace(".0.0/16", "");
    let route = |target: Value| json!([{"cidr": "0.0.0.0/0", "target": target}]);
    declaration(
        "infrastructure.aws.network.QA",
        vec![
            resource("vpc", "aws.vpc", &json!({"cidr": cidr, "tags": {"note": note}})),
            subnet("public-a", 1, "a"),
            subnet("public-b", 2, "b"),
            subnet("private-a", 11, "a"),
            resource("gateway", "aws.internet_gateway", &json!({"vpc_id": vpc})),
            resource(&address, "aws.elastic_ip", &json!({})),
            resource(
                "nat",
                "aws.nat_gateway",
                &json!({"subnet_id": output("public-a", "id"), "allocation_id": output(&address, "id")}),
            ),
            resource(
                "public",
                "aws.route_table",
                &json!({
                    "vpc_id": vpc,
                    "routes": route(output("gateway", "id")),
                    "subnet_ids": [output("public-b", "id"), output("public-a", "id")],
                }),
            ),
            resource(
                "private",
                "aws.route_table",
                &json!({
                    "vpc_id": vpc,
                    "routes": route(output("nat", "id")),
                    "subnet_ids": [output("private-a", "id")],
                }),
            ),
            resource(
                "s3",
                "aws.gateway_endpoint",
                &json!({"vpc_id": vpc, "service": "s3", "route_table_ids": [output("private", "id")]}),
            ),
            resource("web", "aws.security_group", &json!({"vpc_id": vpc, "description": "web"})),
            resource(
                "web-http",
                "aws.security_group_rule",
                &json!({"security_group_id": output("web", "id"), "from_port": 80, "cidr": "0.0.0.0/0"}),
            ),
            resource(
                "web-self",
                "aws.security_group_rule",
                &json!({
                    "security_group_id": output("web", "id"), "protocol": "all",
                    "source_security_group_id": output("web", "id"),
                }),
            ),
        ],
        &[("vpc_id", vpc.clone())],
    )
}

#[tokio::test]
async fn a_network_comes_changes_and_goes() {
    let Some(world) = World::new("us-east-2").await else { return };
    let first = network("10.80.0.0/16", "one");
    let changed = world.bring(&first).await;
    assert!(changed.outputs["vpc_id"].as_str().unwrap().starts_with("vpc-"), "{:?}", changed.outputs);

    // A note is changed where it stands.
    let noted = network("10.80.0.0/16", "two");
    let changed = world.bring(&noted).await;
    assert_eq!(changed.plan.actions.len(), 1, "{:#?}", changed.plan.actions);
    assert_eq!(changed.plan.actions[0].act, Act::Update);

    // Other addresses are another network.
    let moved = network("10.81.0.0/16", "two");
    world.bring(&moved).await;

    world.destroy(&moved).await;
}

#[tokio::test]
async fn what_somebody_changed_is_seen_and_mended() {
    let Some(world) = World::new("us-west-2").await else { return };
    let text = network("10.80.0.0/16", "one");
    let mut declared = text.clone();
    for resource in &mut declared.resources {
        if let Some(Value::String(zone)) = resource.inputs.get_mut("availability_zone") {
            *zone = zone.replace("us-east-2", "us-west-2");
        }
    }
    world.bring(&declared).await;
    let ec2 = aws_sdk_ec2::Client::new(world.account.config());
    let table = world.stacks.read(&declared.stack).await.unwrap().unwrap().state;
    let id = |name: &str| table.resources[&name.parse().unwrap()].outputs["id"].as_str().unwrap().to_owned();
    ec2.delete_route().route_table_id(id("public")).destination_cidr_block("0.0.0.0/0").send().await.unwrap();
    ec2.delete_tags()
        .resources(id("vpc"))
        .tags(aws_sdk_ec2::types::Tag::builder().key("note").build())
        .send()
        .await
        .unwrap();
    let call = ec2.revoke_security_group_ingress().group_id(id("web"));
    call.security_group_rule_ids(id("web-http")).send().await.unwrap();
    let preview = world.stacks.preview(&declared, &Wishes::default(), Refresh::Look).await.unwrap();
    let mut acts: Vec<String> =
        preview.plan.actions.iter().map(|action| format!("{} {}", action.act.verb(), action.name)).collect();
    acts.sort();
    assert_eq!(acts, ["create web-http", "forget web-http", "update public", "update vpc"]);
    world.bring(&declared).await;
    world.destroy(&declared).await;
}
