//! `aws.subnet`.

use async_trait::async_trait;
use aws_sdk_ec2::types::{AttributeBooleanValue, ResourceType, SubnetState};
use serde_json::json;

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Stage, Wanted, Which};
use super::super::problem::{Problem, problem};
use super::{all, by_tags, claim, retag, sighting, specification};

pub(super) struct Subnet;

#[async_trait]
impl Kind for Subnet {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.ec2.describe_subnets().filters(by_tags(which)).max_results(1000);
        let subnets = all!("ec2:DescribeSubnets", call);
        let see = |subnet: &aws_sdk_ec2::types::Subnet| {
            let inputs = json!({
                "vpc_id": subnet.vpc_id(),
                "cidr": subnet.cidr_block(),
                "availability_zone": subnet.availability_zone(),
                "map_public_ip_on_launch": subnet.map_public_ip_on_launch().unwrap_or_default(),
            });
            let seen = sighting(subnet.subnet_id(), subnet.tags(), inputs)?;
            let stage =
                if subnet.state() == Some(&SubnetState::Pending) { Stage::Coming } else { Stage::Ready };
            Some(
                seen.at(stage)
                    .gives("cidr", subnet.cidr_block())
                    .gives("availability_zone", subnet.availability_zone()),
            )
        };
        Ok(subnets.iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let text = |name| wanted.text(name).map(str::to_owned);
        let call = aws.ec2_once.create_subnet().set_vpc_id(text("vpc_id")).set_cidr_block(text("cidr"));
        let call = call.set_availability_zone(text("availability_zone"));
        let call = call.tag_specifications(specification(ResourceType::Subnet, wanted));
        call.send().await.map_err(problem("ec2:CreateSubnet")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let public = wanted.flag("map_public_ip_on_launch");
        if there.inputs.get("map_public_ip_on_launch") != Some(&json!(public)) {
            let value = AttributeBooleanValue::builder().value(public).build();
            let call = aws.ec2.modify_subnet_attribute().subnet_id(&there.native);
            let call = call.map_public_ip_on_launch(value);
            call.send().await.map_err(problem("ec2:ModifySubnetAttribute"))?;
        }
        retag(aws, there, wanted).await
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.ec2.delete_subnet().subnet_id(&there.native);
        call.send().await.map_err(problem("ec2:DeleteSubnet")).map(drop)
    }

    async fn claim(&self, aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
        claim(aws, wanted, foreign).await
    }
}
