//! The local cloud as a provider of resources. Main type: [`LocalProvider`].
//!
//! Objects and instances are those of [`crate::cloud`]; beside each there is a file that says whose it is
//! (`tags.rs`), written first and removed last. Every verb can be repeated.

mod catalog;
mod fleet;
mod inputs;
mod tags;

use std::sync::Arc;

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::stack::{Catalog, ObjectId};
use olbake_engine::stack::provider::{Fleet, Live, Object, Provider, ProviderError};
use serde_json::{Map, Value, json};

use crate::cloud::{Cloud, CloudError, Id, NetworkSpec, RecordSpec, VolumeSpec};
use inputs::{balancer_spec, read};
use tags::Tags;

/// Where the raw disks of versions come from.
#[async_trait]
pub trait Disks: Send + Sync {
    /// The raw disk of a version. It need not outlive the next call: the cloud keeps its own.
    async fn raw(&self, version: &Digest) -> Result<Utf8PathBuf, ProviderError>;
}

/// The local cloud of a folder.
#[derive(Clone)]
pub struct LocalProvider {
    cloud: Cloud,
    tags: Tags,
    disks: Arc<dyn Disks>,
}

impl LocalProvider {
    /// The cloud of a folder.
    pub fn open(folder: &Utf8Path, disks: Arc<dyn Disks>) -> Result<Self, CloudError> {
        Ok(Self { cloud: Cloud::open(folder)?, tags: Tags::new(folder), disks })
    }

    /// The types of resources, without a cloud.
    pub fn types() -> Catalog {
        catalog::catalog()
    }

    async fn ensure(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ProviderError> {
        self.tags
            .put(object, &kept(inputs))
            .map_err(|error| ProviderError::failed("cannot write down whose it is", error))?;
        let id = cloud_id(&object.id)?;
        let outputs = match object.ty.as_str() {
            catalog::NETWORK => {
                let inputs: inputs::Network = read(inputs)?;
                let view = self
                    .cloud
                    .ensure_network(NetworkSpec { id, cidr: inputs.cidr })
                    .await
                    .map_err(refusal)?
                    .view;
                json!({"id": object.id, "cidr": view.cidr, "gateway": view.gateway})
            }
            catalog::VOLUME => {
                let inputs: inputs::Volume = read(inputs)?;
                let view = self
                    .cloud
                    .ensure_volume(VolumeSpec { id, size: inputs.size })
                    .await
                    .map_err(refusal)?
                    .view;
                json!({"id": object.id, "size": view.size})
            }
            catalog::BALANCER => {
                let spec = balancer_spec(id, &read(inputs)?)?;
                let network = spec.network.clone();
                self.cloud.ensure_balancer(spec).await.map_err(refusal)?;
                json!({"id": object.id, "address": self.gateway(&network).await?})
            }
            catalog::NAME => {
                let inputs: inputs::Name = read(inputs)?;
                let network = inputs.network.parse().map_err(refusal)?;
                let spec = RecordSpec { id, network, name: inputs.name.clone(), addresses: inputs.addresses };
                self.cloud.ensure_record(spec).await.map_err(refusal)?;
                json!({"id": object.id, "name": inputs.name})
            }
            catalog::GROUP => {
                let named: inputs::Named = read(inputs)?;
                self.name_group(object, &named).await?;
                json!({"id": object.id, "dns_name": named.dns_name})
            }
            other => {
                return Err(ProviderError::refused(format!("there are no resources of type `{other}` here")));
            }
        };
        match outputs {
            Value::Object(outputs) => Ok(outputs),
            _ => Ok(Map::new()),
        }
    }

    async fn gateway(&self, network: &Id) -> Result<Value, ProviderError> {
        let view = self.cloud.inspect_network(network).await.map_err(failure)?;
        let view = view.ok_or_else(|| ProviderError::refused(format!("there is no network `{network}`")))?;
        Ok(json!(view.gateway))
    }

    /// What an object is; none: it is not there.
    async fn inspect(&self, object: &Object) -> Result<Option<Live>, ProviderError> {
        let tag = self
            .tags
            .get(&object.id)
            .map_err(|error| ProviderError::failed("cannot read whose it is", error))?;
        let Some(tag) = tag else { return Ok(None) };
        let id = cloud_id(&object.id)?;
        let live = |inputs: Value, outputs: Value, runs: bool| match (inputs, outputs) {
            (Value::Object(inputs), Value::Object(outputs)) => Some(Live { inputs, outputs, stopped: !runs }),
            _ => None,
        };
        Ok(match object.ty.as_str() {
            catalog::NETWORK => {
                let view = self.cloud.inspect_network(&id).await.map_err(failure)?;
                view.and_then(|view| {
                    let cidr = json!({"cidr": view.cidr});
                    let outputs = json!({"id": object.id, "cidr": view.cidr, "gateway": view.gateway});
                    live(cidr, outputs, view.up && view.names)
                })
            }
            catalog::VOLUME => {
                let view = self.cloud.inspect_volume(&id).await.map_err(failure)?;
                view.and_then(|view| {
                    live(json!({"size": view.size}), json!({"id": object.id, "size": view.size}), true)
                })
            }
            catalog::BALANCER => {
                let view = self.cloud.inspect_balancer(&id).await.map_err(failure)?;
                match view {
                    Some(view) => {
                        let address = self.gateway(&view.spec.network).await?;
                        let outputs = json!({"id": object.id, "address": address});
                        live(inputs::seen_balancer(&view.spec), outputs, view.up)
                    }
                    None => None,
                }
            }
            catalog::NAME => {
                let view = self.cloud.inspect_record(&id).await.map_err(failure)?;
                view.and_then(|view| {
                    let served = view.served;
                    let RecordSpec { network, name, addresses, .. } = view.spec;
                    let inputs = json!({"network": network, "name": name, "addresses": addresses});
                    live(inputs, json!({"id": object.id, "name": name}), served)
                })
            }
            catalog::GROUP => {
                let dns_name = tag.inputs.get("dns_name").cloned().unwrap_or_default();
                live(json!({}), json!({"id": object.id, "dns_name": dns_name}), true)
            }
            _ => None,
        })
    }

    async fn remove(&self, object: &Object) -> Result<(), ProviderError> {
        let id = cloud_id(&object.id)?;
        match object.ty.as_str() {
            catalog::NETWORK => self.cloud.delete_network(&id).await,
            catalog::VOLUME => self.cloud.delete_volume(&id).await,
            catalog::BALANCER => self.cloud.delete_balancer(&id).await,
            catalog::NAME => self.cloud.delete_record(&id).await,
            catalog::GROUP => {
                self.end_group(object).await?;
                self.cloud.delete_record(&id).await
            }
            other => {
                return Err(ProviderError::refused(format!("there are no resources of type `{other}` here")));
            }
        }
        .map_err(failure)?;
        self.tags
            .remove(&object.id)
            .map_err(|error| ProviderError::failed("cannot forget whose it was", error))
    }
}

#[async_trait]
impl Provider for LocalProvider {
    fn name(&self) -> &str {
        "local"
    }

