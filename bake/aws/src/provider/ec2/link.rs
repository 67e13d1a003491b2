//! `aws.peering` and `aws.gateway_endpoint`.

use std::collections::BTreeSet;

use async_trait::async_trait;
use aws_sdk_ec2::types::{
    ResourceType, VpcEndpointType, VpcPeeringConnectionStateReasonCode as PeeringState,
};
use serde_json::{Value, json};

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Stage, Wanted, Which, set};
use super::super::owner::token;
use super::super::problem::{Problem, problem};
use super::{all, by_tags, claim, retag, sighting, specification};

pub(super) struct Peering;

/// None: it is gone. One that waits to be accepted is ready: [`Kind::settle`] accepts it.
fn peering_stage(peering: &aws_sdk_ec2::types::VpcPeeringConnection) -> Option<Stage> {
    let status = peering.status()?;
    Some(match status.code()? {
        PeeringState::Active | PeeringState::PendingAcceptance => Stage::Ready,
        PeeringState::Deleting => Stage::Going,
        PeeringState::Deleted | PeeringState::Rejected | PeeringState::Expired => return None,
        PeeringState::Failed => Stage::Broken(status.message().unwrap_or("it failed").to_owned()),
        _ => Stage::Coming,
    })
}

#[async_trait]
impl Kind for Peering {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.ec2.describe_vpc_peering_connections().filters(by_tags(which)).max_results(1000);
        let peerings = all!("ec2:DescribeVpcPeeringConnections", call);
        let see = |peering: &aws_sdk_ec2::types::VpcPeeringConnection| {
            let stage = peering_stage(peering)?;
            let inputs = json!({
                "vpc_id": peering.requester_vpc_info().and_then(|vpc| vpc.vpc_id()),
                "peer_vpc_id": peering.accepter_vpc_info().and_then(|vpc| vpc.vpc_id()),
            });
            Some(sighting(peering.vpc_peering_connection_id(), peering.tags(), inputs)?.at(stage))
        };
        Ok(peerings.iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let text = |name| wanted.text(name).map(str::to_owned);
        let call = aws.ec2_once.create_vpc_peering_connection().set_vpc_id(text("vpc_id"));
        let call = call.set_peer_vpc_id(text("peer_vpc_id"));
        let call = call.tag_specifications(specification(ResourceType::VpcPeeringConnection, wanted));
        call.send().await.map_err(problem("ec2:CreateVpcPeeringConnection")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let retagged = retag(aws, there, wanted).await?;
        let call = aws.ec2.describe_vpc_peering_connections().vpc_peering_connection_ids(&there.native);
        let answer = call.send().await.map_err(problem("ec2:DescribeVpcPeeringConnections"))?;
        let waits = |peering: &aws_sdk_ec2::types::VpcPeeringConnection| {
            peering.status().and_then(|status| status.code()) == Some(&PeeringState::PendingAcceptance)
        };
        if !answer.vpc_peering_connections().iter().any(waits) {
            return Ok(retagged);
        }
        let accept = || async {
            let call = aws.ec2.accept_vpc_peering_connection().vpc_peering_connection_id(&there.native);
            call.send().await.map_err(problem("ec2:AcceptVpcPeeringConnection"))
        };
        aws.once_visible(accept).await?;
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.ec2.delete_vpc_peering_connection().vpc_peering_connection_id(&there.native);
        call.send().await.map_err(problem("ec2:DeleteVpcPeeringConnection")).map(drop)
    }

    async fn claim(&self, aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
        claim(aws, wanted, foreign).await
    }
}

pub(super) struct GatewayEndpoint;

fn endpoint_stage(endpoint: &aws_sdk_ec2::types::VpcEndpoint) -> Option<Stage> {
    // The states have other cases at other services than in the SDK's list.
    Some(match endpoint.state()?.as_str().to_ascii_lowercase().as_str() {
        "available" => Stage::Ready,
        "deleting" => Stage::Going,
        "deleted" | "rejected" | "expired" => return None,
        "failed" => Stage::Broken("it failed".to_owned()),
        _ => Stage::Coming,
    })
}

fn tables(value: Option<&Value>) -> BTreeSet<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[async_trait]
impl Kind for GatewayEndpoint {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.ec2.describe_vpc_endpoints().filters(by_tags(which)).max_results(1000);
        let endpoints = all!("ec2:DescribeVpcEndpoints", call);
        let see = |endpoint: &aws_sdk_ec2::types::VpcEndpoint| {
            let stage = endpoint_stage(endpoint)?;
            let service = endpoint.service_name().and_then(|name| name.rsplit('.').next());
            let inputs = json!({
                "vpc_id": endpoint.vpc_id(),
                "service": service,
                "route_table_ids": set(endpoint.route_table_ids().iter().cloned().map(Value::from)),
            });
            Some(sighting(endpoint.vpc_endpoint_id(), endpoint.tags(), inputs)?.at(stage))
        };
        Ok(endpoints.iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let service = wanted.text("service").unwrap_or_default();
        let call = aws.ec2.create_vpc_endpoint().set_vpc_id(wanted.text("vpc_id").map(str::to_owned));
        let call = call.service_name(format!("com.amazonaws.{}.{service}", aws.region()));
        let call = call.vpc_endpoint_type(VpcEndpointType::Gateway);
        let call = call.set_route_table_ids(Some(wanted.texts("route_table_ids")));
        let call = call.client_token(token(wanted.object, wanted.inputs));
        let call = call.tag_specifications(specification(ResourceType::VpcEndpoint, wanted));
        call.send().await.map_err(problem("ec2:CreateVpcEndpoint")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let retagged = retag(aws, there, wanted).await?;
        let name = "route_table_ids";
        let (before, after) = (tables(there.inputs.get(name)), tables(wanted.inputs.get(name)));
        if before == after {
            return Ok(retagged);
        }
        let some = |ids: Vec<String>| if ids.is_empty() { None } else { Some(ids) };
        let call = aws.ec2.modify_vpc_endpoint().vpc_endpoint_id(&there.native);
        let call = call.set_add_route_table_ids(some(after.difference(&before).cloned().collect()));
        let call = call.set_remove_route_table_ids(some(before.difference(&after).cloned().collect()));
        call.send().await.map_err(problem("ec2:ModifyVpcEndpoint"))?;
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.ec2.delete_vpc_endpoints().vpc_endpoint_ids(&there.native);
        let answer = call.send().await.map_err(problem("ec2:DeleteVpcEndpoints"))?;
        match answer.unsuccessful().first().and_then(|item| item.error()) {
            Some(error) => {
                let message = error.message().unwrap_or("it cannot be removed");
                Err(Problem::failed("ec2:DeleteVpcEndpoints", message))
            }
            None => Ok(()),
        }
    }

    async fn claim(&self, aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
        claim(aws, wanted, foreign).await
    }
}
