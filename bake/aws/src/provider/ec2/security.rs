//! `aws.security_group`.

use async_trait::async_trait;
use aws_sdk_ec2::types::{IpPermission, IpRange, ResourceType};
use serde_json::json;

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::super::problem::{Nature, Problem, problem};
use super::{all, by_tags, claim, retag, sighting, specification};

/// Any IPv4 address.
const ANYWHERE: &str = "0.0.0.0/0";
/// Any protocol.
const ANY: &str = "-1";

pub(super) struct SecurityGroup;

fn everything() -> IpPermission {
    let range = IpRange::builder().cidr_ip(ANYWHERE).build();
    IpPermission::builder().ip_protocol(ANY).ip_ranges(range).build()
}

fn lets_everything_out(group: &aws_sdk_ec2::types::SecurityGroup) -> bool {
    group.ip_permissions_egress().iter().any(|permission| {
        permission.ip_protocol() == Some(ANY)
            && permission.ip_ranges().iter().any(|range| range.cidr_ip() == Some(ANYWHERE))
    })
}

#[async_trait]
impl Kind for SecurityGroup {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.ec2.describe_security_groups().filters(by_tags(which)).max_results(1000);
        let groups = all!("ec2:DescribeSecurityGroups", call);
        let see = |group: &aws_sdk_ec2::types::SecurityGroup| {
            let inputs = json!({
                "vpc_id": group.vpc_id(),
                "description": group.description(),
                "allow_all_egress": lets_everything_out(group),
            });
            let seen = sighting(group.group_id(), group.tags(), inputs)?;
            Some(seen.gives("name", group.group_name()))
        };
        Ok(groups.iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let text = |name| wanted.text(name).map(str::to_owned);
        let call = aws.ec2.create_security_group().group_name(wanted.id().as_str());
        let call = call.set_description(text("description")).set_vpc_id(text("vpc_id"));
        let call = call.tag_specifications(specification(ResourceType::SecurityGroup, wanted));
        call.send().await.map_err(problem("ec2:CreateSecurityGroup")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let open = wanted.flag("allow_all_egress");
        let mut settled = retag(aws, there, wanted).await?;
        if there.inputs.get("allow_all_egress") != Some(&json!(open)) {
            let changed = if open {
                let call = aws.ec2.authorize_security_group_egress().group_id(&there.native);
                let call = call.ip_permissions(everything());
                call.send().await.map_err(problem("ec2:AuthorizeSecurityGroupEgress")).map(drop)
            } else {
                let call = aws.ec2.revoke_security_group_egress().group_id(&there.native);
                let call = call.ip_permissions(everything());
                call.send().await.map_err(problem("ec2:RevokeSecurityGroupEgress")).map(drop)
            };
            match changed {
                Err(problem) if !matches!(problem.nature(), Nature::Exists | Nature::Absent) => {
                    return Err(problem);
                }
                _ => settled = Settled::Now,
            }
        }
        Ok(settled)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.ec2.delete_security_group().group_id(&there.native);
        call.send().await.map_err(problem("ec2:DeleteSecurityGroup")).map(drop)
    }

    async fn claim(&self, aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
        claim(aws, wanted, foreign).await
    }
}
