//! A service through the engine: roles, a launch template, an Auto Scaling group behind a load balancer; upgraded by
//! every strategy, and removed with everything that it had.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail where something is amiss")]

mod support;

use std::collections::BTreeMap;

use aws_sdk_ec2::types::InstanceStateName;
use olbake_core::stack::Declaration;
use serde_json::{Value, json};
use support::{World, declaration, image, output, resource};

/// What hello is to be.
struct Hello {
    region: &'static str,
    image: &'static str,
    size: u32,
    strategy: Value,
    instance_type: &'static str,
    /// Who replaces instances, if not the rollout.
    delegate: Option<&'static str>,
}

impl Hello {
    fn new(region: &'static str) -> Self {
        let strategy = json!({"kind": "rolling"});
        Self { region, image: "one", size: 2, strategy, instance_type: "t3.micro", delegate: None }
    }

    fn subnet(&self, name: &str, number: u8, zone: &str) -> olbake_core::stack::declare::Declared {
        let cidr = format!("10.90.{number}.0/24");
        let zone = format!("{}{zone}", self.region);
        resource(
            name,
            "aws.subnet",
            &json!({"vpc_id": output("vpc", "id"), "cidr": cidr, "availability_zone": zone}),
        )
    }

    fn targets(name: &str) -> olbake_core::stack::declare::Declared {
        let inputs = json!({"vpc_id": output("vpc", "id"), "port": 80, "health_check": {"path": "/health"}});
        resource(name, "aws.target_group", &inputs)
    }

    fn declare(&self) -> Declaration {
        let subnets = json!([output("a", "id"), output("b", "id")]);
        let trust = json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ec2.amazonaws.com"},
            }],
        });
        let may = json!({
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": ["ssm:GetParameter"], "Resource": "*"}],
        });
        let group = json!({
            "image": {"image": "web", "digest": image(self.image)},
            "size": self.size,
            "launch_template": {"id": output("template", "id"), "version": output("template", "version")},
            "subnet_ids": subnets,
            "load_balancer": {
                "target_group_arn": output("blue", "id"),
                "idle_target_group_arn": output("green", "id"),
                "listener_arn": output("listener", "id"),
            },
            "strategy": self.strategy,
            "delegate": self.delegate,
            "lifecycle_hooks": [{"name": "leave", "timeout": 60}],
            "rollout": {
                "min_ready": "100ms", "bake": "100ms", "drain_timeout": "1s", "health_deadline": "20s",
            },
        });
        declaration(
            // Roles are of the whole account: each region's hello is a stack of its own.
            &format!("applications.hello.{}", self.region),
            vec![
                resource("vpc", "aws.vpc", &json!({"cidr": "10.90.0.0/16"})),
                self.subnet("a", 1, "a"),
                self.subnet("b", 2, "b"),
                resource("group/web", "aws.security_group", &json!({"vpc_id": output("vpc", "id")})),
                resource("role", "aws.role", &json!({"assume_role_policy": trust})),
                resource("may", "aws.role_policy", &json!({"role": output("role", "id"), "policy": may})),
                resource("profile", "aws.instance_profile", &json!({"role": output("role", "id")})),
                resource(
                    "template",
                    "aws.launch_template",
                    &json!({
                        "instance_type": self.instance_type,
                        "security_group_ids": [output("group/web", "id")],
                        "instance_profile": output("profile", "id"),
                        "user_data": "#cloud-config\n",
                    }),
                ),
                resource("balancer", "aws.load_balancer", &json!({"subnet_ids": subnets})),
                Self::targets("blue"),
                Self::targets("green"),
                resource(
                    "listener",
                    "aws.listener",
                    &json!({
                        "load_balancer_arn": output("balancer", "id"), "port": 80,
                        "target_group_arns": [output("blue", "id"), output("green", "id")],
                    }),
                ),
                resource("web", "aws.auto_scaling_group", &group),
            ],
            &[("url", output("balancer", "dns_name"))],
        )
    }
}

