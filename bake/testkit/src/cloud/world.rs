//! What is there: objects, instances and the rules between them. Main type: [`World`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use olbake_core::Digest;
use olbake_core::rollout::{CheckName, InstanceId, Lien, Verdict};
use olbake_core::stack::{ObjectId, ResourceName};
use olbake_engine::stack::group::Group;
use olbake_engine::stack::provider::{Launch, Life, Live, Object, Probe, ProviderError, Seen};
use serde_json::{Map, Value, json};

/// How long an instance boots.
const BOOT: Duration = Duration::from_secs(2);
/// How long requests go on after an instance is given nothing new.
const DRAIN: Duration = Duration::from_secs(1);

/// Properties or outputs.
type Values = Map<String, Value>;

/// How instances of an image behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// They boot and are well.
    #[default]
    Sound,
    /// They boot for ever.
    NeverBoots,
    /// They are up, and no check holds.
    FailsHealth,
    /// They are well for so long after they are up; then no check holds.
    Sours(Duration),
    /// They stop so long after they are up.
    Dies(Duration),
}

/// An object that is there.
#[derive(Clone, Debug)]
pub struct Thing {
    /// As whoever made it names it.
    pub object: Object,
    /// Its properties.
    pub inputs: Values,
    /// It was made to its end.
    pub whole: bool,
    /// It was ended from outside, and runs again when it is updated.
    pub stopped: bool,
}

/// An instance that is there.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its group.
    pub group: ObjectId,
    /// What it was launched with.
    pub launch: Launch,
    /// When.
    pub since: Duration,
    /// It was stopped from outside.
    pub stopped: bool,
    /// The balancer that sends it requests, and its weight there.
    pub attached: Option<(String, u32)>,
    /// Since when it is given nothing new.
    pub draining: Option<Duration>,
}

/// How many instances a group had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The fewest that served.
    pub least: usize,
    /// The most that there were.
    pub most: usize,
}

/// Everything that is there.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub(super) now: Duration,
    /// The objects.
    pub things: BTreeMap<ObjectId, Thing>,
    /// The instances of all groups.
    pub instances: BTreeMap<InstanceId, Instance>,
    /// How instances of an image behave, where they are not sound.
    pub manners: BTreeMap<Digest, Manner>,
    /// How many instances groups had since [`World::watch`].
    extents: BTreeMap<ObjectId, Extent>,
    /// The temporary changes of groups that are made and not undone.
    pub liens: BTreeSet<(ObjectId, Lien)>,
    /// Objects that somebody else made, by what they are called, until they are taken in.
    pub foreign: BTreeMap<String, Values>,
    /// The commands that were run on instances.
    pub ran: Vec<(InstanceId, Vec<String>)>,
}

fn failed(message: String) -> ProviderError {
    ProviderError::Failed { message, source: None }
}

fn text<'a>(values: &'a Values, name: &str) -> Option<&'a str> {
    values.get(name).and_then(Value::as_str)
}

impl World {
    /// Makes an object; in part only, where its maker is cut short.
    pub(super) fn create(
        &mut self,
        object: &Object,
        inputs: &Values,
        whole: bool,
    ) -> Result<Values, ProviderError> {
        self.check_neighbours(object, inputs)?;
        let there = self.things.entry(object.id.clone()).or_insert_with(|| Thing {
            object: object.clone(),
            inputs: inputs.clone(),
            whole: false,
            stopped: false,
        });
        there.whole |= whole;
        Ok(outputs(object))
    }

    /// Takes an object that somebody else made under an id: as a whole or not at all.
    pub(super) fn import(
        &mut self,
        object: &Object,
        foreign: &str,
        whole: bool,
    ) -> Result<Live, ProviderError> {
        if let Some(live) = self.read(object) {
            return Ok(live);
        }
        let inputs = self.foreign.get(foreign).cloned();
        let inputs = inputs.ok_or_else(|| ProviderError::refused(format!("there is no `{foreign}`")))?;
        if whole {
            self.foreign.remove(foreign);
            let thing = Thing { object: object.clone(), inputs: inputs.clone(), whole, stopped: false };
            self.things.insert(object.id.clone(), thing);
        }
        Ok(Live { inputs, outputs: outputs(object), stopped: false })
    }

    /// Two volumes of one name cannot stand beside each other; what another object is in must be there.
    fn check_neighbours(&self, object: &Object, inputs: &Values) -> Result<(), ProviderError> {
        let Object { id, name, stack, ty } = object;
        let twin = |thing: &&Thing| {
            let Object { id: other, name: other_name, stack: other_stack, .. } = &thing.object;
            other != id && (other_name, other_stack) == (name, stack)
        };
        if ty.kind() == "volume" && self.things.values().any(|thing| twin(&thing)) {
            return Err(ProviderError::refused(format!("another volume stands in the place of `{name}`")));
        }
        for needed in ["network", "load_balancer"].into_iter().filter_map(|property| text(inputs, property)) {
            if !self.things.iter().any(|(id, thing)| id.as_str() == needed && thing.whole) {
                return Err(failed(format!("there is no `{needed}`")));
            }
        }
        Ok(())
    }

