//! The instances of a group in the local cloud.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use olbake_core::Digest;
use olbake_core::rollout::{InstanceId, Verdict};
use olbake_engine::machine::Substrate;
use olbake_engine::stack::group::{self, HealthKind};
use olbake_engine::stack::provider::{Fleet, Launch, Life, Object, Probe, ProviderError, Seen};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::inputs::{Behind, Group, Named, read};
use super::tags::Launched;
use super::{LocalProvider, cloud_id, failure, refusal};
use crate::cloud::{
    Attached, Cloud, Health, Id, InstanceSpec, InstanceView, Limits, Member, MemberView, RecordSpec, State,
    probe,
};

/// How long an instance may take to power off in order.
const GRACE: Duration = Duration::from_secs(20);

fn id_of(instance: &InstanceId) -> Result<Id, ProviderError> {
    instance.0.parse().map_err(refusal)
}

fn io(what: &'static str) -> impl Fn(std::io::Error) -> ProviderError {
    move |error| ProviderError::failed(what, error)
}

impl LocalProvider {
    /// Has the group's name, if it has one, stand for the instances that it has.
    pub(super) async fn name_group(&self, object: &Object, group: &Named) -> Result<(), ProviderError> {
        let id = cloud_id(&object.id)?;
        let Some(name) = &group.dns_name else { return self.cloud.delete_record(&id).await.map_err(failure) };
        let mut addresses = Vec::new();
        for (instance, _) in self.tags.instances_of(&object.id).map_err(io("cannot list instances"))? {
            let view = self.cloud.inspect_instance(&id_of(&instance)?).await.map_err(failure)?;
            addresses.extend(view.filter(|view| view.state != State::Stopped).and_then(|view| view.address));
        }
        if addresses.is_empty() {
            return self.cloud.delete_record(&id).await.map_err(failure);
        }
        let network = group.network.parse().map_err(refusal)?;
        let spec = RecordSpec { id, network, name: name.clone(), addresses };
        self.cloud.ensure_record(spec).await.map(drop).map_err(refusal)
    }

    /// Ends all instances of a group.
    pub(super) async fn end_group(&self, object: &Object) -> Result<(), ProviderError> {
        let mut ends = JoinSet::new();
        for (instance, _) in self.tags.instances_of(&object.id).map_err(io("cannot list instances"))? {
            let (provider, object) = (self.clone(), object.clone());
            ends.spawn(async move { provider.end(&object, &instance).await });
        }
        while let Some(end) = ends.join_next().await {
            end.map_err(|error| ProviderError::failed("an instance could not be ended", error))??;
        }
        Ok(())
    }

    async fn end(&self, object: &Object, instance: &InstanceId) -> Result<(), ProviderError> {
        self.cloud.terminate_instance(&id_of(instance)?, GRACE).await.map_err(failure)?;
        self.tags.terminated(&object.id, instance).map_err(io("cannot forget an instance"))
    }

    async fn spec(&self, object: &Object, launch: &Launch) -> Result<InstanceSpec, ProviderError> {
        let Launch { instance, slot, properties, .. } = launch;
        let group: Group = read(properties)?;
        let image: group::Image =
            serde_json::from_value(properties.get("image").cloned().unwrap_or_default())
                .map_err(|error| ProviderError::refused(error.to_string()))?;
        let identity = json!({"image": image.image, "variant": image.variant, "digest": image.digest});
        Ok(InstanceSpec {
            id: id_of(instance)?,
            name: group.hostname.clone().unwrap_or_else(|| hostname(object)),
            network: group.network.parse().map_err(refusal)?,
            digest: image.digest,
            disk: self.disks.raw(&image.digest).await?,
            identity: identity.to_string(),
            user_data: group.user_data.clone(),
            volumes: volumes(&group, *slot)?,
            substrate: if group.vm { Substrate::Vm } else { Substrate::Container },
            limits: Limits { memory: group.memory, cpu_percent: group.cpu_percent },
        })
    }
}

fn hostname(object: &Object) -> String {
    let name = object.name.as_str().replace(['/', '_'], "-").to_ascii_lowercase();
    name.trim_end_matches("-group").to_owned()
}

/// The volumes of the instance in a place.
fn volumes(group: &Group, slot: Option<u32>) -> Result<Vec<Attached>, ProviderError> {
    let place = slot.unwrap_or_default() as usize;
    group
        .volumes
        .iter()
        .map(|mounted| {
            let Some(volume) = mounted.volumes.get(place) else {
                let path = &mounted.path;
                return Err(ProviderError::refused(format!(
                    "the instance in place {place} has no volume for `{path}`: name one for each instance, and use \
                     the strategy `recreate` or `quorum`"
                )));
            };
            Ok(Attached { id: volume.parse().map_err(refusal)?, path: mounted.path.clone() })
        })
        .collect()
}

/// What stands in front of a group.
struct Front {
    balancer: Id,
    backend: Id,
    /// On which instances answer.
    port: u16,
}

