//! A fleet of instances and a load balancer, in virtual time.
//!
//! What befalls an instance is drawn from the seed and its name when it is launched, so that asking for a step
//! twice, or in another order, changes nothing. Steps take effect when their time is over ([`Fleet::settle`]).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Behaviour, Model, PerMille, Spread};
use crate::digest::{Digest, FieldDigest};
use crate::rollout::observe::{Attachment, Observation, Phase, Seen, Verdict, Wish};
use crate::rollout::request::{CheckName, Fronting, InstanceId, Release, Request};
use crate::rollout::step::{Action, Lien, Shares, Step, StepId, StepResult, Traffic};
use crate::rollout::time::{Millis, Time};

/// A fleet in virtual time.
#[derive(Clone, Debug)]
pub struct Fleet {
    model: Model,
    new: Release,
    checks: BTreeSet<CheckName>,
    fronting: Fronting,
    instances: BTreeMap<InstanceId, Instance>,
    shares: Option<Shares>,
    liens: BTreeSet<Lien>,
    under_way: Vec<UnderWay>,
    attempts: BTreeMap<StepId, u32>,
}

#[derive(Clone, Debug)]
struct Instance {
    release: Release,
    slot: Option<u32>,
    fate: Fate,
    /// When its checks begin to pass.
    well_from: Time,
    /// When it is up, or would be.
    up_from: Time,
    gone: bool,
    balancer: Balancer,
}

/// What befalls an instance, and when.
#[derive(Clone, Copy, Debug)]
struct Fate {
    stopped_from: Option<Time>,
    failing_from: Option<Time>,
    killed_from: Option<Time>,
    other_image: bool,
}

#[derive(Clone, Copy, Debug)]
enum Balancer {
    Out,
    In { noticed_from: Time, weighted: bool },
    Draining { until: Time },
}

#[derive(Clone, Debug)]
struct UnderWay {
    until: Time,
    step: Step,
    happens: bool,
    result: StepResult,
}

/// The instances of a group, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// In service: up, well, running what they should, and given traffic.
    pub serving: u32,
    /// Of the old release (or any but the new), in whatever state.
    pub old: u32,
    /// Of the new release, in whatever state.
    pub new: u32,
    /// Neither in service nor gone.
    pub pending: u32,
}

impl Fleet {
    /// A fleet with the instances that the request lists, all up and in service.
    pub fn new(model: Model, request: &Request) -> Self {
        let mut fleet = Self {
            model,
            new: request.to,
            checks: request.checks.clone(),
            fronting: request.fronting,
            instances: BTreeMap::new(),
            shares: None,
            liens: request.inherited_liens.clone(),
            under_way: Vec::new(),
            attempts: BTreeMap::new(),
        };
        for existing in &request.existing {
            let born = Time(0);
            let mut instance = fleet.make(&existing.id, existing.release, existing.slot, born);
            instance.fate = fleet.late_fate(&existing.id, fleet.behaviour(existing.release), born);
            (instance.up_from, instance.well_from) = (born, born);
            instance.balancer = Balancer::In { noticed_from: born, weighted: true };
            fleet.instances.insert(existing.id.clone(), instance);
        }
        fleet
    }

    /// Begins a step; it takes effect, and has a result, some time later.
    pub fn begin(&mut self, step: &Step, now: Time) {
        let attempt = self.attempts.entry(step.id).or_default();
        *attempt += 1;
        let about = format!("step {} {attempt}", step.id);
        let spread =
            if matches!(step.action, Action::RunHook { .. }) { self.model.hook } else { self.model.step };
        let until = now + self.lapse(&about, "time", spread);
        let fails = self.chance(&about, "fails", self.model.step_fails);
        let happens = !fails || self.draw(&about, "happens").is_multiple_of(2);
        let result = if fails {
            StepResult::Failed { message: "the model says so".to_owned() }
        } else {
            StepResult::Done
        };
        self.under_way.push(UnderWay { until, step: step.clone(), happens, result });
    }

    /// Lets steps whose time is over take effect, and tells their results.
    pub fn settle(&mut self, now: Time) -> Vec<(StepId, StepResult)> {
        let (mut due, later): (Vec<_>, Vec<_>) = self.under_way.drain(..).partition(|one| one.until <= now);
        self.under_way = later;
        due.sort_by_key(|one| (one.until, one.step.id));
        let mut results = Vec::new();
        for UnderWay { until, step, happens, result } in due {
            if happens {
                self.happen(&step.action, until);
            }
            results.push((step.id, result));
        }
        results
    }

    /// The driver dies: of the steps under way each other one, by lot, takes effect; nobody learns of any.
    pub fn lose_driver(&mut self, now: Time) {
        for UnderWay { step, .. } in std::mem::take(&mut self.under_way) {
            if self.draw(&format!("lost {} {}", step.id, now.0), "happens").is_multiple_of(2) {
                self.happen(&step.action, now);
            }
        }
    }

