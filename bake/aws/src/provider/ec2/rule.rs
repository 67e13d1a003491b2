//! `aws.security_group_rule`.

use async_trait::async_trait;
use aws_sdk_ec2::types::{
    IpPermission, IpRange, ResourceType, SecurityGroupRule as Seen, SecurityGroupRuleRequest,
    SecurityGroupRuleUpdate, UserIdGroupPair,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::super::problem::{Problem, problem};
use super::{all, by_tags, claim, retag, sighting, specification};

pub(super) struct SecurityGroupRule;

#[derive(Deserialize)]
struct Rule {
    security_group_id: String,
    direction: Direction,
    protocol: String,
    from_port: Option<i32>,
    to_port: Option<i32>,
    cidr: Option<String>,
    source_security_group_id: Option<String>,
    description: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Direction {
    Ingress,
    Egress,
}

impl Rule {
    /// What it allows, as AWS has it.
    fn permission(&self) -> Result<IpPermission, Problem> {
        let Self { protocol, from_port, to_port, cidr, source_security_group_id, description, .. } = self;
        let permission = IpPermission::builder()
            .ip_protocol(if protocol == "all" { "-1" } else { protocol })
            .set_from_port(*from_port)
            .set_to_port(to_port.or(*from_port));
        Ok(match (cidr, source_security_group_id) {
            (Some(cidr), None) => {
                let range = IpRange::builder().cidr_ip(cidr).set_description(description.clone());
                permission.ip_ranges(range.build())
            }
            (None, Some(group)) => {
                let pair = UserIdGroupPair::builder().group_id(group).set_description(description.clone());
                permission.user_id_group_pairs(pair.build())
            }
            _ => {
                let message = "give either `cidr` or `source_security_group_id`";
                return Err(Problem::refused("ec2:AuthorizeSecurityGroupIngress", message));
            }
        }
        .build())
    }
}

fn protocol(rule: &Seen) -> Value {
    match rule.ip_protocol() {
        Some("-1") => json!("all"),
        protocol => json!(protocol),
    }
}

/// A port; of protocols without ports AWS says -1.
fn port(port: Option<i32>) -> Option<i32> {
    port.filter(|port| *port >= 0)
}

#[async_trait]
impl Kind for SecurityGroupRule {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.ec2.describe_security_group_rules().filters(by_tags(which)).max_results(1000);
        let rules = all!("ec2:DescribeSecurityGroupRules", call);
        let see = |rule: &Seen| {
            let inputs = json!({
                "security_group_id": rule.group_id(),
                "direction": if rule.is_egress() == Some(true) { "egress" } else { "ingress" },
                "protocol": protocol(rule),
                "from_port": port(rule.from_port()),
                "to_port": port(rule.to_port()),
                "cidr": rule.cidr_ipv4(),
                "source_security_group_id": rule.referenced_group_info().and_then(|group| group.group_id()),
                "description": rule.description(),
            });
            sighting(rule.security_group_rule_id(), rule.tags(), inputs)
        };
        Ok(rules.iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let rule: Rule = wanted.read("ec2:AuthorizeSecurityGroupIngress")?;
        let tags = specification(ResourceType::SecurityGroupRule, wanted);
        let permission = rule.permission()?;
        match rule.direction {
            Direction::Ingress => {
                let call = aws.ec2.authorize_security_group_ingress().group_id(&rule.security_group_id);
                let call = call.ip_permissions(permission).tag_specifications(tags);
                call.send().await.map_err(problem("ec2:AuthorizeSecurityGroupIngress")).map(drop)
            }
            Direction::Egress => {
                let call = aws.ec2.authorize_security_group_egress().group_id(&rule.security_group_id);
                let call = call.ip_permissions(permission).tag_specifications(tags);
                call.send().await.map_err(problem("ec2:AuthorizeSecurityGroupEgress")).map(drop)
            }
        }
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let retagged = retag(aws, there, wanted).await?;
        if there.text("description") == wanted.text("description") {
            return Ok(retagged);
        }
        let rule: Rule = wanted.read("ec2:ModifySecurityGroupRules")?;
        let request = SecurityGroupRuleRequest::builder()
            .ip_protocol(if rule.protocol == "all" { "-1" } else { &rule.protocol })
            .set_from_port(rule.from_port)
            .set_to_port(rule.to_port.or(rule.from_port))
            .set_cidr_ipv4(rule.cidr)
            .set_referenced_group_id(rule.source_security_group_id)
            .set_description(rule.description)
            .build();
        let update = SecurityGroupRuleUpdate::builder()
            .security_group_rule_id(&there.native)
            .security_group_rule(request);
        let call = aws.ec2.modify_security_group_rules().group_id(rule.security_group_id);
        let call = call.security_group_rules(update.build());
        call.send().await.map_err(problem("ec2:ModifySecurityGroupRules"))?;
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let group = there.text("security_group_id").unwrap_or_default();
        if there.text("direction") == Some("egress") {
            let call = aws.ec2.revoke_security_group_egress().group_id(group);
            let call = call.security_group_rule_ids(&there.native);
            return call.send().await.map_err(problem("ec2:RevokeSecurityGroupEgress")).map(drop);
        }
        let call = aws.ec2.revoke_security_group_ingress().group_id(group);
        let call = call.security_group_rule_ids(&there.native);
        call.send().await.map_err(problem("ec2:RevokeSecurityGroupIngress")).map(drop)
    }

    async fn claim(&self, aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
        claim(aws, wanted, foreign).await
    }
}
