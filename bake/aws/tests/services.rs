//! Names, certificates, buckets, keys, parameters and secrets through the engine; and policies of roles.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail where something is amiss")]

mod support;

use std::sync::Arc;

use olbake_core::digest::Digest;
use olbake_core::secret::SecretId;
use olbake_core::stack::Declaration;
use olbake_core::stack::plan::Act;
use olbake_core::stack::planner::Wishes;
use serde_json::{Value, json};
use support::{World, declaration, output, resource};

/// The marker of a secret of the stack's configuration.
fn secret() -> SecretId {
    SecretId("config.password".to_owned())
}

fn services(ttl: u32, zone: &str, version: &str) -> Declaration {
    let trust = json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ec2.amazonaws.com"}}],
    });
    let may = json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [output("bucket", "arn")]}],
    });
    let record = |name: &str, records: Value| json!({"zone_id": output("zone", "id"), "name": format!("{name}.{zone}"), "ttl": ttl, "records": records});
    let mut declaration = declaration(
        "substructure.hello.QA",
        vec![
            resource("zone", "aws.hosted_zone", &json!({"name": zone})),
            resource("www", "aws.record", &record("www", json!(["192.0.2.1", "192.0.2.2"]))),
            resource("api", "aws.record", &record("api", json!(["192.0.2.3"]))),
            resource("certificate", "aws.certificate", &json!({"domain_name": format!("www.{zone}")})),
            resource(
                "bucket",
                "aws.bucket",
                &json!({"name": format!("files.{zone}"), "kms_key_id": output("key", "arn")}),
            ),
            resource("key", "aws.kms_key", &json!({"description": version})),
            resource(
                "alias",
                "aws.kms_alias",
                &json!({"name": "alias/hello", "key_id": output("key", "id")}),
            ),
            resource("version", "aws.parameter", &json!({"name": "/hello/version", "value": version})),
            resource(
                "hidden",
                "aws.parameter",
                &json!({"name": "/hello/hidden", "secret": secret().marker()}),
            ),
            resource(
                "password",
                "aws.secret",
                &json!({"name": "hello/password", "secret": secret().marker()}),
            ),
            resource("may", "aws.policy", &json!({"policy": may})),
            resource(
                "role",
                "aws.role",
                &json!({"assume_role_policy": trust, "managed_policy_arns": [output("may", "arn")]}),
            ),
        ],
        &[("zone", output("zone", "id"))],
    );
    declaration.secrets.insert(secret(), Digest::of(b"sealed"));
    declaration
}

async fn world(region: &str, password: &'static str) -> Option<World> {
    let mut world = World::new(region).await?;
    world.stacks.site.secrets = Arc::new(move |_| Ok(password.to_owned().into()));
    Some(world)
}

#[tokio::test]
async fn services_come_change_and_go() {
    let Some(world) = world("ap-south-1", "a good password").await else { return };
    world.bring(&services(300, "hello.example", "1")).await;
    let changed = world.bring(&services(60, "hello.example", "2")).await;
    let mut acts: Vec<String> =
        changed.plan.actions.iter().map(|action| format!("{} {}", action.act.verb(), action.name)).collect();
    acts.sort();
    assert_eq!(acts, ["update api", "update key", "update version", "update www"]);

    // A secret that somebody changed is mended, and shown by nobody.
    let secrets = aws_sdk_secretsmanager::Client::new(world.account.config());
    secrets.put_secret_value().secret_id("hello/password").secret_string("other").send().await.unwrap();
    let changed = world.bring(&services(60, "hello.example", "2")).await;
    assert_eq!(changed.plan.actions.len(), 1, "{:#?}", changed.plan.actions);
    assert_eq!(changed.plan.actions[0].act, Act::Update);
    assert!(!format!("{:?}", changed.plan).contains("other"));
    let found = secrets.get_secret_value().secret_id("hello/password").send().await.unwrap();
    assert_eq!(found.secret_string(), Some("a good password"));

    world.destroy(&services(60, "hello.example", "2")).await;
    // What can be had back is, when it is declared again.
    world.bring(&services(60, "hello.example", "2")).await;
    world.destroy(&services(60, "hello.example", "2")).await;
}

#[tokio::test]
async fn what_is_somebody_else_s_is_not_taken() {
    let Some(world) = world("ap-southeast-1", "a good password").await else { return };
    let ssm = aws_sdk_ssm::Client::new(world.account.config());
    let call = ssm.put_parameter().name("/theirs").value("precious");
    call.r#type(aws_sdk_ssm::types::ParameterType::String).send().await.unwrap();
    let parameter = resource("theirs", "aws.parameter", &json!({"name": "/theirs", "value": "ours"}));
    let declared = declaration("substructure.theirs.QA", vec![parameter], &[]);
    let error = world.change(&declared, &Wishes::default()).await.unwrap_err();
    assert!(format!("{error:?}").contains("is not this resource's"), "{error:?}");
    let found = ssm.get_parameter().name("/theirs").send().await.unwrap();
    assert_eq!(found.parameter().and_then(|parameter| parameter.value()), Some("precious"));
    assert!(world.stacks.read(&declared.stack).await.unwrap().unwrap().state.resources.is_empty());
}
