//! `aws.load_balancer`.

use async_trait::async_trait;
use aws_sdk_elasticloadbalancingv2::types::{
    LoadBalancer as Seen, LoadBalancerAttribute, LoadBalancerSchemeEnum, LoadBalancerStateEnum,
    LoadBalancerTypeEnum,
};
use serde_json::{Value, json};

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Stage, Wanted, Which, set};
use super::super::problem::{Problem, problem};
use super::{owners_by_name, tags, unless_absent};

pub(super) struct LoadBalancer;

fn stage(balancer: &Seen) -> Stage {
    match balancer.state().and_then(|state| state.code()) {
        Some(LoadBalancerStateEnum::Provisioning) => Stage::Coming,
        Some(LoadBalancerStateEnum::Failed) => {
            let why = balancer.state().and_then(|state| state.reason());
            Stage::Broken(why.unwrap_or("it failed").to_owned())
        }
        _ => Stage::Ready,
    }
}

/// Load balancers: the one that is asked for, or all.
pub(super) async fn describe(aws: &Aws, which: Which<'_>) -> Result<Vec<Seen>, Problem> {
    let action = "elasticloadbalancing:DescribeLoadBalancers";
    let call = aws.balancing.describe_load_balancers();
    let call = match which.only() {
        Some(only) => call.names(only.id().as_str()),
        None => call.page_size(400),
    };
    let found = call.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    Ok(unless_absent(found.map_err(problem(action)))?.unwrap_or_default())
}

#[async_trait]
impl Kind for LoadBalancer {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let balancers = describe(aws, which).await?;
        let named =
            |seen: &Seen| Some((seen.load_balancer_name()?.to_owned(), seen.load_balancer_arn()?.to_owned()));
        let named: Vec<_> = balancers.iter().filter_map(named).collect();
        let owners = owners_by_name(aws, which, &named).await?;
        let see = |seen: &Seen| {
            let arn = seen.load_balancer_arn()?;
            let zones = seen.availability_zones().iter();
            let subnets = zones.filter_map(|zone| zone.subnet_id()).map(Value::from);
            let inputs = json!({
                "subnet_ids": set(subnets),
                "security_group_ids": set(seen.security_groups().iter().cloned().map(Value::from)),
                "scheme": seen.scheme().map(LoadBalancerSchemeEnum::as_str),
                "type": seen.r#type().map(LoadBalancerTypeEnum::as_str),
            });
            Some(
                Sighting::new(owners.get(arn)?.clone(), arn, inputs)
                    .at(stage(seen))
                    .gives("arn", arn)
                    .gives("dns_name", seen.dns_name())
                    .gives("zone_id", seen.canonical_hosted_zone_id()),
            )
        };
        Ok(balancers.iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let groups = wanted.texts("security_group_ids");
        let call = aws.balancing.create_load_balancer().name(wanted.id().as_str());
        let call = call.set_subnets(Some(wanted.texts("subnet_ids")));
        let call = call.set_security_groups((!groups.is_empty()).then_some(groups));
        let call = call.set_scheme(wanted.text("scheme").map(LoadBalancerSchemeEnum::from));
        let call = call.set_type(wanted.text("type").map(LoadBalancerTypeEnum::from));
        let call = call.set_tags(Some(tags(wanted)));
        call.send().await.map_err(problem("elasticloadbalancing:CreateLoadBalancer")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let differs = |name: &str| there.inputs.get(name) != wanted.inputs.get(name);
        let mut settled = Settled::Already;
        if differs("subnet_ids") {
            let call = aws.balancing.set_subnets().load_balancer_arn(&there.native);
            let call = call.set_subnets(Some(wanted.texts("subnet_ids")));
            call.send().await.map_err(problem("elasticloadbalancing:SetSubnets"))?;
            settled = Settled::Now;
        }
        let groups = wanted.texts("security_group_ids");
        if differs("security_group_ids") && !groups.is_empty() {
            let call = aws.balancing.set_security_groups().load_balancer_arn(&there.native);
            let call = call.set_security_groups(Some(groups));
            call.send().await.map_err(problem("elasticloadbalancing:SetSecurityGroups"))?;
            settled = Settled::Now;
        }
        if wanted.text("type") == Some("application") {
            let seconds = wanted.inputs.get("idle_timeout").map(Value::to_string);
            let attribute = LoadBalancerAttribute::builder().key("idle_timeout.timeout_seconds");
            let call = aws.balancing.modify_load_balancer_attributes().load_balancer_arn(&there.native);
            let call = call.attributes(attribute.set_value(seconds).build());
            call.send().await.map_err(problem("elasticloadbalancing:ModifyLoadBalancerAttributes"))?;
        }
        Ok(settled)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.balancing.delete_load_balancer().load_balancer_arn(&there.native);
        call.send().await.map_err(problem("elasticloadbalancing:DeleteLoadBalancer")).map(drop)
    }
}
