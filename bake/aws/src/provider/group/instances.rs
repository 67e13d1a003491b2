//! The instances of a group: found by their tags, in the group or not.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::types::{
    Filter, Instance, InstanceStateName, LaunchTemplateSpecification, ResourceType, Tag, TagSpecification,
};
use olbake_core::digest::FieldDigest;
use olbake_core::rollout::InstanceId;
use olbake_engine::stack::provider::{Launch, Object};

use super::super::clients::Aws;
use super::super::owner::Tags;
use super::super::problem::{Problem, problem};
use super::{GROUP, INSTANCE, Properties, SLOT, Template, instance_tags};

/// States in which an instance is there.
const THERE: [InstanceStateName; 5] = [
    InstanceStateName::Pending,
    InstanceStateName::Running,
    InstanceStateName::ShuttingDown,
    InstanceStateName::Stopping,
    InstanceStateName::Stopped,
];
/// How often a launch is tried under another token, because what the token stood for was terminated.
const TOKENS: u32 = 20;

/// A filter of instances.
fn filter(name: &str, values: Vec<String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values)).build()
}

/// An instance, with its tags at hand.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) native: String,
    pub(super) tags: Tags,
    pub(super) instance: Instance,
}

impl Found {
    fn new(instance: Instance) -> Option<Self> {
        let tag = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
        let tags = instance.tags().iter().filter_map(tag).collect();
        Some(Self { native: instance.instance_id()?.to_owned(), tags, instance })
    }

    /// What rollouts call it: as they launched it, or by its own id.
    pub(super) fn name(&self) -> InstanceId {
        InstanceId(self.tags.get(INSTANCE).unwrap_or(&self.native).clone())
    }

    pub(super) fn state(&self) -> Option<&InstanceStateName> {
        self.instance.state().and_then(|state| state.name())
    }

    pub(super) fn is_going(&self) -> bool {
        self.state() == Some(&InstanceStateName::ShuttingDown)
    }
}

/// All instances of a group that are there.
pub(super) async fn of_group(aws: &Aws, group: &str) -> Result<Vec<Found>, Problem> {
    let states = THERE.iter().map(|state| state.as_str().to_owned()).collect();
    let call = aws.ec2.describe_instances().filters(filter(&format!("tag:{GROUP}"), vec![group.to_owned()]));
    let call = call.filters(filter("instance-state-name", states));
    let pages = call.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await;
    let reservations = pages.map_err(problem("ec2:DescribeInstances"))?;
    let instances =
        reservations.into_iter().flat_map(|reservation| reservation.instances.unwrap_or_default());
    Ok(instances.filter_map(Found::new).collect())
}

/// The instances that a rollout calls so: more than one only where a launch was repeated before it was visible.
pub(super) async fn named(aws: &Aws, group: &str, name: &InstanceId) -> Result<Vec<Found>, Problem> {
    let mut found = of_group(aws, group).await?;
    found.retain(|found| found.name() == *name && !found.is_going());
    found.sort_by(|a, b| a.native.cmp(&b.native));
    Ok(found)
}

/// Starts an instance of a release, in one of the group's subnets: in another where the first has no room.
pub(super) async fn start(
    aws: &Aws,
    group: &Object,
    subnets: &[String],
    launch: &Launch,
    release: &Properties,
) -> Result<String, Problem> {
    let ami = aws.ami(&release.image.digest).await?;
    let mut tags = instance_tags(group, &release.image.digest.to_string(), &launch.release.to_string());
    tags.insert(INSTANCE.to_owned(), launch.instance.0.clone());
    tags.extend(launch.slot.map(|slot| (SLOT.to_owned(), slot.to_string())));
    let first = number(&launch.instance) % subnets.len().max(1);
    let mut problem = Problem::refused("ec2:RunInstances", "the group has no subnet");
    for subnet in subnets.iter().cycle().skip(first).take(subnets.len()) {
        match start_in(aws, subnet, &release.launch_template, &ami, &tags).await {
            Err(no_room) if is_full(&no_room) => problem = no_room,
            other => return other,
        }
    }
    Err(problem)
}

/// Whether another zone may have what this one has not.
fn is_full(problem: &Problem) -> bool {
    ["InsufficientInstanceCapacity", "Unsupported", "InsufficientFreeAddressesInSubnet"]
        .iter()
        .any(|code| problem.is(code))
}

