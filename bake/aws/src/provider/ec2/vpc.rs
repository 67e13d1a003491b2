//! `aws.vpc`.

use async_trait::async_trait;
use aws_sdk_ec2::types::{AttributeBooleanValue, ResourceType};
use serde_json::json;

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::super::problem::{Problem, problem};
use super::{all, by_tags, claim, retag, sighting, specification};

pub(super) struct Vpc;

#[async_trait]
impl Kind for Vpc {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let vpcs =
            all!("ec2:DescribeVpcs", aws.ec2.describe_vpcs().filters(by_tags(which)).max_results(1000));
        let see = |vpc: &aws_sdk_ec2::types::Vpc| {
            let seen = sighting(vpc.vpc_id(), vpc.tags(), json!({"cidr": vpc.cidr_block()}))?;
            Some(seen.gives("cidr", vpc.cidr_block()))
        };
        Ok(vpcs.iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let tags = specification(ResourceType::Vpc, wanted);
        let call = aws.ec2_once.create_vpc().set_cidr_block(wanted.text("cidr").map(str::to_owned));
        call.tag_specifications(tags).send().await.map_err(problem("ec2:CreateVpc")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let value = |name| AttributeBooleanValue::builder().value(wanted.flag(name)).build();
        // A call changes one attribute. Names need answers: on goes support first, and off goes it last.
        let support = aws.ec2.modify_vpc_attribute().vpc_id(&there.native);
        let support = support.enable_dns_support(value("enable_dns_support"));
        let names = aws.ec2.modify_vpc_attribute().vpc_id(&there.native);
        let names = names.enable_dns_hostnames(value("enable_dns_hostnames"));
        let calls = if wanted.flag("enable_dns_support") { [support, names] } else { [names, support] };
        for call in calls {
            call.send().await.map_err(problem("ec2:ModifyVpcAttribute"))?;
        }
        retag(aws, there, wanted).await
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.ec2.delete_vpc().vpc_id(&there.native);
        call.send().await.map_err(problem("ec2:DeleteVpc")).map(drop)
    }

    async fn claim(&self, aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
        claim(aws, wanted, foreign).await
    }
}
