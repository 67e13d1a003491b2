//! `aws.target_group`.

use async_trait::async_trait;
use aws_sdk_elasticloadbalancingv2::types::{
    Matcher, ProtocolEnum, TargetGroup as Seen, TargetGroupAttribute, TargetTypeEnum,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::super::problem::{Problem, problem};
use super::{owners_by_name, tags, unless_absent};

pub(super) struct TargetGroup;

#[derive(Deserialize)]
struct Group {
    vpc_id: String,
    port: i32,
    protocol: String,
    target_type: String,
    health_check: Check,
    deregistration_delay: i32,
}

/// How targets are checked.
#[derive(Deserialize)]
struct Check {
    protocol: Option<String>,
    path: Option<String>,
    port: Option<i32>,
    interval: i32,
    timeout: i32,
    healthy_threshold: i32,
    unhealthy_threshold: i32,
    matcher: Option<String>,
}

/// The port on which a target has its requests.
const TRAFFIC: &str = "traffic-port";

impl Check {
    fn port(&self) -> String {
        self.port.map_or_else(|| TRAFFIC.to_owned(), |port| port.to_string())
    }

    fn matcher(&self) -> Option<Matcher> {
        self.matcher.as_ref().map(|codes| Matcher::builder().http_code(codes).build())
    }
}

fn seen_check(seen: &Seen, given: Option<&Value>) -> Value {
    // What was not given is AWS's to choose.
    let chosen = |name: &str| given.is_some_and(|given| !given[name].is_null());
    let when = |name: &str, value: Value| if chosen(name) { value } else { Value::Null };
    let port = seen.health_check_port().and_then(|port| port.parse::<i32>().ok());
    json!({
        "protocol": when("protocol", json!(seen.health_check_protocol().map(ProtocolEnum::as_str))),
        "path": when("path", json!(seen.health_check_path())),
        "port": when("port", json!(port)),
        "interval": seen.health_check_interval_seconds(),
        "timeout": seen.health_check_timeout_seconds(),
        "healthy_threshold": seen.healthy_threshold_count(),
        "unhealthy_threshold": seen.unhealthy_threshold_count(),
        "matcher": when("matcher", json!(seen.matcher().and_then(|matcher| matcher.http_code()))),
    })
}

#[async_trait]
impl Kind for TargetGroup {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.balancing.describe_target_groups();
        let call = match which.only() {
            Some(only) => call.names(only.id().as_str()),
            None => call.page_size(400),
        };
        let found = call.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
        let found = found.map_err(problem("elasticloadbalancing:DescribeTargetGroups"));
        let groups = unless_absent(found)?.unwrap_or_default();
        let named =
            |seen: &Seen| Some((seen.target_group_name()?.to_owned(), seen.target_group_arn()?.to_owned()));
        let named: Vec<_> = groups.iter().filter_map(named).collect();
        let owners = owners_by_name(aws, which, &named).await?;
        let see = |seen: &Seen| {
            let arn = seen.target_group_arn()?;
            let owner = owners.get(arn)?.clone();
            let wanted = which.wanted().iter().find(|wanted| *wanted.id() == owner.id);
            let given = wanted.and_then(|wanted| wanted.inputs.get("health_check"));
            let inputs = json!({
                "vpc_id": seen.vpc_id(),
                "port": seen.port(),
                "protocol": seen.protocol().map(ProtocolEnum::as_str),
                "target_type": seen.target_type().map(TargetTypeEnum::as_str),
                "health_check": seen_check(seen, given),
            });
            Some(Sighting::new(owner, arn, inputs).gives("arn", arn))
        };
        Ok(groups.iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let action = "elasticloadbalancing:CreateTargetGroup";
        let Group { vpc_id, port, protocol, target_type, health_check, .. } = wanted.read(action)?;
        let call = aws.balancing.create_target_group().name(wanted.id().as_str()).vpc_id(vpc_id).port(port);
        let call = call.protocol(protocol.as_str().into()).target_type(target_type.as_str().into());
        let call = call.set_health_check_protocol(health_check.protocol.as_deref().map(ProtocolEnum::from));
        let call = call.set_health_check_path(health_check.path.clone());
        let call = call.health_check_port(health_check.port());
        let call = call.health_check_interval_seconds(health_check.interval);
        let call = call.health_check_timeout_seconds(health_check.timeout);
        let call = call.healthy_threshold_count(health_check.healthy_threshold);
        let call = call.unhealthy_threshold_count(health_check.unhealthy_threshold);
        let call = call.set_matcher(health_check.matcher()).set_tags(Some(tags(wanted)));
        call.send().await.map_err(problem(action)).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let Group { health_check, deregistration_delay, .. } =
            wanted.read("elasticloadbalancing:ModifyTargetGroup")?;
        let delay = TargetGroupAttribute::builder().key("deregistration_delay.timeout_seconds");
        let delay = delay.value(deregistration_delay.to_string()).build();
        let call = aws.balancing.modify_target_group_attributes().target_group_arn(&there.native);
        let call = call.attributes(delay);
        call.send().await.map_err(problem("elasticloadbalancing:ModifyTargetGroupAttributes"))?;
        if there.inputs.get("health_check") == wanted.inputs.get("health_check") {
            return Ok(Settled::Already);
        }
        let call = aws.balancing.modify_target_group().target_group_arn(&there.native);
        let call = call.set_health_check_protocol(health_check.protocol.as_deref().map(ProtocolEnum::from));
        let call = call.set_health_check_path(health_check.path.clone());
        let call = call.health_check_port(health_check.port());
        let call = call.health_check_interval_seconds(health_check.interval);
        let call = call.health_check_timeout_seconds(health_check.timeout);
        let call = call.healthy_threshold_count(health_check.healthy_threshold);
        let call = call.unhealthy_threshold_count(health_check.unhealthy_threshold);
        let call = call.set_matcher(health_check.matcher());
        call.send().await.map_err(problem("elasticloadbalancing:ModifyTargetGroup"))?;
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.balancing.delete_target_group().target_group_arn(&there.native);
        call.send().await.map_err(problem("elasticloadbalancing:DeleteTargetGroup")).map(drop)
    }
}