    /// Kills an instance, as somebody else would.
    pub fn kill(&mut self, id: &InstanceId, now: Time) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.fate.killed_from = Some(now);
        }
    }

    /// Stops an instance without removing it, as a crash or a reboot of its host does.
    pub fn stop(&mut self, id: &InstanceId, now: Time) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.fate.stopped_from = Some(now);
        }
    }

    /// The load balancer forgets all that it was told, as one does that is started anew.
    pub fn forget_attachments(&mut self) {
        for instance in self.instances.values_mut() {
            instance.balancer = Balancer::Out;
        }
    }

    fn happen(&mut self, action: &Action, now: Time) {
        match action {
            Action::TakeLien { lien } => {
                self.liens.insert(*lien);
            }
            Action::ReleaseLien { lien } => {
                self.liens.remove(lien);
            }
            Action::Launch { instance, release, slot } => {
                if !self.instances.contains_key(instance) {
                    let made = self.make(instance, *release, *slot, now);
                    self.instances.insert(instance.clone(), made);
                }
            }
            Action::Attach { instance, traffic } => {
                let noticed_from = now + self.lapse(&instance.0, "balancer", self.model.balancer_lag);
                let weighted = *traffic == Traffic::Full;
                self.set_balancer(instance, Balancer::In { noticed_from, weighted });
            }
            Action::Detach { instance } => {
                let until = now + self.lapse(&instance.0, "drain", self.model.drain);
                self.set_balancer(instance, Balancer::Draining { until });
            }
            Action::SetWeights { shares, old, new } => self.set_weights(*shares, old, new),
            Action::Terminate { instance } => {
                if let Some(instance) = self.instances.get_mut(instance) {
                    instance.gone = true;
                }
            }
            Action::RunHook { .. } => {}
        }
    }

    fn set_balancer(&mut self, id: &InstanceId, balancer: Balancer) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.balancer = balancer;
        }
    }

    fn set_weights(&mut self, shares: Shares, old: &[InstanceId], new: &[InstanceId]) {
        self.shares = Some(shares);
        for (set, share) in [(old, shares.old), (new, shares.new)] {
            for id in set {
                if let Some(Instance { balancer: Balancer::In { weighted, .. }, .. }) =
                    self.instances.get_mut(id)
                {
                    *weighted = share > 0;
                }
            }
        }
    }

    /// The fleet as it can be seen, with what the operator wishes.
    pub fn observe(&self, now: Time, wish: Wish) -> Observation {
        let seen = self
            .instances
            .iter()
            .filter(|(id, _)| !self.chance(&format!("{id} {}", now.0), "unseen", self.model.unseen));
        let instances = seen.map(|(id, instance)| (id.clone(), self.look(instance, now))).collect();
        Observation { instances, shares: self.shares, wish }
    }

    fn look(&self, instance: &Instance, now: Time) -> Seen {
        let phase = instance.phase(now);
        if phase == Phase::Absent {
            return Seen::absent();
        }
        let verdict = match phase {
            Phase::Running if instance.is_well(now) => Verdict::Passing,
            Phase::Running => Verdict::Failing,
            _ => Verdict::Unknown,
        };
        let digest = (phase == Phase::Running).then(|| instance.image());
        let attachment = match instance.balancer {
            Balancer::In { noticed_from, .. } if now < noticed_from => {
                Attachment::In { serving: Verdict::Unknown }
            }
            Balancer::In { .. } if verdict == Verdict::Passing => {
                Attachment::In { serving: Verdict::Passing }
            }
            Balancer::In { .. } => Attachment::In { serving: Verdict::Failing },
            Balancer::Draining { until } => Attachment::Draining { connections: u32::from(now < until) },
            Balancer::Out => Attachment::Out,
        };
        let checks = self.checks.iter().map(|check| (check.clone(), verdict)).collect();
        Seen { phase, checks, digest, attachment }
    }

    /// The instances, counted.
    pub fn census(&self, now: Time) -> Census {
        let mut census = Census::default();
        for instance in self.instances.values().filter(|instance| instance.phase(now) != Phase::Absent) {
            let serves = self.serves(instance, now);
            let is_new = instance.release == self.new;
            census.serving += u32::from(serves);
            census.pending += u32::from(!serves);
            census.new += u32::from(is_new);
            census.old += u32::from(!is_new);
        }
        census
    }

    /// The instances that are there, in whatever state, and what they were launched with.
    pub fn present(&self, now: Time) -> Vec<(InstanceId, Release, Option<u32>)> {
        let present = self.instances.iter().filter(|(_, instance)| instance.phase(now) != Phase::Absent);
        present.map(|(id, instance)| (id.clone(), instance.release, instance.slot)).collect()
    }

    /// The instances that are in service and well, and what they were launched with.
    pub fn serving(&self, now: Time) -> BTreeMap<InstanceId, Release> {
        let serving = self.instances.iter().filter(|(_, instance)| self.serves(instance, now));
        serving.map(|(id, instance)| (id.clone(), instance.release)).collect()
    }

    fn serves(&self, instance: &Instance, now: Time) -> bool {
        let fronted = match instance.balancer {
            Balancer::In { noticed_from, weighted } => weighted && noticed_from <= now,
            Balancer::Out | Balancer::Draining { .. } => self.fronting == Fronting::Nothing,
        };
        let well = instance.phase(now) == Phase::Running && instance.is_well(now);
        fronted && well && instance.image() == instance.release.image
    }

    /// How traffic is divided, once it was.
    pub fn shares(&self) -> Option<Shares> {
        self.shares
    }

    /// The temporary changes that are made and not undone.
    pub fn liens(&self) -> &BTreeSet<Lien> {
        &self.liens
    }

    /// When something next changes by itself.
    pub fn next_change(&self, now: Time) -> Option<Time> {
        let steps = self.under_way.iter().map(|one| one.until);
        let instances = self.instances.values().filter(|instance| !instance.gone).flat_map(Instance::changes);
        steps.chain(instances).filter(|time| *time > now).min()
    }

    fn make(&self, id: &InstanceId, release: Release, slot: Option<u32>, now: Time) -> Instance {
        let behaviour = self.behaviour(release);
        let up_from = now + self.lapse(&id.0, "boot", self.model.boot);
        let mut fate = self.late_fate(id, behaviour, up_from);
        if self.chance(&id.0, "boot fails", behaviour.boot_fails) {
            fate.stopped_from = Some(up_from);
        }
        if self.chance(&id.0, "unhealthy", behaviour.unhealthy) {
            fate.failing_from = Some(now);
        }
        fate.other_image = self.chance(&id.0, "other image", behaviour.other_image);
        let well_from = up_from + self.lapse(&id.0, "warm up", self.model.warm_up);
        Instance { release, slot, fate, well_from, up_from, gone: false, balancer: Balancer::Out }
    }

    fn late_fate(&self, id: &InstanceId, behaviour: Behaviour, up_from: Time) -> Fate {
        let later = |what: &str, chance| {
            let time = up_from + self.lapse(&id.0, &format!("{what} when"), behaviour.later);
            self.chance(&id.0, what, chance).then_some(time)
        };
        Fate {
            stopped_from: later("crashes", behaviour.crashes),
            failing_from: later("sickens", behaviour.sickens),
            killed_from: later("killed", behaviour.killed),
            other_image: false,
        }
    }

    fn behaviour(&self, release: Release) -> Behaviour {
        if release == self.new { self.model.new } else { self.model.old }
    }

    fn draw(&self, about: &str, what: &str) -> u64 {
        let seed = self.model.seed.to_le_bytes();
        let digest = FieldDigest::new("simulation")
            .field("seed", &seed)
            .field("about", about.as_bytes())
            .field("what", what.as_bytes())
            .finish();
        digest.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn chance(&self, about: &str, what: &str, PerMille(chance): PerMille) -> bool {
        chance > 0 && self.draw(about, what) % 1000 < u64::from(chance)
    }

    fn lapse(&self, about: &str, what: &str, Spread { least, most }: Spread) -> Millis {
        let width = most.0.saturating_sub(least.0);
        Millis(least.0 + self.draw(about, what) % (width + 1))
    }
}

impl Instance {
    fn phase(&self, now: Time) -> Phase {
        let past = |time: Option<Time>| time.is_some_and(|time| time <= now);
        if self.gone || past(self.fate.killed_from) {
            Phase::Absent
        } else if past(self.fate.stopped_from) {
            Phase::Stopped
        } else if now < self.up_from {
            Phase::Booting
        } else {
            Phase::Running
        }
    }

    fn is_well(&self, now: Time) -> bool {
        self.well_from <= now && self.fate.failing_from.is_none_or(|time| time > now)
    }

    /// The image that it really runs.
    fn image(&self) -> Digest {
        if self.fate.other_image { Digest::of(b"another image") } else { self.release.image }
    }

    fn changes(&self) -> impl Iterator<Item = Time> {
        let Fate { stopped_from, failing_from, killed_from, other_image: _ } = self.fate;
        let balancer = match self.balancer {
            Balancer::In { noticed_from, .. } => Some(noticed_from),
            Balancer::Draining { until } => Some(until),
            Balancer::Out => None,
        };
        [stopped_from, failing_from, killed_from, balancer, Some(self.up_from), Some(self.well_from)]
            .into_iter()
            .flatten()
    }
}
