//! `aws.auto_scaling_group`: instances that Auto Scaling keeps alive and rollouts replace.
//!
//! The group's own template version and what a rollout launches are the same, pinned: an instance that Auto Scaling
//! starts by itself is of the release that runs. A rollout launches instances beside the group, and has them join
//! once they are healthy; when they leave, they leave the group first, so that it starts no other in their place.
//! So the group's capacity is always what is in service. Nothing scales it by itself: its minimum is 0, and its
//! maximum has room for every surge.

mod fleet;
mod instances;
mod refresh;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use aws_sdk_autoscaling::types::{
    AutoScalingGroup, Filter, LaunchTemplateSpecification, LifecycleHookSpecification, Tag,
};
use olbake_engine::stack::group;
use olbake_engine::stack::provider::Object;
use serde::Deserialize;
use serde_json::{Value, json};

use super::clients::Aws;
use super::ec2::{Release, release_version};
use super::kind::{Kind, Settled, Sighting, Stage, Wanted, Which, set};
use super::owner::{self, Owner, Tags};
use super::problem::{Nature, Problem, problem};

/// The types of this folder.
pub(super) const KINDS: &[(&str, &dyn Kind)] = &[("aws.auto_scaling_group", &Group)];

/// The tag of instances that names their group.
const GROUP: &str = "olbake:group";
/// The tag of instances that names what the rollout calls them. Those that Auto Scaling started have none.
const INSTANCE: &str = "olbake:instance";
/// The tag of instances with the digest of their release.
const RELEASE: &str = "olbake:release";
/// The tag of instances with the digest of their image.
const IMAGE: &str = "olbake:image";
/// The tag of instances with their place.
const SLOT: &str = "olbake:slot";

pub(super) struct Group;

/// A group's properties.
#[derive(Clone, Debug, Deserialize)]
struct Properties {
    image: group::Image,
    size: i32,
    launch_template: Template,
    subnet_ids: Vec<String>,
    load_balancer: Option<Behind>,
    lifecycle_hooks: Vec<Hook>,
    health_check_type: String,
    health_check_grace_period: i32,
    strategy: Strategy,
}

/// The launch template, pinned.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Template {
    id: String,
    version: i64,
}

/// What stands in front of a group.
#[derive(Clone, Debug, Deserialize)]
struct Behind {
    target_group_arn: String,
    idle_target_group_arn: Option<String>,
    listener_arn: Option<String>,
}

