//! What a provider of resources can do: the traits [`Provider`] and [`Fleet`].
//!
//! Every object has an id that is fixed in the plan before a provider is asked for it, and every call can be
//! repeated: a create of an id that is there gives that object, a delete of one that is gone succeeds. So after a
//! crash the question "did it happen?" has an answer, and asking again does no harm.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use olbake_core::Digest;
use olbake_core::rollout::{CheckName, InstanceId, Lien, Verdict};
use olbake_core::stack::{Catalog, ObjectId, ResourceName, ResourceType, StackName};
use serde_json::{Map, Value};

/// Why a provider could not do something.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// What was asked for cannot be: another try gives the same.
    #[error("{message}")]
    Refused {
        /// Why, a lower-case fragment.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// It did not work this time.
    #[error("{message}")]
    Failed {
        /// What, a lower-case fragment.
        message: String,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// It took too long.
    #[error("{what} was not done after {} s", after.as_secs())]
    TimedOut {
        /// What.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
}

impl ProviderError {
    /// Something that cannot be.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), help: None }
    }

    /// Something that did not work, and why.
    pub fn failed(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { message: message.into(), source: Some(source.into()) }
    }
}

/// An object, as the plan names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The stack that it is of.
    pub stack: StackName,
    /// The resource that it is for.
    pub name: ResourceName,
    /// Its type.
    pub ty: ResourceType,
    /// Its id.
    pub id: ObjectId,
}

/// An object as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    /// The properties that the provider can see; those that it cannot are absent. A secret is never among them: null
    /// stands for one that is not what it is to be.
    pub inputs: Map<String, Value>,
    /// What it gives.
    pub outputs: Map<String, Value>,
    /// It is there, and does not do what it is there for until it is updated.
    pub stopped: bool,
}

/// A place where resources are.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The part of types' names before the dot: `local`.
    fn name(&self) -> &str;

    /// The types that it has.
    fn catalog(&self) -> Catalog;

    /// Makes an object; gives its outputs. The inputs are complete: references and secrets are put in.
    async fn create(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ProviderError>;

    /// Looks at an object. None: it is not there. Secrets that are known here are put in; markers of others stay.
    async fn read(&self, object: &Object, inputs: &Map<String, Value>)
    -> Result<Option<Live>, ProviderError>;

    /// Changes an object where it stands; gives its outputs.
    async fn update(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ProviderError>;

    /// Removes an object, and with a group all of its instances. One that is gone already is no error.
    async fn delete(&self, object: &Object, inputs: &Map<String, Value>) -> Result<(), ProviderError>;

    /// Takes an object that was not made by olbake under an id; gives its properties and outputs. The inputs are those
    /// that are declared for it: they say where it is, and are not made true.
    async fn import(
        &self,
        object: &Object,
        _foreign: &str,
        _inputs: &Map<String, Value>,
    ) -> Result<Live, ProviderError> {
        Err(ProviderError::refused(format!("objects of type `{}` cannot be imported", object.ty)))
    }

    /// Every object that exists here and carries a stack's name, whether a state knows of it or not.
    async fn list(&self) -> Result<Vec<Object>, ProviderError>;

    /// What looks at many objects at once; none where each is looked at by itself.
    fn bulk(&self) -> Option<&dyn Bulk> {
        None
    }

    /// The instances of groups; none where the provider has no groups.
    fn fleet(&self) -> Option<&dyn Fleet> {
        None
    }
}

/// Looks at many objects with few calls.
#[async_trait]
pub trait Bulk: Send + Sync {
    /// Looks at objects of one stack, with what [`Provider::read`] is given for each. What it says comes in the same
    /// order.
    async fn read_all(
        &self,
        objects: &[(Object, Map<String, Value>)],
    ) -> Result<Vec<Option<Live>>, ProviderError>;
}

/// An instance to be.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The instance; the rollout chose its id.
    pub instance: InstanceId,
    /// The digest of the release that it belongs to.
    pub release: Digest,
    /// Its place, where places matter.
    pub slot: Option<u32>,
    /// The properties of the release, complete.
    pub properties: Map<String, Value>,
}

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It is not there.
    Absent,
    /// It boots.
    Booting,
    /// It is up.
    Running,
    /// It is there, and stopped.
    Stopped,
}