fn front(inputs: &Map<String, Value>) -> Result<Option<Front>, ProviderError> {
    let group: Group = read(inputs)?;
    let Some(Behind { balancer, backend, port }) = group.load_balancer else { return Ok(None) };
    let (balancer, backend) = (balancer.parse().map_err(refusal)?, backend.parse().map_err(refusal)?);
    Ok(Some(Front { balancer, backend, port }))
}

fn life(state: State) -> Life {
    match state {
        State::Booting => Life::Booting,
        State::Running | State::Degraded => Life::Running,
        State::Stopping | State::Stopped => Life::Stopped,
    }
}

/// Looks at one instance.
async fn see(
    cloud: Cloud,
    instance: InstanceId,
    launched: Launched,
    member: Option<MemberView>,
    checks: Vec<group::Health>,
) -> Result<Seen, ProviderError> {
    let id = id_of(&instance)?;
    let view = cloud.inspect_instance(&id).await.map_err(failure)?;
    let life = view.as_ref().map_or(Life::Absent, |view| life(view.state));
    let address = view.as_ref().and_then(|view| view.address);
    let running = life == Life::Running;
    let image = if running { cloud.running_digest(&id).await.ok().flatten() } else { None };
    let console = match life {
        Life::Stopped => cloud.console(&id).await.ok(),
        _ => None,
    };
    Ok(Seen {
        checks: if running { ask_all(&cloud, view.as_ref(), checks).await } else { Vec::new() },
        release: Some(launched.release),
        slot: launched.slot,
        since: Some(launched.since),
        life,
        address: address.map(|address| address.to_string()),
        image,
        in_service: member.as_ref().filter(|member| !member.draining).map(|member| verdict(member.health)),
        draining: member.filter(|member| member.draining).map(|member| member.sessions),
        console,
        instance,
    })
}

fn verdict(health: Health) -> Verdict {
    match health {
        Health::Up => Verdict::Passing,
        Health::Down => Verdict::Failing,
        Health::Unknown => Verdict::Unknown,
    }
}

async fn ask_all(cloud: &Cloud, view: Option<&InstanceView>, checks: Vec<group::Health>) -> Vec<Probe> {
    let Some((id, address)) = view.and_then(|view| Some((view.spec.id.clone(), view.address?))) else {
        return Vec::new();
    };
    let mut asked = JoinSet::new();
    for check in checks {
        let (cloud, id) = (cloud.clone(), id.clone());
        asked.spawn(async move { ask(&cloud, &id, address, &check).await });
    }
    let mut probes = Vec::new();
    while let Some(probe) = asked.join_next().await {
        probes.extend(probe);
    }
    probes.sort_by(|a, b| a.check.cmp(&b.check));
    probes
}

/// Asks one check of one instance.
async fn ask(cloud: &Cloud, id: &Id, address: Ipv4Addr, check: &group::Health) -> Probe {
    let (name, limit) = (check.name(), check.timeout());
    let (holds, seen) = match (check.kind, check.port) {
        (HealthKind::Http, port) => {
            let url = format!("http://{address}:{}{}", port.unwrap_or(80), check.path);
            match probe::http(&url, limit).await {
                Ok(answer) => {
                    let has = check.contains.as_ref().is_none_or(|text| answer.body.contains(text));
                    (answer.status == check.status && has, answer.status.to_string())
                }
                Err(error) => (false, error.to_string()),
            }
        }
        (HealthKind::Tcp, port) => {
            let address = SocketAddr::from((address, port.unwrap_or_default()));
            match probe::tcp(address, limit).await {
                Ok(()) => (true, "accepts".to_owned()),
                Err(error) => (false, error.to_string()),
            }
        }
        (HealthKind::Command, _) => match cloud.exec(id, check.command.clone(), limit).await {
            Ok(executed) => (executed.succeeded(), format!("{:?}", executed.outcome)),
            Err(error) => (false, error.to_string()),
        },
    };
    Probe { check: name, holds, seen }
}