impl Behind {
    /// All target groups.
    fn targets(&self) -> Vec<String> {
        [Some(&self.target_group_arn), self.idle_target_group_arn.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

#[derive(Clone, Debug, Deserialize)]
struct Hook {
    name: String,
    transition: String,
    timeout: i32,
    default_result: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Strategy {
    max_surge: i32,
}

impl Properties {
    fn subnets(&self) -> String {
        self.subnet_ids.join(",")
    }

    /// Room for every surge: blue-green has the group twice.
    fn maximum(&self) -> i32 {
        self.size.saturating_mul(2).saturating_add(self.strategy.max_surge.max(1))
    }

    fn transition(word: &str) -> String {
        format!("autoscaling:EC2_INSTANCE_{}", word.to_ascii_uppercase())
    }
}

/// Tags of a group's instances, whoever starts them.
fn instance_tags(group: &Object, image: &str, release: &str) -> Tags {
    Tags::from([
        (GROUP.to_owned(), group.id.to_string()),
        (owner::STACK.to_owned(), group.stack.to_string()),
        (IMAGE.to_owned(), image.to_owned()),
        (RELEASE.to_owned(), release.to_owned()),
        ("Name".to_owned(), group.name.to_string()),
    ])
}

/// The version that the group itself launches, of a release.
async fn pinned(
    aws: &Aws,
    group: &Object,
    properties: &Properties,
    release: &str,
) -> Result<LaunchTemplateSpecification, Problem> {
    let Properties { image, launch_template: Template { id, version }, .. } = properties;
    let ami = aws.ami(&image.digest).await?;
    let tags = instance_tags(group, &image.digest.to_string(), release);
    let release = Release { template: id, version: *version, ami: &ami, tags: &tags };
    let number = release_version(aws, &release).await?;
    Ok(LaunchTemplateSpecification::builder().launch_template_id(id).version(number.to_string()).build())
}

/// The group with a name.
async fn describe(aws: &Aws, name: &str) -> Result<Option<AutoScalingGroup>, Problem> {
    let call = aws.scaling.describe_auto_scaling_groups().auto_scaling_group_names(name);
    let found = call.send().await.map_err(problem("autoscaling:DescribeAutoScalingGroups"))?;
    Ok(found.auto_scaling_groups().first().cloned())
}

fn tags(wanted: &Wanted<'_>) -> Vec<Tag> {
    let tag = |(key, value): (&String, &String)| {
        Tag::builder()
            .key(key)
            .value(value)
            .resource_id(wanted.id().as_str())
            .resource_type("auto-scaling-group")
            .propagate_at_launch(false)
            .build()
    };
    owner::tags(wanted.object, wanted.inputs).iter().map(tag).collect()
}

fn tags_of(group: &AutoScalingGroup) -> Tags {
    let tag = |tag: &aws_sdk_autoscaling::types::TagDescription| {
        Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()))
    };
    group.tags().iter().filter_map(tag).collect()
}

fn sighting(group: &AutoScalingGroup) -> Option<Sighting> {
    let tags = tags_of(group);
    let subnets = group.vpc_zone_identifier().unwrap_or_default().split(',').filter(|id| !id.is_empty());
    let inputs = json!({
        "subnet_ids": set(subnets.map(Value::from)),
        "health_check_type": group.health_check_type().map(str::to_ascii_lowercase),
        "health_check_grace_period": group.health_check_grace_period(),
        "tags": owner::seen(&tags),
    });
    // What is being removed has a status; nothing else has.
    let stage = if group.status().is_some() { Stage::Going } else { Stage::Ready };
    let name = group.auto_scaling_group_name()?;
    let seen = Sighting::new(Owner::read(&tags)?, name, inputs).at(stage);
    Some(seen.gives("arn", group.auto_scaling_group_arn()))
}

#[async_trait]
impl Kind for Group {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.scaling.describe_auto_scaling_groups();
        let call = match which {
            Which::These([only]) => call.auto_scaling_group_names(only.id().as_str()),
            Which::These([first, ..]) => {
                let stack = first.object.stack.to_string();
                call.filters(Filter::builder().name(format!("tag:{}", owner::STACK)).values(stack).build())
            }
            _ => call.filters(Filter::builder().name("tag-key").values(owner::ID).build()),
        };
        let found =
            call.max_records(100).into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
        let found = found.map_err(problem("autoscaling:DescribeAutoScalingGroups"))?;
        Ok(found.iter().filter_map(sighting).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let action = "autoscaling:CreateAutoScalingGroup";
        let properties: Properties = wanted.read(action)?;
        let hook = |hook: &Hook| {
            LifecycleHookSpecification::builder()
                .lifecycle_hook_name(&hook.name)
                .lifecycle_transition(Properties::transition(&hook.transition))
                .heartbeat_timeout(hook.timeout)
                .default_result(hook.default_result.to_ascii_uppercase())
                .build()
        };
        let hooks: Vec<_> = properties.lifecycle_hooks.iter().map(hook).collect();
        let targets = properties.load_balancer.as_ref().map(|behind| vec![behind.target_group_arn.clone()]);
        let call = aws.scaling.create_auto_scaling_group().auto_scaling_group_name(wanted.id().as_str());
        let call = call.launch_template(pinned(aws, wanted.object, &properties, "none").await?);
        let call = call.min_size(0).desired_capacity(0).max_size(properties.maximum());
        let call = call.vpc_zone_identifier(properties.subnets());
        let call = call.set_target_group_arns(targets);
        let call = call.health_check_type(properties.health_check_type.to_ascii_uppercase());
        let call = call.health_check_grace_period(properties.health_check_grace_period);
        let call = call.set_lifecycle_hook_specification_list((!hooks.is_empty()).then_some(hooks));
        let call = call.set_tags(Some(tags(wanted)));
        call.send().await.map_err(problem(action)).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let properties: Properties = wanted.read("autoscaling:UpdateAutoScalingGroup")?;
        let call = aws.scaling.update_auto_scaling_group().auto_scaling_group_name(&there.native);
        let call = call.min_size(0).max_size(properties.maximum()).vpc_zone_identifier(properties.subnets());
        let call = call.health_check_type(properties.health_check_type.to_ascii_uppercase());
        let call = call.health_check_grace_period(properties.health_check_grace_period);
        call.send().await.map_err(problem("autoscaling:UpdateAutoScalingGroup"))?;
        hooks(aws, &there.native, &properties.lifecycle_hooks).await?;
        front(aws, &there.native, properties.load_balancer.as_ref()).await?;
        if there.inputs.get("tags") != wanted.inputs.get("tags") {
            retag(aws, there, wanted).await?;
        }
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        // Those that are not in the group, because they are about to join or have left, go first: once the group is
        // gone nothing leads to them. Its members go with it; gone before it, they would be replaced.
        let group = describe(aws, &there.native).await?;
        let members: BTreeSet<&str> = group
            .iter()
            .flat_map(AutoScalingGroup::instances)
            .filter_map(|instance| instance.instance_id())
            .collect();
        instances::terminate_others(aws, &there.native, &members).await?;
        let call = aws.scaling.delete_auto_scaling_group().auto_scaling_group_name(&there.native);
        call.force_delete(true).send().await.map_err(problem("autoscaling:DeleteAutoScalingGroup"))?;
        instances::terminate_others(aws, &there.native, &BTreeSet::new()).await?;
        instances::until_gone(aws, &there.native).await
    }
}

/// Brings the lifecycle hooks in line.
async fn hooks(aws: &Aws, group: &str, wanted: &[Hook]) -> Result<(), Problem> {
    let call = aws.scaling.describe_lifecycle_hooks().auto_scaling_group_name(group);
    let found = call.send().await.map_err(problem("autoscaling:DescribeLifecycleHooks"))?;
    let there: BTreeMap<&str, _> =
        found.lifecycle_hooks().iter().filter_map(|hook| Some((hook.lifecycle_hook_name()?, hook))).collect();
    for hook in wanted {
        let Hook { name, transition, timeout, default_result } = hook;
        let transition = Properties::transition(transition);
        let default_result = default_result.to_ascii_uppercase();
        let same = there.get(name.as_str()).is_some_and(|there| {
            there.lifecycle_transition() == Some(&transition)
                && there.heartbeat_timeout() == Some(*timeout)
                && there.default_result() == Some(&default_result)
        });
        if !same {
            let call =
                aws.scaling.put_lifecycle_hook().auto_scaling_group_name(group).lifecycle_hook_name(name);
            let call = call.lifecycle_transition(transition).heartbeat_timeout(*timeout);
            let call = call.default_result(default_result);
            call.send().await.map_err(problem("autoscaling:PutLifecycleHook"))?;
        }
    }
    for name in there.keys().filter(|name| !wanted.iter().any(|hook| hook.name == **name)) {
        let call =
            aws.scaling.delete_lifecycle_hook().auto_scaling_group_name(group).lifecycle_hook_name(*name);
        call.send().await.map_err(problem("autoscaling:DeleteLifecycleHook"))?;
    }
    Ok(())
}

/// Has Auto Scaling register what it starts with the target group that has the requests, and with no other.
async fn front(aws: &Aws, group: &str, behind: Option<&Behind>) -> Result<(), Problem> {
    let active = match behind {
        Some(behind) => Some(fleet::active(aws, behind).await?),
        None => None,
    };
    let Some(there) = describe(aws, group).await? else {
        return Err(Problem::failed("autoscaling:DescribeAutoScalingGroups", "the group went meanwhile"));
    };
    let attached = there.target_group_arns();
    if let Some(active) = active.as_ref().filter(|active| !attached.contains(active)) {
        let call = aws.scaling.attach_load_balancer_target_groups().auto_scaling_group_name(group);
        let call = call.target_group_arns(active);
        call.send().await.map_err(problem("autoscaling:AttachLoadBalancerTargetGroups"))?;
    }
    let others: Vec<String> = attached.iter().filter(|arn| Some(*arn) != active.as_ref()).cloned().collect();
    if !others.is_empty() {
        let call = aws.scaling.detach_load_balancer_target_groups().auto_scaling_group_name(group);
        let call = call.set_target_group_arns(Some(others));
        call.send().await.map_err(problem("autoscaling:DetachLoadBalancerTargetGroups"))?;
    }
    Ok(())
}

async fn retag(aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<(), Problem> {
    let call = aws.scaling.create_or_update_tags().set_tags(Some(tags(wanted)));
    call.send().await.map_err(problem("autoscaling:CreateOrUpdateTags"))?;
    let before = owner::tags(wanted.object, &there.inputs);
    let (_, gone) = owner::difference(&before, &owner::tags(wanted.object, wanted.inputs));
    let tag = |key: &String| {
        let tag = Tag::builder().key(key).resource_id(&there.native).resource_type("auto-scaling-group");
        tag.build()
    };
    if !gone.is_empty() {
        let call = aws.scaling.delete_tags().set_tags(Some(gone.iter().map(tag).collect()));
        call.send().await.map_err(problem("autoscaling:DeleteTags"))?;
    }
    Ok(())
}

/// Has what Auto Scaling starts by itself be of a release.
async fn pin(aws: &Aws, group: &Object, properties: &Properties, release: &str) -> Result<(), Problem> {
    let version = pinned(aws, group, properties, release).await?;
    let there = describe(aws, group.id.as_str()).await?;
    let now = there.as_ref().and_then(AutoScalingGroup::launch_template);
    if now.is_some_and(|now| {
        now.launch_template_id() == version.launch_template_id() && now.version() == version.version()
    }) {
        return Ok(());
    }
    let call = aws.scaling.update_auto_scaling_group().auto_scaling_group_name(group.id.as_str());
    let call = call.launch_template(version);
    call.send().await.map_err(problem("autoscaling:UpdateAutoScalingGroup")).map(drop)
}

/// A change of a group that waits for another to end.
fn unless_gone(result: Result<(), Problem>) -> Result<(), Problem> {
    match result {
        Err(problem) if problem.nature() == Nature::Absent => Ok(()),
        other => other,
    }
}
