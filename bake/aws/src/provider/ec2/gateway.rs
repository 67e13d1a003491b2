//! `aws.internet_gateway` and `aws.nat_gateway`.

use async_trait::async_trait;
use aws_sdk_ec2::types::{ConnectivityType, NatGatewayState, ResourceType};
use serde_json::json;

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Stage, Wanted, Which};
use super::super::owner::token;
use super::super::problem::{Nature, Problem, problem};
use super::{all, by_tags, claim, retag, sighting, specification};

pub(super) struct InternetGateway;

#[async_trait]
impl Kind for InternetGateway {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.ec2.describe_internet_gateways().filters(by_tags(which)).max_results(1000);
        let gateways = all!("ec2:DescribeInternetGateways", call);
        let see = |gateway: &aws_sdk_ec2::types::InternetGateway| {
            let vpc = gateway.attachments().first().and_then(|attachment| attachment.vpc_id());
            sighting(gateway.internet_gateway_id(), gateway.tags(), json!({"vpc_id": vpc}))
        };
        Ok(gateways.iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let tags = specification(ResourceType::InternetGateway, wanted);
        let call = aws.ec2_once.create_internet_gateway().tag_specifications(tags);
        call.send().await.map_err(problem("ec2:CreateInternetGateway")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let retagged = retag(aws, there, wanted).await?;
        if there.text("vpc_id") == wanted.text("vpc_id") {
            return Ok(retagged);
        }
        let vpc = wanted.text("vpc_id").unwrap_or_default();
        let attach = || async {
            let call = aws.ec2.attach_internet_gateway().internet_gateway_id(&there.native).vpc_id(vpc);
            call.send().await.map_err(problem("ec2:AttachInternetGateway"))
        };
        match aws.once_visible(attach).await {
            Err(problem) if !problem.is("Resource.AlreadyAssociated") => Err(problem),
            _ => Ok(Settled::Now),
        }
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        if let Some(vpc) = there.text("vpc_id") {
            let call = aws.ec2.detach_internet_gateway().internet_gateway_id(&there.native).vpc_id(vpc);
            match call.send().await.map_err(problem("ec2:DetachInternetGateway")) {
                Err(problem)
                    if !(problem.is("Gateway.NotAttached") || problem.nature() == Nature::Absent) =>
                {
                    return Err(problem);
                }
                _ => {}
            }
        }
        let call = aws.ec2.delete_internet_gateway().internet_gateway_id(&there.native);
        call.send().await.map_err(problem("ec2:DeleteInternetGateway")).map(drop)
    }

    async fn claim(&self, aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
        claim(aws, wanted, foreign).await
    }
}

pub(super) struct NatGateway;

fn stage(gateway: &aws_sdk_ec2::types::NatGateway) -> Option<Stage> {
    Some(match gateway.state()? {
        NatGatewayState::Available => Stage::Ready,
        NatGatewayState::Deleting => Stage::Going,
        NatGatewayState::Deleted => return None,
        NatGatewayState::Failed => {
            let why = gateway.failure_message().or(gateway.failure_code());
            Stage::Broken(why.unwrap_or("AWS does not say why").to_owned())
        }
        _ => Stage::Coming,
    })
}

#[async_trait]
impl Kind for NatGateway {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.ec2.describe_nat_gateways().filter(by_tags(which)).max_results(1000);
        let gateways = all!("ec2:DescribeNatGateways", call);
        let see = |gateway: &aws_sdk_ec2::types::NatGateway| {
            let stage = stage(gateway)?;
            let address = gateway.nat_gateway_addresses().first();
            let inputs = json!({
                "subnet_id": gateway.subnet_id(),
                "allocation_id": address.and_then(|address| address.allocation_id()),
            });
            let seen = sighting(gateway.nat_gateway_id(), gateway.tags(), inputs)?;
            Some(seen.at(stage).gives("public_ip", address.and_then(|address| address.public_ip())))
        };
        Ok(gateways.iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let text = |name| wanted.text(name).map(str::to_owned);
        let call = aws.ec2.create_nat_gateway().set_subnet_id(text("subnet_id"));
        let call = call.set_allocation_id(text("allocation_id")).connectivity_type(ConnectivityType::Public);
        let call = call.client_token(token(wanted.object, wanted.inputs));
        let call = call.tag_specifications(specification(ResourceType::Natgateway, wanted));
        // A predecessor that is gone holds its address for a while.
        let make = || async { call.clone().send().await.map_err(problem("ec2:CreateNatGateway")) };
        aws.once_free(make).await.map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        retag(aws, there, wanted).await
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.ec2.delete_nat_gateway().nat_gateway_id(&there.native);
        call.send().await.map_err(problem("ec2:DeleteNatGateway")).map(drop)
    }

    async fn claim(&self, aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
        claim(aws, wanted, foreign).await
    }
}
