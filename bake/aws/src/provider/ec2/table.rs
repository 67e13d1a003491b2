//! `aws.route_table`, with its routes and the subnets that use it.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use aws_sdk_ec2::types::{ResourceType, RouteOrigin, RouteTable as Seen};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which, set};
use super::super::problem::{Nature, Problem, problem};
use super::{all, by_tags, claim, filter, retag, sighting, specification};

pub(super) struct RouteTable;

#[derive(Deserialize)]
struct Table {
    routes: Vec<Route>,
    subnet_ids: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Route {
    cidr: String,
    target: String,
}

/// Routes by the addresses that they are for.
type Routes = BTreeMap<String, String>;

/// What a route leads to, whatever it is.
fn target(route: &aws_sdk_ec2::types::Route) -> Option<&str> {
    route
        .gateway_id()
        .or(route.nat_gateway_id())
        .or(route.vpc_peering_connection_id())
        .or(route.transit_gateway_id())
        .or(route.network_interface_id())
}

/// The routes that somebody made: not the VPC's own, and not those of gateway endpoints.
fn routes(table: &Seen) -> Routes {
    let made = table.routes().iter().filter(|route| {
        route.origin().is_none_or(|origin| *origin == RouteOrigin::CreateRoute)
            && target(route).is_some_and(|target| target != "local" && !target.starts_with("vpce-"))
    });
    made.filter_map(|route| Some((route.destination_cidr_block()?.to_owned(), target(route)?.to_owned())))
        .collect()
}

/// The subnets that use a table, with the associations.
fn associations(table: &Seen) -> BTreeMap<String, String> {
    let pair = |association: &aws_sdk_ec2::types::RouteTableAssociation| {
        let id = association.route_table_association_id()?;
        Some((association.subnet_id()?.to_owned(), id.to_owned()))
    };
    table.associations().iter().filter_map(pair).collect()
}

/// A call about a route, with what it leads to told by the beginning of its id.
macro_rules! leads_to {
    ($call:expr, $action:literal, $target:expr) => {{
        let (call, target) = ($call, $target);
        match target.split('-').next().unwrap_or_default() {
            "igw" | "vgw" => Ok(call.gateway_id(target)),
            "nat" => Ok(call.nat_gateway_id(target)),
            "pcx" => Ok(call.vpc_peering_connection_id(target)),
            "tgw" => Ok(call.transit_gateway_id(target)),
            "eni" => Ok(call.network_interface_id(target)),
            _ => Err(Problem::refused($action, format!("a route cannot lead to `{target}`"))),
        }
    }};
}

impl RouteTable {
    async fn describe(aws: &Aws, id: &str) -> Result<Option<Seen>, Problem> {
        let call = aws.ec2.describe_route_tables().filters(filter("route-table-id", [id.to_owned()]));
        let found = call.send().await.map_err(problem("ec2:DescribeRouteTables"))?;
        Ok(found.route_tables().first().cloned())
    }

    async fn route(aws: &Aws, table: &str, there: &Routes, wanted: &[Route]) -> Result<Settled, Problem> {
        let mut settled = Settled::Already;
        for Route { cidr, target } in wanted {
            match there.get(cidr) {
                Some(present) if present == target => continue,
                Some(_) => {
                    let call = aws.ec2.replace_route().route_table_id(table).destination_cidr_block(cidr);
                    let call = leads_to!(call, "ec2:ReplaceRoute", target)?;
                    call.send().await.map_err(problem("ec2:ReplaceRoute"))?;
                }
                None => {
                    let call = aws.ec2.create_route().route_table_id(table).destination_cidr_block(cidr);
                    let call = leads_to!(call, "ec2:CreateRoute", target)?;
                    let create = || async { call.clone().send().await.map_err(problem("ec2:CreateRoute")) };
                    match aws.once_visible(create).await {
                        Err(problem) if problem.nature() != Nature::Exists => return Err(problem),
                        _ => {}
                    }
                }
            }
            settled = Settled::Now;
        }
        for cidr in there.keys().filter(|cidr| !wanted.iter().any(|route| route.cidr == **cidr)) {
            let call = aws.ec2.delete_route().route_table_id(table).destination_cidr_block(cidr);
            call.send().await.map_err(problem("ec2:DeleteRoute"))?;
            settled = Settled::Now;
        }
        Ok(settled)
    }

