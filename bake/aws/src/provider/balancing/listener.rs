//! `aws.listener`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_sdk_elasticloadbalancingv2::types::{
    Action, ActionTypeEnum, Certificate, Listener as Seen, ProtocolEnum,
};
use serde::Deserialize;
use serde_json::json;

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::super::owner::Owner;
use super::super::problem::{Problem, problem};
use super::actions::{self, Shares};
use super::{balancer, known, owners, owners_by_name, tags, unless_absent};

pub(super) struct Listener;

#[derive(Deserialize)]
struct Listens {
    load_balancer_arn: String,
    port: i32,
    protocol: String,
    certificate_arn: Option<String>,
    ssl_policy: Option<String>,
    target_group_arns: Vec<String>,
    redirect_to_https: bool,
}

impl Listens {
    /// What it does; requests stay divided as they are.
    fn action(&self, there: &Shares) -> Action {
        match (self.redirect_to_https, self.target_group_arns.is_empty()) {
            (true, _) => actions::to_https(),
            (false, true) => actions::nothing(),
            (false, false) => actions::forward(&actions::shared(there, &self.target_group_arns)),
        }
    }

    fn certificates(&self) -> Option<Vec<Certificate>> {
        let arn = self.certificate_arn.as_ref()?;
        Some(vec![Certificate::builder().certificate_arn(arn).build()])
    }
}

/// All listeners of a load balancer.
pub(super) async fn of_balancer(aws: &Aws, arn: &str) -> Result<Vec<Seen>, Problem> {
    let call = aws.balancing.describe_listeners().load_balancer_arn(arn).into_paginator().items().send();
    let found = call.collect::<Result<Vec<_>, _>>().await;
    Ok(unless_absent(found.map_err(problem("elasticloadbalancing:DescribeListeners")))?.unwrap_or_default())
}

/// The listeners that are ours: those of our load balancers.
pub(super) async fn all_ours(aws: &Aws) -> Result<Vec<Seen>, Problem> {
    let balancers = balancer::describe(aws, Which::All).await?;
    let named = balancers.iter().filter_map(|seen| {
        Some((seen.load_balancer_name()?.to_owned(), seen.load_balancer_arn()?.to_owned()))
    });
    let named: Vec<_> = named.collect();
    let mut found = Vec::new();
    for arn in owners_by_name(aws, Which::All, &named).await?.into_keys() {
        found.extend(of_balancer(aws, &arn).await?);
    }
    Ok(found)
}

fn sighting(seen: &Seen, owner: Owner) -> Option<Sighting> {
    let arn = seen.listener_arn()?;
    let actions = seen.default_actions();
    let redirects = actions.iter().any(|action| action.r#type() == Some(&ActionTypeEnum::Redirect));
    let inputs = json!({
        "load_balancer_arn": seen.load_balancer_arn(),
        "port": seen.port(),
        "protocol": seen.protocol().map(ProtocolEnum::as_str),
        "certificate_arn": seen.certificates().first().and_then(|certificate| certificate.certificate_arn()),
        "ssl_policy": seen.ssl_policy(),
        "target_group_arns": actions::seen(&actions::divided(actions)),
        "redirect_to_https": redirects,
    });
    Some(Sighting::new(owner, arn, inputs).gives("arn", arn))
}

#[async_trait]
impl Kind for Listener {
    fn is_anonymous(&self) -> bool {
        true
    }

    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        if matches!(which, Which::All) {
            let listeners = all_ours(aws).await?;
            let arns: Vec<String> =
                listeners.iter().filter_map(|seen| seen.listener_arn().map(str::to_owned)).collect();
            let owners = owners(aws, &arns).await?;
            let see = |seen: &Seen| sighting(seen, owners.get(seen.listener_arn()?)?.clone());
            return Ok(listeners.iter().filter_map(see).collect());
        }
        let mut by_balancer: BTreeMap<&str, Vec<&Wanted<'_>>> = BTreeMap::new();
        for wanted in which.wanted() {
            if let Some(arn) = known(wanted, "load_balancer_arn") {
                by_balancer.entry(arn).or_default().push(wanted);
            }
        }
        let mut found = Vec::new();
        for (arn, all) in by_balancer {
            let listeners = of_balancer(aws, arn).await?;
            let see = |wanted: &&Wanted<'_>| {
                let has =
                    |seen: &&Seen| seen.port().map(|port| json!(port)).as_ref() == wanted.inputs.get("port");
                sighting(listeners.iter().find(has)?, Owner::of(wanted.object))
            };
            found.extend(all.iter().filter_map(see));
        }
        Ok(found)
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let listens: Listens = wanted.read("elasticloadbalancing:CreateListener")?;
        let call = aws.balancing.create_listener().load_balancer_arn(&listens.load_balancer_arn);
        let call = call.port(listens.port).protocol(listens.protocol.as_str().into());
        let call = call.set_certificates(listens.certificates()).set_ssl_policy(listens.ssl_policy.clone());
        let call = call.default_actions(listens.action(&Shares::new())).set_tags(Some(tags(wanted)));
        call.send().await.map_err(problem("elasticloadbalancing:CreateListener")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let asked = wanted.inputs.iter().filter(|(_, value)| !value.is_null());
        if asked.clone().all(|(name, value)| there.inputs.get(name) == Some(value)) {
            return Ok(Settled::Already);
        }
        let listens: Listens = wanted.read("elasticloadbalancing:ModifyListener")?;
        let shares = actions::shares(aws, &there.native).await?;
        let call = aws.balancing.modify_listener().listener_arn(&there.native);
        let call = call.protocol(listens.protocol.as_str().into());
        let call = call.set_certificates(listens.certificates()).set_ssl_policy(listens.ssl_policy.clone());
        let call = call.default_actions(listens.action(&shares));
        call.send().await.map_err(problem("elasticloadbalancing:ModifyListener"))?;
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.balancing.delete_listener().listener_arn(&there.native);
        call.send().await.map_err(problem("elasticloadbalancing:DeleteListener")).map(drop)
    }
}