    fn catalog(&self) -> Catalog {
        catalog::catalog()
    }

    async fn create(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ProviderError> {
        self.ensure(object, inputs).await
    }

    async fn read(
        &self,
        object: &Object,
        _inputs: &Map<String, Value>,
    ) -> Result<Option<Live>, ProviderError> {
        self.inspect(object).await
    }

    async fn update(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ProviderError> {
        self.ensure(object, inputs).await
    }

    async fn delete(&self, object: &Object, _inputs: &Map<String, Value>) -> Result<(), ProviderError> {
        self.remove(object).await
    }

    async fn list(&self) -> Result<Vec<Object>, ProviderError> {
        self.tags.list().map_err(|error| ProviderError::failed("cannot list the cloud's objects", error))
    }

    fn fleet(&self) -> Option<&dyn Fleet> {
        Some(self)
    }
}

/// What is written down of an object's properties: what is needed without the plan at hand, and nothing that could
/// hold a secret.
fn kept(inputs: &Map<String, Value>) -> Map<String, Value> {
    let kept = ["network", "dns_name"].into_iter();
    kept.filter_map(|name| inputs.get(name).map(|value| (name.to_owned(), value.clone()))).collect()
}

/// The cloud calls an object what the plan calls it.
fn cloud_id(id: &ObjectId) -> Result<Id, ProviderError> {
    id.as_str().parse().map_err(refusal)
}

/// An error of the cloud while something is made: some are the same on every try.
fn refusal(error: CloudError) -> ProviderError {
    match error {
        CloudError::Id { .. }
        | CloudError::Spec { .. }
        | CloudError::Overlap { .. }
        | CloudError::Full { .. }
        | CloudError::Missing { .. }
        | CloudError::Different { .. } => ProviderError::refused(error.to_string()),
        other => failure(other),
    }
}

/// An error of the cloud that another try may not meet.
fn failure(error: CloudError) -> ProviderError {
    let message = match &error {
        CloudError::Start { console, .. } => match console.trim_end().lines().last() {
            Some(last) => format!("{error}; its last line: {last}"),
            None => error.to_string(),
        },
        other => other.to_string(),
    };
    ProviderError::Failed {
        message,
        source: std::error::Error::source(&error).map(|source| source.to_string().into()),
    }
}
