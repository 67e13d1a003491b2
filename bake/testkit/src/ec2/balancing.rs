//! Tells load balancers what moto's records say, and moto how targets are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::balancer::{
    Action, Check, HostBalancers, Listener, LoadBalancer, LoadBalancers, Protocol, Rule, Target, TargetGroup,
};
use super::error::CloudError;
use super::shared::Shared;

/// What `load_balancers` of `moto/balancers.py` tells.
#[derive(Deserialize)]
struct Told {
    balancers: BTreeMap<String, Vec<ToldListener>>,
    groups: BTreeMap<String, ToldGroup>,
}

#[derive(Deserialize)]
struct ToldListener {
    port: u16,
    protocol: String,
    default: ToldAction,
    rules: Vec<ToldRule>,
}

#[derive(Deserialize)]
struct ToldRule {
    hosts: Vec<String>,
    paths: Vec<String>,
    action: ToldAction,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ToldAction {
    Forward(BTreeMap<String, u16>),
    Fixed { status: u16, content_type: String, body: String },
    Redirect { status: u16, location: String },
}

#[derive(Deserialize)]
struct ToldGroup {
    check: ToldCheck,
    deregistration_delay: u64,
    targets: Vec<ToldTarget>,
}

#[derive(Deserialize)]
struct ToldCheck {
    protocol: String,
    path: String,
    port: Option<u16>,
    interval: u64,
    timeout: u64,
    healthy: u16,
    unhealthy: u16,
    matcher: String,
}

#[derive(Deserialize)]
struct ToldTarget {
    id: String,
    address: Option<Ipv4Addr>,
    port: u16,
}

/// Makes load balancers be as the records say, and tells moto how targets are.
pub(super) async fn reconcile(shared: &Arc<Shared>) -> Result<(), CloudError> {
    let Some(balancers) = &shared.balancers else { return Ok(()) };
    let told = shared.moto.record("load_balancers", &json!({})).await?;
    let told: Told = serde_json::from_value(told).map_err(|error| CloudError::Answer(error.to_string()))?;
    let wanted = wanted(told);
    balancers.apply(&wanted);
    let measured = measured(balancers, &wanted);
    shared.moto.record("set_health", &json!({ "measured": measured })).await.map(drop)
}

/// State, reason and description of each target, by group.
fn measured(balancers: &HostBalancers, wanted: &LoadBalancers) -> BTreeMap<String, BTreeMap<String, Value>> {
    let group = |(arn, group): (&String, &TargetGroup)| {
        let targets = group.targets.iter().map(|target| {
            let health = balancers.health(arn, target);
            (target.id.clone(), json!([health.state(), health.reason(), health.description()]))
        });
        (arn.clone(), targets.collect())
    };
    wanted.groups.iter().map(group).collect()
}

fn wanted(told: Told) -> LoadBalancers {
    let Told { balancers, groups } = told;
    let balancer = |(arn, listeners): (String, Vec<ToldListener>)| {
        (arn, LoadBalancer { listeners: listeners.into_iter().filter_map(listener).collect() })
    };
    LoadBalancers {
        balancers: balancers.into_iter().map(balancer).collect(),
        groups: groups.into_iter().map(|(arn, told)| (arn, group(told))).collect(),
    }
}

/// A listener; nothing if it speaks what is not served here.
fn listener(told: ToldListener) -> Option<Listener> {
    let protocol = match told.protocol.as_str() {
        "HTTP" => Protocol::Http,
        "TCP" => Protocol::Tcp,
        _ => return None,
    };
    let rule = |ToldRule { hosts, paths, action: told }| Rule { hosts, paths, action: action(told) };
    let rules = told.rules.into_iter().map(rule).collect();
    Some(Listener { port: told.port, protocol, rules, default: action(told.default) })
}

fn action(told: ToldAction) -> Action {
    match told {
        ToldAction::Forward(groups) => Action::Forward(groups),
        ToldAction::Fixed { status, content_type, body } => Action::Fixed { status, content_type, body },
        ToldAction::Redirect { status, location } => Action::Redirect { status, location },
    }
}

fn group(told: ToldGroup) -> TargetGroup {
    let ToldCheck { protocol, path, port, interval, timeout, healthy, unhealthy, matcher } = told.check;
    let protocol = if protocol.starts_with("HTTP") { Protocol::Http } else { Protocol::Tcp };
    let check = Check {
        protocol,
        path,
        port,
        interval: Duration::from_secs(interval),
        timeout: Duration::from_secs(timeout),
        healthy_threshold: healthy,
        unhealthy_threshold: unhealthy,
        // Ranges are written alike; ours are separated by commas, too.
        matcher,
    };
    let target = |ToldTarget { id, address, port }| Some(Target { id, address: address?, port });
    let targets: BTreeSet<Target> = told.targets.into_iter().filter_map(target).collect();
    TargetGroup { check, deregistration_delay: Duration::from_secs(told.deregistration_delay), targets }
}