    pub(super) fn read(&self, object: &Object) -> Option<Live> {
        let thing = self.things.get(&object.id).filter(|thing| thing.whole)?;
        Some(Live { inputs: thing.inputs.clone(), outputs: outputs(object), stopped: thing.stopped })
    }

    pub(super) fn update(&mut self, object: &Object, inputs: &Values) -> Result<Values, ProviderError> {
        self.check_neighbours(object, inputs)?;
        let thing = self.things.get_mut(&object.id).filter(|thing| thing.whole);
        let thing = thing.ok_or_else(|| failed(format!("there is no `{}`", object.id)))?;
        thing.inputs = inputs.clone();
        thing.stopped = false;
        Ok(outputs(object))
    }

    /// Removes an object; of a group in part only its instances.
    pub(super) fn delete(&mut self, object: &Object, whole: bool) -> Result<(), ProviderError> {
        let id = &object.id;
        let uses = |thing: &&Thing| text(&thing.inputs, "network") == Some(id.as_str());
        if let Some(user) = self.things.values().find(uses) {
            return Err(failed(format!("`{id}` is in use by `{}`", user.object.id)));
        }
        self.instances.retain(|_, instance| instance.group != *id);
        if whole {
            self.things.remove(id);
            self.extents.remove(id);
        }
        Ok(())
    }

    /// Every object of which there is anything.
    pub(super) fn list(&self) -> Vec<Object> {
        self.things.values().map(|thing| thing.object.clone()).collect()
    }

    pub(super) fn launch(&mut self, group: &Object, launch: &Launch) -> Result<(), ProviderError> {
        if !self.things.get(&group.id).is_some_and(|thing| thing.whole) {
            return Err(failed(format!("there is no group `{}`", group.id)));
        }
        let holds = |(id, other): (&InstanceId, &Instance)| {
            *id != launch.instance && other.group == group.id && other.launch.slot == launch.slot
        };
        if launch.slot.is_some() && self.instances.iter().any(holds) {
            return Err(failed(format!("the place of `{}` is held by another", launch.instance)));
        }
        let since = self.now;
        let there = self.instances.entry(launch.instance.clone()).or_insert_with(|| Instance {
            group: group.id.clone(),
            launch: launch.clone(),
            since,
            stopped: false,
            attached: None,
            draining: None,
        });
        if there.stopped {
            (there.stopped, there.since) = (false, since);
        }
        Ok(())
    }

    pub(super) fn attach(
        &mut self,
        inputs: &Values,
        id: &InstanceId,
        weight: u32,
    ) -> Result<(), ProviderError> {
        let balancer =
            text(inputs, "load_balancer").ok_or_else(|| failed("there is no balancer".to_owned()))?;
        if !self.things.keys().any(|id| id.as_str() == balancer) {
            return Err(failed(format!("there is no balancer `{balancer}`")));
        }
        let instance = self.instances.get_mut(id).ok_or_else(|| failed(format!("there is no `{id}`")))?;
        instance.attached = Some((balancer.to_owned(), weight));
        instance.draining = None;
        Ok(())
    }

    pub(super) fn weigh(&mut self, weights: &[(InstanceId, u32)]) -> Result<(), ProviderError> {
        for (id, weight) in weights {
            let instance = self.instances.get_mut(id).and_then(|instance| instance.attached.as_mut());
            instance.ok_or_else(|| failed(format!("`{id}` is not attached")))?.1 = *weight;
        }
        Ok(())
    }

    pub(super) fn drain(&mut self, id: &InstanceId) {
        let now = self.now;
        if let Some(instance) = self.instances.get_mut(id).filter(|instance| instance.attached.is_some()) {
            instance.draining = instance.draining.or(Some(now));
        }
    }

    pub(super) fn detach(&mut self, id: &InstanceId) {
        if let Some(instance) = self.instances.get_mut(id) {
            (instance.attached, instance.draining) = (None, None);
        }
    }

    pub(super) fn terminate(&mut self, id: &InstanceId) {
        self.instances.remove(id);
    }

    /// Everything that can be seen of a group's instances.
    pub(super) fn observe(&self, group: &Object, inputs: &Values) -> Vec<Seen> {
        let checks = Group::read(inputs).map(|group| group.checks()).unwrap_or_default();
        let balancer = text(inputs, "load_balancer");
        let ours = self.instances.iter().filter(|(_, instance)| instance.group == group.id);
        ours.map(|(id, instance)| self.sight(id, instance, &checks, balancer)).collect()
    }