#[async_trait]
impl Fleet for LocalProvider {
    async fn observe(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Vec<Seen>, ProviderError> {
        let checks = group::Group::read(inputs).map_err(ProviderError::refused)?.health;
        let members = match front(inputs)? {
            Some(Front { balancer, backend, .. }) => {
                self.cloud.members(&balancer, &backend).await.map_err(failure)?
            }
            None => Vec::new(),
        };
        let mut looks = JoinSet::new();
        for (instance, launched) in self.tags.instances_of(&object.id).map_err(io("cannot list instances"))? {
            let member = members.iter().find(|member| member.member.instance.as_str() == instance.0).cloned();
            looks.spawn(see(self.cloud.clone(), instance, launched, member, checks.clone()));
        }
        let mut seen = Vec::new();
        while let Some(look) = looks.join_next().await {
            seen.push(
                look.map_err(|error| ProviderError::failed("an instance could not be looked at", error))??,
            );
        }
        seen.sort_by(|a, b| a.instance.cmp(&b.instance));
        Ok(seen)
    }

    async fn launch(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
        launch: &Launch,
    ) -> Result<(), ProviderError> {
        let known = self
            .tags
            .launched(&object.id, &launch.instance)
            .map_err(io("cannot read how it was launched"))?;
        if known.is_none() {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let network = read::<Group>(&launch.properties)?.network;
            let launched = Launched {
                release: launch.release,
                slot: launch.slot,
                since: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
                network,
            };
            let written = self.tags.launch(&object.id, &launch.instance, &launched);
            written.map_err(io("cannot write down how it is launched"))?;
        }
        let spec = self.spec(object, launch).await?;
        self.cloud.ensure_instance(spec).await.map_err(refusal)?;
        self.name_group(object, &read(inputs)?).await
    }

    async fn attach(
        &self,
        _object: &Object,
        inputs: &Map<String, Value>,
        instance: &InstanceId,
        weight: u32,
    ) -> Result<(), ProviderError> {
        let Some(Front { balancer, backend, port }) = front(inputs)? else { return Ok(()) };
        let id = id_of(instance)?;
        let view = self.cloud.inspect_instance(&id).await.map_err(failure)?;
        let address = view.and_then(|view| view.address);
        let address =
            address.ok_or_else(|| ProviderError::refused(format!("instance `{id}` has no address")))?;
        let weight = u16::try_from(weight).unwrap_or(u16::MAX);
        let member = Member { instance: id.clone(), address, port, weight };
        self.cloud.put_member(&balancer, &backend, member).await.map_err(failure)?;
        self.cloud.undrain(&balancer, &backend, &id).await.map(drop).map_err(failure)
    }

    async fn weigh(
        &self,
        _object: &Object,
        inputs: &Map<String, Value>,
        weights: &[(InstanceId, u32)],
    ) -> Result<(), ProviderError> {
        let Some(Front { balancer, backend, .. }) = front(inputs)? else { return Ok(()) };
        let members = self.cloud.members(&balancer, &backend).await.map_err(failure)?;
        let is_member =
            |id: &InstanceId| members.iter().any(|member| member.member.instance.as_str() == id.0);
        let weights = weights
            .iter()
            .filter(|(instance, _)| is_member(instance))
            .map(|(instance, weight)| Ok((id_of(instance)?, u16::try_from(*weight).unwrap_or(u16::MAX))));
        let weights = weights.collect::<Result<_, ProviderError>>()?;
        self.cloud.set_weights(&balancer, &backend, weights).await.map(drop).map_err(failure)
    }

    async fn drain(
        &self,
        _object: &Object,
        inputs: &Map<String, Value>,
        instance: &InstanceId,
    ) -> Result<(), ProviderError> {
        let Some(Front { balancer, backend, .. }) = front(inputs)? else { return Ok(()) };
        let id = id_of(instance)?;
        if self.cloud.member(&balancer, &backend, &id).await.map_err(failure)?.is_none() {
            return Ok(());
        }
        self.cloud.drain(&balancer, &backend, &id).await.map(drop).map_err(failure)
    }

    async fn detach(
        &self,
        _object: &Object,
        inputs: &Map<String, Value>,
        instance: &InstanceId,
    ) -> Result<(), ProviderError> {
        let Some(Front { balancer, backend, .. }) = front(inputs)? else { return Ok(()) };
        self.cloud.remove_member(&balancer, &backend, &id_of(instance)?).await.map(drop).map_err(failure)
    }

    async fn run(
        &self,
        _object: &Object,
        instance: &InstanceId,
        argv: &[String],
        limit: Duration,
    ) -> Result<(), ProviderError> {
        let executed = self.cloud.exec(&id_of(instance)?, argv.to_vec(), limit).await.map_err(failure)?;
        if executed.succeeded() {
            return Ok(());
        }
        let written = format!("{}{}", executed.stdout, executed.stderr);
        let lines: Vec<&str> = written.trim_end().lines().collect();
        let end = lines[lines.len().saturating_sub(5)..].join(" / ");
        Err(ProviderError::Failed {
            message: format!("`{}` ended with {:?}: {end}", argv.join(" "), executed.outcome),
            source: None,
        })
    }

    async fn room(&self, _group: &Object, inputs: &Map<String, Value>) -> Result<Option<u32>, ProviderError> {
        let network = read::<Group>(inputs)?.network.parse().map_err(refusal)?;
        Ok(self.cloud.inspect_network(&network).await.map_err(failure)?.map(|network| network.free))
    }

    async fn fetch(&self, _group: &Object, image: &Digest) -> Result<(), ProviderError> {
        self.disks.raw(image).await.map(drop)
    }

    async fn terminate(&self, object: &Object, instance: &InstanceId) -> Result<(), ProviderError> {
        self.end(object, instance).await?;
        let tag = self.tags.get(&object.id).map_err(io("cannot read whose it is"))?;
        match tag {
            Some(tag) => self.name_group(object, &read(&tag.inputs)?).await,
            None => Ok(()),
        }
    }
}
