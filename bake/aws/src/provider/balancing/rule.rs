//! `aws.listener_rule`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_sdk_elasticloadbalancingv2::types::{
    HostHeaderConditionConfig, PathPatternConditionConfig, Rule as Seen, RuleCondition,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which, set};
use super::super::owner::Owner;
use super::super::problem::{Problem, problem};
use super::actions::{self, Shares};
use super::{known, listener, owners, tags, unless_absent};

pub(super) struct ListenerRule;

#[derive(Deserialize)]
struct Rule {
    listener_arn: String,
    priority: i32,
    hosts: Vec<String>,
    paths: Vec<String>,
    target_group_arns: Vec<String>,
}

impl Rule {
    fn conditions(&self) -> Vec<RuleCondition> {
        let some = |values: &Vec<String>| (!values.is_empty()).then(|| values.clone());
        let hosts = some(&self.hosts).map(|hosts| {
            let config = HostHeaderConditionConfig::builder().set_values(Some(hosts)).build();
            RuleCondition::builder().field("host-header").host_header_config(config).build()
        });
        let paths = some(&self.paths).map(|paths| {
            let config = PathPatternConditionConfig::builder().set_values(Some(paths)).build();
            RuleCondition::builder().field("path-pattern").path_pattern_config(config).build()
        });
        hosts.into_iter().chain(paths).collect()
    }
}

async fn of_listener(aws: &Aws, arn: &str) -> Result<Vec<Seen>, Problem> {
    let call = aws.balancing.describe_rules().listener_arn(arn).into_paginator().items().send();
    let found = call.collect::<Result<Vec<_>, _>>().await;
    Ok(unless_absent(found.map_err(problem("elasticloadbalancing:DescribeRules")))?.unwrap_or_default())
}

fn sighting(seen: &Seen, listener: &str, owner: Owner) -> Option<Sighting> {
    let arn = seen.rule_arn()?;
    let mut hosts = Vec::new();
    let mut paths = Vec::new();
    for condition in seen.conditions() {
        hosts.extend(condition.host_header_config().into_iter().flat_map(|config| config.values().to_vec()));
        paths.extend(condition.path_pattern_config().into_iter().flat_map(|config| config.values().to_vec()));
    }
    let inputs = json!({
        "listener_arn": listener,
        "priority": seen.priority().and_then(|priority| priority.parse::<i32>().ok()),
        "hosts": set(hosts.into_iter().map(Value::from)),
        "paths": set(paths.into_iter().map(Value::from)),
        "target_group_arns": actions::seen(&actions::divided(seen.actions())),
    });
    Some(Sighting::new(owner, arn, inputs).gives("arn", arn))
}

#[async_trait]
impl Kind for ListenerRule {
    fn is_anonymous(&self) -> bool {
        true
    }

    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let mut found = Vec::new();
        if matches!(which, Which::All) {
            for listener in listener::all_ours(aws).await? {
                let arn = listener.listener_arn().unwrap_or_default();
                let rules = of_listener(aws, arn).await?;
                let arns: Vec<String> =
                    rules.iter().filter_map(|seen| seen.rule_arn().map(str::to_owned)).collect();
                let owners = owners(aws, &arns).await?;
                let see = |seen: &Seen| sighting(seen, arn, owners.get(seen.rule_arn()?)?.clone());
                found.extend(rules.iter().filter_map(see));
            }
            return Ok(found);
        }
        let mut by_listener: BTreeMap<&str, Vec<&Wanted<'_>>> = BTreeMap::new();
        for wanted in which.wanted() {
            if let Some(arn) = known(wanted, "listener_arn") {
                by_listener.entry(arn).or_default().push(wanted);
            }
        }
        for (arn, all) in by_listener {
            let rules = of_listener(aws, arn).await?;
            let see = |wanted: &&Wanted<'_>| {
                let priority = wanted.inputs.get("priority").map(Value::to_string);
                let has = |seen: &&Seen| seen.priority() == priority.as_deref();
                sighting(rules.iter().find(has)?, arn, Owner::of(wanted.object))
            };
            found.extend(all.iter().filter_map(see));
        }
        Ok(found)
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let rule: Rule = wanted.read("elasticloadbalancing:CreateRule")?;
        let shares = actions::shared(&Shares::new(), &rule.target_group_arns);
        let call = aws.balancing.create_rule().listener_arn(&rule.listener_arn).priority(rule.priority);
        let call = call.set_conditions(Some(rule.conditions())).actions(actions::forward(&shares));
        let call = call.set_tags(Some(tags(wanted)));
        call.send().await.map_err(problem("elasticloadbalancing:CreateRule")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        if there.inputs == *wanted.inputs {
            return Ok(Settled::Already);
        }
        let rule: Rule = wanted.read("elasticloadbalancing:ModifyRule")?;
        let shares = actions::shares(aws, &there.native).await?;
        let shares = actions::shared(&shares, &rule.target_group_arns);
        let call = aws.balancing.modify_rule().rule_arn(&there.native);
        let call = call.set_conditions(Some(rule.conditions())).actions(actions::forward(&shares));
        call.send().await.map_err(problem("elasticloadbalancing:ModifyRule"))?;
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.balancing.delete_rule().rule_arn(&there.native);
        call.send().await.map_err(problem("elasticloadbalancing:DeleteRule")).map(drop)
    }
}
