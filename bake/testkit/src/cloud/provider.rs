//! The cloud as providers are asked: [`Process`] is a provider with groups.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use olbake_core::Digest;
use olbake_core::rollout::{Availability, InstanceId, Lien};
use olbake_core::stack::Catalog;
use olbake_engine::stack::provider::{Fleet, Launch, Live, Object, Provider, ProviderError, Seen};
use olbake_engine::stack::{HookCommand, Images, StackError};
use serde_json::{Map, Value};

use super::Process;
use super::faults::{Fault, Nature};
use super::types::catalog;
use super::world::World;

/// How long a change takes.
const LATENCY: Duration = Duration::from_millis(50);

/// Properties or outputs.
type Values = Map<String, Value>;

impl Process {
    /// Makes a call: looks whether it is to go wrong, waits as a network has it, and does it. What it does is told
    /// whether it gets to its end.
    async fn call<T>(
        &self,
        nature: Nature,
        what: String,
        act: impl FnOnce(&mut World, bool) -> Result<T, ProviderError> + Send,
    ) -> Result<T, ProviderError> {
        let faults = &self.cloud.faults;
        let fault = faults.begin(self.number, nature, what.clone());
        match fault {
            Some(Fault::HangBefore) => faults.hang().await,
            Some(Fault::Fail) => return Err(ProviderError::Failed { message: what, source: None }),
            Some(Fault::Refuse) => return Err(ProviderError::refused(what)),
            _ => {}
        }
        if nature != Nature::Read {
            let _busy = self.cloud.busy();
            tokio::time::sleep(LATENCY).await;
        }
        let result = self.cloud.with(|world| act(world, fault != Some(Fault::HangHalfway)));
        match fault {
            Some(Fault::HangAfter | Fault::HangHalfway) => faults.hang().await,
            Some(Fault::LoseAnswer) => return Err(ProviderError::TimedOut { what, after: LATENCY }),
            _ => {}
        }
        result
    }
}

#[async_trait]
impl Provider for Process {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn catalog(&self) -> Catalog {
        catalog()
    }

    async fn create(&self, object: &Object, inputs: &Values) -> Result<Values, ProviderError> {
        let what = format!("create {}", object.id);
        self.call(Nature::Object, what, |world, whole| world.create(object, inputs, whole)).await
    }

    async fn read(&self, object: &Object, _inputs: &Values) -> Result<Option<Live>, ProviderError> {
        self.call(Nature::Read, format!("read {}", object.id), |world, _| Ok(world.read(object))).await
    }

    async fn update(&self, object: &Object, inputs: &Values) -> Result<Values, ProviderError> {
        let what = format!("update {}", object.id);
        self.call(Nature::Object, what, |world, _| world.update(object, inputs)).await
    }

    async fn delete(&self, object: &Object, _inputs: &Values) -> Result<(), ProviderError> {
        let what = format!("delete {}", object.id);
        self.call(Nature::Object, what, |world, whole| world.delete(object, whole)).await
    }

    async fn import(&self, object: &Object, foreign: &str, _inputs: &Values) -> Result<Live, ProviderError> {
        let what = format!("import {foreign} as {}", object.id);
        self.call(Nature::Object, what, |world, whole| world.import(object, foreign, whole)).await
    }

    async fn list(&self) -> Result<Vec<Object>, ProviderError> {
        self.call(Nature::Read, "list".to_owned(), |world, _| Ok(world.list())).await
    }

    fn fleet(&self) -> Option<&dyn Fleet> {
        Some(self)
    }
}

#[async_trait]
impl Fleet for Process {
    async fn observe(&self, group: &Object, inputs: &Values) -> Result<Vec<Seen>, ProviderError> {
        let what = format!("observe {}", group.id);
        self.call(Nature::Read, what, |world, _| Ok(world.observe(group, inputs))).await
    }

    async fn launch(&self, group: &Object, _inputs: &Values, launch: &Launch) -> Result<(), ProviderError> {
        let what = format!("launch {}", launch.instance);
        self.call(Nature::Instance, what, |world, _| world.launch(group, launch)).await
    }

    async fn attach(
        &self,
        _group: &Object,
        inputs: &Values,
        instance: &InstanceId,
        weight: u32,
    ) -> Result<(), ProviderError> {
        let what = format!("attach {instance}");
        self.call(Nature::Instance, what, |world, _| world.attach(inputs, instance, weight)).await
    }

    async fn weigh(
        &self,
        group: &Object,
        _inputs: &Values,
        weights: &[(InstanceId, u32)],
    ) -> Result<(), ProviderError> {
        self.call(Nature::Instance, format!("weigh {}", group.id), |world, _| world.weigh(weights)).await
    }

    async fn drain(
        &self,
        _group: &Object,
        _inputs: &Values,
        instance: &InstanceId,
    ) -> Result<(), ProviderError> {
        let drain = |world: &mut World, _| {
            world.drain(instance);
            Ok(())
        };
        self.call(Nature::Instance, format!("drain {instance}"), drain).await
    }

    async fn detach(
        &self,
        _group: &Object,
        _inputs: &Values,
        instance: &InstanceId,
    ) -> Result<(), ProviderError> {
        let detach = |world: &mut World, _| {
            world.detach(instance);
            Ok(())
        };
        self.call(Nature::Instance, format!("detach {instance}"), detach).await
    }

    async fn run(
        &self,
        _group: &Object,
        instance: &InstanceId,
        argv: &[String],
        _limit: Duration,
    ) -> Result<(), ProviderError> {
        let run = |world: &mut World, _| {
            world.ran.push((instance.clone(), argv.to_vec()));
            Ok(())
        };
        self.call(Nature::Instance, format!("run on {instance}"), run).await
    }

    fn liens(&self) -> BTreeSet<Lien> {
        self.cloud.settings().liens.clone()
    }

    async fn take(&self, group: &Object, lien: Lien) -> Result<(), ProviderError> {
        let take = |world: &mut World, _| {
            world.liens.insert((group.id.clone(), lien));
            Ok(())
        };
        self.call(Nature::Instance, format!("take {lien} of {}", group.id), take).await
    }

    async fn release(&self, group: &Object, lien: Lien) -> Result<(), ProviderError> {
        let release = |world: &mut World, _| {
            world.liens.remove(&(group.id.clone(), lien));
            Ok(())
        };
        self.call(Nature::Instance, format!("release {lien} of {}", group.id), release).await
    }

    async fn room(&self, _group: &Object, _inputs: &Values) -> Result<Option<u32>, ProviderError> {
        Ok(self.cloud.settings().room)
    }

    async fn fetch(&self, _group: &Object, image: &Digest) -> Result<(), ProviderError> {
        match self.cloud.settings().damaged.contains(image) {
            true => Err(ProviderError::refused(format!("a block of `{image}` is damaged"))),
            false => Ok(()),
        }
    }

    async fn terminate(&self, _group: &Object, instance: &InstanceId) -> Result<(), ProviderError> {
        let terminate = |world: &mut World, _| {
            world.terminate(instance);
            Ok(())
        };
        self.call(Nature::Instance, format!("terminate {instance}"), terminate).await
    }
}

#[async_trait]
impl Images for Process {
    async fn availability(&self, image: &Digest) -> Result<Availability, StackError> {
        Ok(self.cloud.settings().availability.get(image).copied().unwrap_or(Availability::Launchable))
    }

    async fn upgrade_hooks(&self, image: &Digest) -> Result<Vec<HookCommand>, StackError> {
        Ok(self.cloud.settings().hooks.get(image).cloned().unwrap_or_default())
    }
}