/// Instances that run, by image.
async fn running(world: &World) -> BTreeMap<String, usize> {
    let ec2 = aws_sdk_ec2::Client::new(world.account.config());
    let found = ec2.describe_instances().send().await.unwrap();
    let mut count = BTreeMap::new();
    for instance in found.reservations().iter().flat_map(|all| all.instances()) {
        let state = instance.state().and_then(|state| state.name());
        if !matches!(state, Some(InstanceStateName::Terminated | InstanceStateName::ShuttingDown)) {
            *count.entry(instance.image_id().unwrap().to_owned()).or_default() += 1;
        }
    }
    count
}

/// The group's members, and how many it wants.
async fn members(world: &World) -> (usize, i32) {
    let scaling = aws_sdk_autoscaling::Client::new(world.account.config());
    let found = scaling.describe_auto_scaling_groups().send().await.unwrap();
    let [group] = found.auto_scaling_groups() else { panic!("{found:?}") };
    (group.instances().len(), group.desired_capacity().unwrap())
}

async fn check(world: &World, hello: &Hello) {
    world.bring(&hello.declare()).await;
    let size = usize::try_from(hello.size).unwrap();
    let running = running(world).await;
    assert_eq!(running.values().sum::<usize>(), size, "{running:?}");
    assert_eq!(running.len(), 1, "{running:?}");
    assert_eq!(members(world).await, (size, i32::try_from(hello.size).unwrap()));
}

#[tokio::test]
async fn hello_comes_is_upgraded_and_goes() {
    let Some(world) = World::new("eu-west-1").await else { return };
    let mut hello = Hello::new("eu-west-1");
    check(&world, &hello).await;
    hello.image = "two";
    check(&world, &hello).await;
    hello.size = 3;
    check(&world, &hello).await;
    // Another template is another release, though the image is the same.
    hello.instance_type = "t3.small";
    check(&world, &hello).await;
    world.destroy(&hello.declare()).await;
    assert!(running(&world).await.is_empty());
}

#[tokio::test]
async fn blue_and_green_share_requests_by_weights() {
    let Some(world) = World::new("eu-central-1").await else { return };
    let mut hello = Hello::new("eu-central-1");
    hello.strategy =
        json!({"kind": "blue_green", "weights": [50, 100], "bake": "100ms", "keep_old": "100ms"});
    check(&world, &hello).await;
    for image in ["two", "one"] {
        hello.image = image;
        check(&world, &hello).await;
    }
    world.destroy(&hello.declare()).await;
}

#[tokio::test]
async fn other_strategies_bring_the_release_too() {
    let Some(world) = World::new("eu-north-1").await else { return };
    let mut hello = Hello::new("eu-north-1");
    check(&world, &hello).await;
    for (image, strategy) in [
        ("two", json!({"kind": "canary", "steps": ["1"], "bake": "100ms"})),
        ("three", json!({"kind": "recreate"})),
    ] {
        (hello.image, hello.strategy) = (image, strategy);
        check(&world, &hello).await;
    }
    world.destroy(&hello.declare()).await;
}

#[tokio::test]
async fn auto_scaling_replaces_the_instances_where_it_is_told_to() {
    let Some(world) = World::new("us-west-2").await else { return };
    let mut hello = Hello::new("us-west-2");
    hello.delegate = Some("instance_refresh");
    check(&world, &hello).await;
    for image in ["two", "one"] {
        hello.image = image;
        check(&world, &hello).await;
    }
    let scaling = aws_sdk_autoscaling::Client::new(world.account.config());
    let groups = scaling.describe_auto_scaling_groups().send().await.unwrap();
    let name = groups.auto_scaling_groups()[0].auto_scaling_group_name().unwrap();
    let refreshes = scaling.describe_instance_refreshes().auto_scaling_group_name(name).send().await.unwrap();
    let statuses: Vec<&str> = refreshes
        .instance_refreshes()
        .iter()
        .filter_map(|refresh| Some(refresh.status()?.as_str()))
        .collect();
    assert_eq!(statuses, ["Successful", "Successful"]);
    world.destroy(&hello.declare()).await;
}