    fn sight<'a>(
        &self,
        id: &InstanceId,
        instance: &Instance,
        checks: impl IntoIterator<Item = &'a CheckName>,
        balancer: Option<&str>,
    ) -> Seen {
        let (life, well) = (self.life(instance), self.is_well(instance));
        let up = life == Life::Running;
        let probe = |check: &CheckName| Probe { check: check.clone(), holds: well, seen: String::new() };
        let verdict = if well { Verdict::Passing } else { Verdict::Failing };
        let attached = instance.attached.as_ref().filter(|(to, _)| Some(to.as_str()) == balancer).is_some();
        Seen {
            instance: id.clone(),
            release: Some(instance.launch.release),
            slot: instance.launch.slot,
            since: u64::try_from(instance.since.as_millis()).ok(),
            life,
            address: up.then(|| format!("address of {id}")),
            image: image_of(instance).filter(|_| up),
            in_service: (attached && instance.draining.is_none()).then_some(verdict),
            draining: instance.draining.map(|since| u32::from(self.now < since + DRAIN)),
            checks: checks.into_iter().filter(|_| up).map(probe).collect(),
            console: None,
        }
    }

    fn manner(&self, instance: &Instance) -> Manner {
        image_of(instance).and_then(|image| self.manners.get(&image).copied()).unwrap_or_default()
    }

    fn life(&self, instance: &Instance) -> Life {
        let up = self.now.checked_sub(instance.since + BOOT);
        match (self.manner(instance), up) {
            _ if instance.stopped => Life::Stopped,
            (Manner::Dies(after), Some(up)) if up >= after => Life::Stopped,
            (Manner::NeverBoots, _) | (_, None) => Life::Booting,
            _ => Life::Running,
        }
    }

    fn is_well(&self, instance: &Instance) -> bool {
        let up = self.now.saturating_sub(instance.since + BOOT);
        self.life(instance) == Life::Running
            && match self.manner(instance) {
                Manner::Sound | Manner::Dies(_) => true,
                Manner::Sours(after) => up < after,
                Manner::NeverBoots | Manner::FailsHealth => false,
            }
    }

    /// Whether requests reach an instance and are answered.
    fn serves(&self, instance: &Instance) -> bool {
        let balancer =
            self.things.get(&instance.group).and_then(|group| text(&group.inputs, "load_balancer"));
        let reached = match (balancer, &instance.attached) {
            (None, _) => true,
            (Some(balancer), Some((to, weight))) => {
                to == balancer && *weight > 0 && instance.draining.is_none()
            }
            (Some(_), None) => false,
        };
        reached && self.is_well(instance)
    }

    /// How many instances of a group serve.
    pub fn serving(&self, group: &ObjectId) -> usize {
        let ours = self.instances.values().filter(|instance| instance.group == *group);
        ours.filter(|instance| self.serves(instance)).count()
    }

    /// Begins to watch how many instances groups have.
    pub fn watch(&mut self) {
        self.extents.clear();
        self.take_note();
    }

    /// How many instances a resource's group had since [`World::watch`].
    pub fn extent(&self, name: &ResourceName) -> Option<Extent> {
        let group = self.things.values().find(|thing| thing.object.name == *name)?;
        self.extents.get(&group.object.id).copied()
    }

    /// Looks at every group; to be called after each change.
    pub(super) fn take_note(&mut self) {
        let groups = self.things.values().filter(|thing| thing.object.ty.kind() == "group" && thing.whole);
        let groups: Vec<ObjectId> = groups.map(|thing| thing.object.id.clone()).collect();
        for id in groups {
            let serving = self.serving(&id);
            let alive = self.instances.values().filter(|instance| instance.group == id).count();
            let extent = self.extents.entry(id).or_insert(Extent { least: serving, most: alive });
            *extent = Extent { least: extent.least.min(serving), most: extent.most.max(alive) };
        }
    }

    /// Instances of groups that are not there.
    pub fn strays(&self) -> Vec<&InstanceId> {
        let stray = |instance: &Instance| !self.things.contains_key(&instance.group);
        self.instances.iter().filter(|(_, instance)| stray(instance)).map(|(id, _)| id).collect()
    }

    /// The images of a resource's instances.
    pub fn images(&self, name: &ResourceName) -> Vec<Digest> {
        let of = |instance: &&Instance| {
            self.things.get(&instance.group).is_some_and(|thing| thing.object.name == *name)
        };
        self.instances.values().filter(of).filter_map(image_of).collect()
    }
}

fn outputs(object: &Object) -> Values {
    Map::from_iter([(format!("{}_id", object.ty.kind()), json!(object.id))])
}

fn image_of(instance: &Instance) -> Option<Digest> {
    Group::image_of(&instance.launch.properties)
}