/// An instance, as it is seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The instance.
    pub instance: InstanceId,
    /// Its release, as it was launched.
    pub release: Option<Digest>,
    /// Its place, as it was launched.
    pub slot: Option<u32>,
    /// When it was launched, in milliseconds since the Unix epoch.
    pub since: Option<u64>,
    /// Where it is in its life.
    pub life: Life,
    /// Its address, once it has one.
    pub address: Option<String>,
    /// The image that it says it runs.
    pub image: Option<Digest>,
    /// Where the load balancer sends requests to it: what the balancer's own check says.
    pub in_service: Option<Verdict>,
    /// Where the load balancer sends nothing new to it: the connections that it still serves.
    pub draining: Option<u32>,
    /// Whether each of the group's health checks holds, with what was seen.
    pub checks: Vec<Probe>,
    /// The end of its console, where it did not come up.
    pub console: Option<String>,
}

/// A health check's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What was asked: `http :8080/health`.
    pub check: CheckName,
    /// Whether it holds.
    pub holds: bool,
    /// What was seen: `503`, `connection refused`.
    pub seen: String,
}

/// The instances of groups. A group is an [`Object`]; its inputs are handed along complete.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// Looks at every instance of a group.
    async fn observe(&self, group: &Object, inputs: &Map<String, Value>) -> Result<Vec<Seen>, ProviderError>;

    /// Starts an instance. One that is there and runs stays; one that is stopped is started again.
    async fn launch(
        &self,
        group: &Object,
        inputs: &Map<String, Value>,
        launch: &Launch,
    ) -> Result<(), ProviderError>;

    /// Has the load balancer send requests to an instance, with a weight; of 0: none yet.
    async fn attach(
        &self,
        group: &Object,
        inputs: &Map<String, Value>,
        instance: &InstanceId,
        weight: u32,
    ) -> Result<(), ProviderError>;

    /// Sets the weights of instances at the load balancer, all at once.
    async fn weigh(
        &self,
        group: &Object,
        inputs: &Map<String, Value>,
        weights: &[(InstanceId, u32)],
    ) -> Result<(), ProviderError>;

    /// Has the load balancer send nothing new to an instance; requests under way end by themselves.
    async fn drain(
        &self,
        group: &Object,
        inputs: &Map<String, Value>,
        instance: &InstanceId,
    ) -> Result<(), ProviderError>;

    /// Takes an instance away from the load balancer.
    async fn detach(
        &self,
        group: &Object,
        inputs: &Map<String, Value>,
        instance: &InstanceId,
    ) -> Result<(), ProviderError>;

    /// Runs a command on an instance; the error has the end of what it wrote.
    async fn run(
        &self,
        group: &Object,
        instance: &InstanceId,
        argv: &[String],
        limit: Duration,
    ) -> Result<(), ProviderError>;

    /// Ends an instance and removes what was its own. Volumes stay.
    async fn terminate(&self, group: &Object, instance: &InstanceId) -> Result<(), ProviderError>;

    /// The temporary changes of a group that its rollouts need.
    fn liens(&self) -> BTreeSet<Lien> {
        BTreeSet::new()
    }

    /// For how many instances more there is room; none: it is not known, or not bounded.
    async fn room(
        &self,
        _group: &Object,
        _inputs: &Map<String, Value>,
    ) -> Result<Option<u32>, ProviderError> {
        Ok(None)
    }

    /// Fetches what instances of an image are launched from: what is missing or damaged is found before a rollout
    /// touches anything.
    async fn fetch(&self, _group: &Object, _image: &Digest) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Makes a temporary change; one that is made already stays.
    async fn take(&self, _group: &Object, _lien: Lien) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Undoes a temporary change; one that is undone already stays so.
    async fn release(&self, _group: &Object, _lien: Lien) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Has whatever keeps the group alive by itself start instances of a release from now on. It is told once a
    /// rollout is over: the release that holds, and the properties that make it, complete.
    async fn keep(
        &self,
        _group: &Object,
        _inputs: &Map<String, Value>,
        _release: &Digest,
        _properties: &Map<String, Value>,
    ) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Whether somebody else replaces a group's instances, so that no rollout of ours does.
    fn delegates(&self, _inputs: &Map<String, Value>) -> bool {
        false
    }

    /// Has somebody else bring a group's instances to its release and its size, and waits until that is done. One
    /// that is under way to there is gone on with.
    async fn delegate(
        &self,
        group: &Object,
        _inputs: &Map<String, Value>,
        _release: &Digest,
    ) -> Result<(), ProviderError> {
        Err(ProviderError::refused(format!("nobody else replaces the instances of `{}`", group.name)))
    }
}
