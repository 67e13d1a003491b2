//! `aws.elastic_ip`.

use async_trait::async_trait;
use aws_sdk_ec2::types::{DomainType, ResourceType};
use serde_json::json;

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::super::problem::{Problem, problem};
use super::{by_tags, claim, retag, sighting, specification};

pub(super) struct ElasticIp;

#[async_trait]
impl Kind for ElasticIp {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.ec2.describe_addresses().filters(by_tags(which));
        let found = call.send().await.map_err(problem("ec2:DescribeAddresses"))?;
        let see = |address: &aws_sdk_ec2::types::Address| {
            let seen = sighting(address.allocation_id(), address.tags(), json!({}))?;
            Some(seen.gives("public_ip", address.public_ip()))
        };
        Ok(found.addresses().iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let tags = specification(ResourceType::ElasticIp, wanted);
        let call = aws.ec2_once.allocate_address().domain(DomainType::Vpc).tag_specifications(tags);
        call.send().await.map_err(problem("ec2:AllocateAddress")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        retag(aws, there, wanted).await
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.ec2.release_address().allocation_id(&there.native);
        call.send().await.map_err(problem("ec2:ReleaseAddress")).map(drop)
    }

    async fn claim(&self, aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
        claim(aws, wanted, foreign).await
    }
}
