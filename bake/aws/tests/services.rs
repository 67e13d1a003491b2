//! What has a name and nothing that says whose it is: somebody else's is not taken.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail where something is amiss")]

mod support;

use std::sync::Arc;

use olbake_core::stack::planner::Wishes;
use serde_json::json;
use support::{World, declaration, resource};

async fn world(region: &str, password: &'static str) -> Option<World> {
    let mut world = World::new(region).await?;
    world.stacks.site.secrets = Arc::new(move |_| Ok(password.to_owned().into()));
    Some(world)
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
