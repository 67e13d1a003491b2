//! `aws.hosted_zone`. The reference of the call that makes it begins with its id.

use async_trait::async_trait;
use aws_sdk_route53::types::{HostedZone as Seen, HostedZoneConfig, Tag, TagResourceType, Vpc, VpcRegion};
use serde_json::json;

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::super::owner::{self, Owner, Tags, token};
use super::super::problem::{Nature, Problem, problem};
use super::{unless_absent, without_dot};

pub(super) struct HostedZone;

/// How many references are tried: one that was used for a zone that is gone may be refused.
const REFERENCES: u32 = 5;

fn id_of(zone: &Seen) -> &str {
    zone.id().trim_start_matches("/hostedzone/")
}

fn reference(wanted: &Wanted<'_>, attempt: u32) -> String {
    format!("{} {} {attempt}", wanted.id(), token(wanted.object, wanted.inputs))
}

impl HostedZone {
    async fn owner(aws: &Aws, zone: &Seen) -> Result<Option<Owner>, Problem> {
        let call = aws.dns.list_tags_for_resource().resource_type(TagResourceType::Hostedzone);
        let found = call.resource_id(id_of(zone)).send().await;
        let found = unless_absent(found.map_err(problem("route53:ListTagsForResource")))?;
        let set = found.and_then(|found| found.resource_tag_set);
        let tag = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
        let tags: Option<Tags> = set.map(|set| set.tags().iter().filter_map(tag).collect());
        Ok(tags.as_ref().and_then(Owner::read))
    }

    async fn sighting(aws: &Aws, zone: &Seen, owner: Owner) -> Result<Option<Sighting>, Problem> {
        let found = aws.dns.get_hosted_zone().id(id_of(zone)).send().await;
        let Some(found) = unless_absent(found.map_err(problem("route53:GetHostedZone")))? else {
            return Ok(None);
        };
        let servers = found.delegation_set().map(|set| set.name_servers().to_vec()).unwrap_or_default();
        let vpc = found.vpcs().first().and_then(|vpc| vpc.vpc_id());
        let inputs = json!({"name": without_dot(zone.name()), "vpc_id": vpc});
        Ok(Some(Sighting::new(owner, id_of(zone), inputs).gives("name_servers", servers)))
    }
}

#[async_trait]
impl Kind for HostedZone {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let zones =
            aws.dns.list_hosted_zones().into_paginator().items().send().collect::<Result<Vec<_>, _>>();
        let zones = zones.await.map_err(problem("route53:ListHostedZones"))?;
        let mut found = Vec::new();
        for zone in &zones {
            let id = zone.caller_reference().split(' ').next().unwrap_or_default();
            let owner = match which {
                Which::All => Self::owner(aws, zone).await?,
                Which::These(wanted) => {
                    let wanted = wanted.iter().find(|wanted| wanted.id().as_str() == id);
                    wanted.map(|wanted| Owner::of(wanted.object))
                }
            };
            if let Some(owner) = owner {
                found.extend(Self::sighting(aws, zone, owner).await?);
            }
        }
        Ok(found)
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let private = wanted
            .text("vpc_id")
            .map(|id| Vpc::builder().vpc_id(id).vpc_region(VpcRegion::from(aws.region())).build());
        let config = HostedZoneConfig::builder().comment("olbake").private_zone(private.is_some()).build();
        let mut last = None;
        for attempt in 0..REFERENCES {
            let call = aws.dns.create_hosted_zone().set_name(wanted.text("name").map(str::to_owned));
            let call = call.caller_reference(reference(wanted, attempt)).hosted_zone_config(config.clone());
            match call.set_vpc(private.clone()).send().await.map_err(problem("route53:CreateHostedZone")) {
                Err(problem) if problem.nature() == Nature::Exists => last = Some(problem),
                other => return other.map(drop),
            }
        }
        last.map_or(Ok(()), Err)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let tags = owner::tags(wanted.object, wanted.inputs);
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        let call = aws.dns.change_tags_for_resource().resource_type(TagResourceType::Hostedzone);
        let call = call.resource_id(&there.native).set_add_tags(Some(tags));
        call.send().await.map_err(problem("route53:ChangeTagsForResource"))?;
        Ok(Settled::Already)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.dns.delete_hosted_zone().id(&there.native);
        call.send().await.map_err(problem("route53:DeleteHostedZone")).map(drop)
    }
}
