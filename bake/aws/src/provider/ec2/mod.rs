//! Objects of EC2: found by their tags, with one paginated call a type.

mod address;
mod gateway;
mod link;
mod rule;
mod security;
mod subnet;
mod table;
mod template;
mod vpc;

use aws_sdk_ec2::types::{Filter, ResourceType, Tag, TagSpecification};
use serde_json::{Map, Value};

use super::clients::Aws;
use super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::owner::{self, Owner, Tags};
use super::problem::{Problem, problem};

pub(super) use template::{Release, release_version};

/// The types of this folder.
pub(super) const KINDS: &[(&str, &dyn Kind)] = &[
    ("aws.vpc", &vpc::Vpc),
    ("aws.subnet", &subnet::Subnet),
    ("aws.internet_gateway", &gateway::InternetGateway),
    ("aws.nat_gateway", &gateway::NatGateway),
    ("aws.elastic_ip", &address::ElasticIp),
    ("aws.route_table", &table::RouteTable),
    ("aws.peering", &link::Peering),
    ("aws.gateway_endpoint", &link::GatewayEndpoint),
    ("aws.security_group", &security::SecurityGroup),
    ("aws.security_group_rule", &rule::SecurityGroupRule),
    ("aws.launch_template", &template::LaunchTemplate),
];

/// The most values that a filter may have.
const MOST_VALUES: usize = 200;

fn filter(name: &str, values: impl IntoIterator<Item = String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values.into_iter().collect())).build()
}

/// What finds the objects that are asked for by their tags: few by their ids, many by their stack.
fn by_tags(which: Which<'_>) -> Filter {
    match which.wanted() {
        [] => filter("tag-key", [owner::ID.to_owned()]),
        few if few.len() <= MOST_VALUES / 4 => {
            filter(&format!("tag:{}", owner::ID), few.iter().map(|wanted| wanted.id().to_string()))
        }
        many => filter(&format!("tag:{}", owner::STACK), [many[0].object.stack.to_string()]),
    }
}

fn tags_of(tags: &[Tag]) -> Tags {
    let pair = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
    tags.iter().filter_map(pair).collect()
}

fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build()
}

/// The tags of an object, for the call that makes it.
fn specification(ty: ResourceType, wanted: &Wanted<'_>) -> TagSpecification {
    let tags = owner::tags(wanted.object, wanted.inputs);
    let tags = tags.iter().map(|(key, value)| tag(key, value)).collect();
    TagSpecification::builder().resource_type(ty).set_tags(Some(tags)).build()
}

/// An object of ours as it is seen, from its tags; none: it is not ours.
fn sighting(native: Option<&str>, tags: &[Tag], inputs: Value) -> Option<Sighting> {
    let tags = tags_of(tags);
    let owner = Owner::read(&tags)?;
    let mut seen = Sighting::new(owner, native?, inputs);
    seen.inputs.insert("tags".to_owned(), owner::seen(&tags));
    Some(seen)
}

/// Brings the tags of an object in line.
async fn retag(aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
    let given = |inputs: &Map<String, Value>| inputs.get("tags").cloned().unwrap_or_default();
    if given(&there.inputs) == given(wanted.inputs) {
        return Ok(Settled::Already);
    }
    let all = owner::tags(wanted.object, wanted.inputs);
    let before = owner::tags(wanted.object, &there.inputs);
    let (set, gone) = owner::difference(&before, &all);
    if !set.is_empty() {
        let tags = set.iter().map(|(key, value)| tag(key, value)).collect();
        let call = aws.ec2.create_tags().resources(&there.native).set_tags(Some(tags));
        call.send().await.map_err(problem("ec2:CreateTags"))?;
    }
    if !gone.is_empty() {
        let tags = gone.iter().map(|key| Tag::builder().key(key).build()).collect();
        let call = aws.ec2.delete_tags().resources(&there.native).set_tags(Some(tags));
        call.send().await.map_err(problem("ec2:DeleteTags"))?;
    }
    Ok(Settled::Now)
}

/// Writes our tags on an object that somebody else made.
async fn claim(aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
    let tags = owner::tags(wanted.object, wanted.inputs);
    let tags = tags.iter().map(|(key, value)| tag(key, value)).collect();
    let call = aws.ec2.create_tags().resources(foreign).set_tags(Some(tags));
    call.send().await.map_err(problem("ec2:CreateTags")).map(drop)
}

/// All that a paginated call gives.
macro_rules! all {
    ($action:literal, $call:expr) => {
        $call
            .into_paginator()
            .items()
            .send()
            .collect::<Result<Vec<_>, _>>()
            .await
            .map_err($crate::provider::problem::problem($action))?
    };
}
use all;
