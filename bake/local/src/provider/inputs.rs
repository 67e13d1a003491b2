//! Properties of resources as the cloud takes them.

use std::net::Ipv4Addr;
use std::time::Duration;

use camino::Utf8PathBuf;
use olbake_engine::stack::provider::ProviderError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::refusal;
use crate::cloud::{BalancerSpec, Cidr, HealthCheck, Id, ListenOn, Listener, Mode};

/// Reads complete properties; the schema has checked them already, so this fails for what no schema can say.
pub(super) fn read<T: DeserializeOwned>(inputs: &Map<String, Value>) -> Result<T, ProviderError> {
    serde_json::from_value(Value::Object(inputs.clone()))
        .map_err(|error| ProviderError::refused(error.to_string()))
}

#[derive(Debug, Deserialize)]
pub(super) struct Network {
    pub(super) cidr: Cidr,
}

#[derive(Debug, Deserialize)]
pub(super) struct Volume {
    pub(super) size: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Name {
    pub(super) network: String,
    pub(super) name: String,
    pub(super) addresses: Vec<Ipv4Addr>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Balancer {
    network: String,
    listeners: Vec<BalancerListener>,
    health_path: Option<String>,
    health_interval: String,
    health_timeout: String,
    rise: u8,
    fall: u8,
    drain_timeout: String,
}

#[derive(Debug, Deserialize)]
struct BalancerListener {
    port: u16,
    backend: String,
    mode: Mode,
    on: ListenOn,
}

pub(super) fn balancer_spec(id: Id, inputs: &Balancer) -> Result<BalancerSpec, ProviderError> {
    let Balancer {
        network,
        listeners,
        health_path,
        health_interval,
        health_timeout,
        rise,
        fall,
        drain_timeout,
    } = inputs;
    let listeners = listeners.iter().map(|listener| {
        let BalancerListener { port, backend, mode, on } = listener;
        Ok(Listener { port: *port, on: *on, backend: backend.parse().map_err(refusal)?, mode: *mode })
    });
    Ok(BalancerSpec {
        id,
        network: network.parse().map_err(refusal)?,
        listeners: listeners.collect::<Result<_, ProviderError>>()?,
        health: HealthCheck {
            path: health_path.clone(),
            interval: duration(health_interval)?,
            timeout: duration(health_timeout)?,
            rise: *rise,
            fall: *fall,
        },
        drain_timeout: duration(drain_timeout)?,
    })
}

/// A balancer as it is, in the form of its properties.
pub(super) fn seen_balancer(spec: &BalancerSpec) -> Value {
    let listeners: Vec<Value> = spec
        .listeners
        .iter()
        .map(|Listener { port, on, backend, mode }| json!({"port": port, "on": on, "backend": backend, "mode": mode}))
        .collect();
    json!({"network": spec.network, "listeners": listeners, "health_path": spec.health.path})
}

/// What a group of the local cloud has besides what all groups have.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Group {
    pub(super) network: String,
    pub(super) load_balancer: Option<Behind>,
    pub(super) hostname: Option<String>,
    pub(super) user_data: Option<String>,
    pub(super) volumes: Vec<Mounted>,
    pub(super) vm: bool,
    pub(super) memory: Option<u64>,
    pub(super) cpu_percent: Option<u32>,
}

/// The name that stands for a group's instances.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Named {
    pub(super) network: String,
    pub(super) dns_name: Option<String>,
}

/// The balancer in front of a group.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Behind {
    pub(super) balancer: String,
    pub(super) backend: String,
    pub(super) port: u16,
}

/// Where volumes are mounted.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Mounted {
    pub(super) path: Utf8PathBuf,
    pub(super) volumes: Vec<String>,
}

/// A duration in its canonical form: `90s`, `1500ms`.
fn duration(text: &str) -> Result<Duration, ProviderError> {
    let wrong = |_| ProviderError::refused(format!("`{text}` is no duration"));
    match text.strip_suffix("ms") {
        Some(number) => number.parse().map(Duration::from_millis).map_err(wrong),
        None => text.trim_end_matches('s').parse().map(Duration::from_secs).map_err(wrong),
    }
}