/// The number that an instance's name ends with.
fn number(instance: &InstanceId) -> usize {
    instance.0.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

async fn start_in(
    aws: &Aws,
    subnet: &str,
    template: &Template,
    ami: &str,
    tags: &Tags,
) -> Result<String, Problem> {
    let pinned = LaunchTemplateSpecification::builder()
        .launch_template_id(&template.id)
        .version(template.version.to_string())
        .build();
    let specification = |ty| {
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        TagSpecification::builder().resource_type(ty).set_tags(Some(tags)).build()
    };
    let mut last = None;
    for attempt in 0..TOKENS {
        let run = || async {
            let call = aws.ec2.run_instances().min_count(1).max_count(1).image_id(ami).subnet_id(subnet);
            let call =
                call.launch_template(pinned.clone()).client_token(token(tags, template, subnet, attempt));
            let call = call.tag_specifications(specification(ResourceType::Instance));
            let call = call.tag_specifications(specification(ResourceType::Volume));
            call.send().await.map_err(problem("ec2:RunInstances"))
        };
        match aws.once_visible(run).await {
            Ok(started) => {
                let id = started.instances().first().and_then(Instance::instance_id);
                return id.map(str::to_owned).ok_or_else(|| {
                    Problem::failed("ec2:RunInstances", "AWS started nothing, and does not say why")
                });
            }
            // An earlier instance of this name was terminated; its token is used up.
            Err(problem) if problem.is("IdempotentInstanceTerminated") => last = Some(problem),
            Err(problem) => return Err(problem),
        }
    }
    Err(last.unwrap_or_else(|| Problem::failed("ec2:RunInstances", "no token is left")))
}

fn token(tags: &Tags, template: &Template, subnet: &str, attempt: u32) -> String {
    let mut digest = FieldDigest::new("olbake aws instance 1")
        .field("template", template.id.as_bytes())
        .field("version", template.version.to_string().as_bytes())
        .field("subnet", subnet.as_bytes())
        .field("attempt", attempt.to_string().as_bytes());
    for (key, value) in tags {
        digest = digest.field("key", key.as_bytes()).field("value", value.as_bytes());
    }
    digest.finish().hex()[..32].to_owned()
}

/// Waits until an instance runs.
pub(super) async fn until_running(aws: &Aws, id: &str) -> Result<(), Problem> {
    let mut looks = aws.looks(aws.patience.ready);
    loop {
        let found = aws.ec2.describe_instances().instance_ids(id).send().await;
        let state = match found.map_err(problem("ec2:DescribeInstances")) {
            Ok(found) => {
                let instance = found.reservations().first().and_then(|all| all.instances().first());
                let why = instance.and_then(|instance| instance.state_reason()).and_then(|why| why.message());
                instance
                    .and_then(|instance| instance.state())
                    .and_then(|state| state.name().cloned())
                    .map(|state| (state, why.unwrap_or_default().to_owned()))
            }
            // It was started this moment.
            Err(problem) if problem.nature() == super::Nature::Absent => None,
            Err(problem) => return Err(problem),
        };
        match state {
            Some((InstanceStateName::Running, _)) => return Ok(()),
            None | Some((InstanceStateName::Pending, _)) => {}
            Some((state, why)) => {
                return Err(Problem::failed(
                    "ec2:RunInstances",
                    format!("`{id}` is {}: {why}", state.as_str()),
                ));
            }
        }
        if !looks.next().await {
            return Err(Problem::failed("ec2:RunInstances", format!("`{id}` does not come up")));
        }
    }
}

/// Ends instances. Those that are gone are gone.
pub(super) async fn terminate(aws: &Aws, ids: Vec<String>) -> Result<(), Problem> {
    if ids.is_empty() {
        return Ok(());
    }
    let call = aws.ec2.terminate_instances().set_instance_ids(Some(ids));
    super::unless_gone(call.send().await.map_err(problem("ec2:TerminateInstances")).map(drop))
}

/// Ends the instances of a group that are not among these.
pub(super) async fn terminate_others(aws: &Aws, group: &str, stay: &BTreeSet<&str>) -> Result<(), Problem> {
    let found = of_group(aws, group).await?.into_iter();
    let goes = |found: &Found| !found.is_going() && !stay.contains(found.native.as_str());
    terminate(aws, found.filter(goes).map(|found| found.native).collect()).await
}

/// Waits until no instance of a group is there: what they use can go only then.
pub(super) async fn until_gone(aws: &Aws, group: &str) -> Result<(), Problem> {
    let mut looks = aws.looks(aws.patience.gone);
    while !of_group(aws, group).await?.is_empty() {
        if !looks.next().await {
            return Err(Problem::failed("ec2:TerminateInstances", "the group's instances do not go"));
        }
    }
    Ok(())
}

/// Instances by their names.
pub(super) fn by_name(found: Vec<Found>) -> BTreeMap<InstanceId, Found> {
    let mut all: BTreeMap<InstanceId, Found> = BTreeMap::new();
    for found in found {
        // One that goes does not hide another.
        let name = found.name();
        if all.get(&name).is_none_or(Found::is_going) {
            all.insert(name, found);
        }
    }
    all
}