    async fn associate(
        aws: &Aws,
        table: &str,
        there: &BTreeMap<String, String>,
        wanted: &BTreeSet<String>,
    ) -> Result<Settled, Problem> {
        let mut settled = Settled::Already;
        for subnet in wanted.iter().filter(|subnet| !there.contains_key(*subnet)) {
            let associate = || async {
                let call = aws.ec2.associate_route_table().route_table_id(table).subnet_id(subnet);
                call.send().await.map_err(problem("ec2:AssociateRouteTable"))
            };
            match aws.once_visible(associate).await {
                Err(problem) if problem.is("Resource.AlreadyAssociated") => {
                    Self::take_over(aws, table, subnet).await?;
                }
                other => drop(other?),
            }
            settled = Settled::Now;
        }
        for (_, association) in there.iter().filter(|(subnet, _)| !wanted.contains(*subnet)) {
            Self::disassociate(aws, association).await?;
            settled = Settled::Now;
        }
        Ok(settled)
    }

    /// Has a subnet use this table instead of the one that it uses.
    async fn take_over(aws: &Aws, table: &str, subnet: &str) -> Result<(), Problem> {
        let call = aws.ec2.describe_route_tables();
        let call = call.filters(filter("association.subnet-id", [subnet.to_owned()]));
        let found = call.send().await.map_err(problem("ec2:DescribeRouteTables"))?;
        let associations = found.route_tables().iter().filter(|seen| seen.route_table_id() != Some(table));
        for association in associations.filter_map(|seen| associations_of(seen, subnet)) {
            let call = aws.ec2.replace_route_table_association().association_id(association);
            let call = call.route_table_id(table);
            call.send().await.map_err(problem("ec2:ReplaceRouteTableAssociation"))?;
        }
        Ok(())
    }

    async fn disassociate(aws: &Aws, association: &str) -> Result<(), Problem> {
        let call = aws.ec2.disassociate_route_table().association_id(association);
        match call.send().await.map_err(problem("ec2:DisassociateRouteTable")) {
            Err(problem) if problem.nature() != Nature::Absent => Err(problem),
            _ => Ok(()),
        }
    }
}

fn associations_of(table: &Seen, subnet: &str) -> Option<String> {
    associations(table).remove(subnet)
}

#[async_trait]
impl Kind for RouteTable {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let call = aws.ec2.describe_route_tables().filters(by_tags(which)).max_results(100);
        let tables = all!("ec2:DescribeRouteTables", call);
        let see = |table: &Seen| {
            let routes = routes(table).into_iter();
            let inputs = json!({
                "vpc_id": table.vpc_id(),
                "routes": set(routes.map(|(cidr, target)| json!({"cidr": cidr, "target": target}))),
                "subnet_ids": set(associations(table).into_keys().map(Value::from)),
            });
            sighting(table.route_table_id(), table.tags(), inputs)
        };
        Ok(tables.iter().filter_map(see).collect())
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let call = aws.ec2.create_route_table().set_vpc_id(wanted.text("vpc_id").map(str::to_owned));
        let call = call.client_token(super::super::owner::token(wanted.object, wanted.inputs));
        let call = call.tag_specifications(specification(ResourceType::RouteTable, wanted));
        call.send().await.map_err(problem("ec2:CreateRouteTable")).map(drop)
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let table: Table = wanted.read("ec2:CreateRoute")?;
        let Some(seen) = Self::describe(aws, &there.native).await? else {
            return Err(Problem::failed("ec2:DescribeRouteTables", "the table went meanwhile"));
        };
        let steps = [
            Self::route(aws, &there.native, &routes(&seen), &table.routes).await?,
            Self::associate(aws, &there.native, &associations(&seen), &table.subnet_ids).await?,
            retag(aws, there, wanted).await?,
        ];
        Ok(if steps.contains(&Settled::Now) { Settled::Now } else { Settled::Already })
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        if let Some(seen) = Self::describe(aws, &there.native).await? {
            for association in associations(&seen).values() {
                Self::disassociate(aws, association).await?;
            }
        }
        let call = aws.ec2.delete_route_table().route_table_id(&there.native);
        call.send().await.map_err(problem("ec2:DeleteRouteTable")).map(drop)
    }

    async fn claim(&self, aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
        claim(aws, wanted, foreign).await
    }
}
