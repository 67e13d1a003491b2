//! What a rollout is asked to do: the group, what ran before, what is to run, and within which bounds.
//!
//! Everything that the outside world must say before the first step is here, so that [`Request::check`] can
//! refuse a rollout that could not be undone before it has touched anything. Main types: [`Request`],
//! [`Options`], [`Preflight`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::step::{Hook, Lien};
use super::strategy::{OptionError, Strategy};
use super::time::{Millis, Time};
use crate::digest::Digest;

/// The identity of an instance, given by this machine before the instance exists.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub String);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a check that instances answer: `http`, `tcp:5432`, `member`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CheckName(pub String);

impl fmt::Display for CheckName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What instances are made of. Two instances of equal releases are interchangeable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Release {
    /// The image that an instance boots; it must report this digest to be healthy.
    pub image: Digest,
    /// Everything else that an instance is launched with: boot inputs, size, volumes.
    pub inputs: Digest,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", &self.image.hex()[..8], &self.inputs.hex()[..4])
    }
}

/// What ran before, captured before the first step: the state that a rollback returns to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The release.
    pub release: Release,
    /// How many instances the group was meant to have.
    pub size: u32,
}

/// An instance that is there when the rollout begins, in whatever state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Existing {
    /// Which.
    pub id: InstanceId,
    /// What it was launched with.
    pub release: Release,
    /// Since when it is there; orders replacement.
    pub since: Time,
    /// Its place, where places matter (quorum, recreate): the volume or identity that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
}

/// Whether something stands in front of the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fronting {
    /// A load balancer, which instances are attached to, detached from, and drained by.
    Balancer,
    /// Nothing: a healthy instance is in service, and leaves when it is terminated.
    Nothing,
}

/// What to do when the new release is found wanting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Go back to what ran before.
    RollBack,
    /// Stop and leave everything as it is, for a person.
    Hold,
}

/// Bounds and manners of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// In which order instances are replaced.
    pub strategy: Strategy,
    /// How long an instance must be healthy before it goes into service.
    pub min_ready: Millis,
    /// How long an instance may take from its launch to service.
    pub health_deadline: Millis,
    /// How long an instance in service may fail its checks before it counts as failed.
    pub unhealthy_after: Millis,
    /// How long open connections of a detached instance are waited for.
    pub drain_timeout: Millis,
    /// How long nothing may get better: no instance into service, none gone.
    pub progress_deadline: Millis,
    /// How long going forward may take in all; absent: derived from the others.
    pub deadline: Option<Millis>,
    /// How long going back may take in all.
    pub rollback_deadline: Millis,
    /// How long the finished group is watched; a failure in this time still rolls back.
    pub bake: Millis,
    /// How many instances of the new release may fail before it is found wanting.
    pub max_failures: u32,
    /// How many instances of the old release may fail before the rollout is held: while going back, and those
    /// that take the place of old ones meanwhile and never come into service.
    pub max_rollback_failures: u32,
    /// What happens when the new release is found wanting.
    pub on_failure: OnFailure,
    /// How often a step is tried.
    pub step_attempts: u32,
    /// How long to wait before a step's second attempt; doubles with each further one.
    pub step_backoff: Millis,
    /// How long, at the end, steps without a result are waited for.
    pub step_deadline: Millis,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            min_ready: Millis::from_secs(2),
            health_deadline: Millis::from_secs(300),
            unhealthy_after: Millis::from_secs(15),
            drain_timeout: Millis::from_secs(60),
            progress_deadline: Millis::from_secs(600),
            deadline: None,
            rollback_deadline: Millis::from_secs(1800),
            bake: Millis::from_secs(10),
            max_failures: 0,
            max_rollback_failures: 3,
            on_failure: OnFailure::RollBack,
            step_attempts: 5,
            step_backoff: Millis::from_secs(1),
            step_deadline: Millis::from_secs(300),
        }
    }
}

/// What the driver found out before the rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    /// Whether instances of the new release can be launched.
    pub to: Availability,
    /// Whether instances of the old release can be launched, should it be returned to.
    pub from: Availability,
    /// For how many instances more there is room; absent: it is not known or not bounded.
    pub room: Option<u32>,
}

impl Preflight {
    /// Nothing stands in the way.
    pub const CLEAR: Self = Self { to: Availability::Launchable, from: Availability::Launchable, room: None };
}

/// Whether a release can be launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Its image is registered and whole.
    Launchable,
    /// Its image is not there.
    Missing,
    /// Its image was revoked.
    Revoked,
}

/// A rollout to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The group's name, for people.
    pub group: String,
    /// What new instances' names begin with: unique among all rollouts of the group, as `web-7f3a`.
    pub prefix: String,
    /// What ran before; absent: the group is new.
    pub from: Option<Captured>,
    /// What is to run.
    pub to: Release,
    /// How many instances of it.
    pub desired: u32,
    /// What is there now.
    pub existing: Vec<Existing>,
    /// Bounds and manners.
    pub options: Options,
    /// Whether there is a load balancer.
    pub fronting: Fronting,
    /// The checks that a healthy instance passes, all of them; what it says it runs is always checked too.
    pub checks: BTreeSet<CheckName>,
    /// The hooks that instances of this group have.
    pub hooks: BTreeSet<Hook>,
    /// Temporary changes that the provider needs for the time of the rollout.
    pub liens: BTreeSet<Lien>,
    /// Temporary changes that an earlier rollout left behind; they are undone at the end as well.
    pub inherited_liens: BTreeSet<Lien>,
    /// What was found out before.
    pub preflight: Preflight,
}

/// Why a rollout cannot begin: every reason, not the first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rollout of `{group}` cannot begin: {}", list(.refusals))]
pub struct PreflightError {
    /// The group.
    pub group: String,
    /// The reasons, at least one.
    pub refusals: Vec<Refusal>,
}

fn list(refusals: &[Refusal]) -> String {
    refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// One reason why a rollout cannot begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The strategy contradicts itself.
    #[error(transparent)]
    Strategy(#[from] OptionError),
    /// A number that makes no sense.
    #[error("`{option}` must be at least 1")]
    Zero {
        /// The option's name.
        option: &'static str,
    },
    /// The new release cannot be launched.
    #[error("the image of release {release} is {}", said(*.availability))]
    ToUnavailable {
        /// The release.
        release: Release,
        /// Why.
        availability: Availability,
    },
    /// There would be no way back.
    #[error("there would be no way back: the image of release {release}, which runs now, is {}", said(*.availability))]
    FromUnavailable {
        /// The release.
        release: Release,
        /// Why.
        availability: Availability,
    },
    /// There is no room for the additional instances.
    #[error("room for {needed} more instances is needed, and there is room for {room}")]
    NoRoom {
        /// How many instances more the strategy needs at a time.
        needed: u32,
        /// How many there is room for.
        room: u32,
    },
    /// Two instances of one name.
    #[error("instance `{0}` is listed twice")]
    Twice(InstanceId),
    /// An instance that looks like one that is yet to be launched.
    #[error("instance `{0}` already has this rollout's prefix")]
    Taken(InstanceId),
    /// Two instances hold one place.
    #[error("instances `{first}` and `{second}` both hold place {slot}")]
    SlotTwice {
        /// The place.
        slot: u32,
        /// The first holder.
        first: InstanceId,
        /// The second.
        second: InstanceId,
    },
    /// A group without a load balancer has nothing to shift.
    #[error("a blue-green rollout needs a load balancer in front of the group")]
    NothingToShift,
    /// The quorum's member check is not among the group's checks.
    #[error("the member check `{0}` is not among the group's checks")]
    UnknownCheck(CheckName),
}

fn said(availability: Availability) -> &'static str {
    match availability {
        Availability::Launchable => "available",
        Availability::Missing => "not registered",
        Availability::Revoked => "revoked",
    }
}

impl Request {
    /// Whether what ran before and what is to run differ.
    pub fn replaces(&self) -> bool {
        self.from.is_some_and(|from| from.release != self.to)
    }

    /// How many instances there are, or are meant to be, of other releases than the new one.
    pub(crate) fn others(&self) -> u32 {
        let there = self.existing.iter().filter(|existing| existing.release != self.to).count();
        let captured = self.from.filter(|from| from.release != self.to).map_or(0, |from| from.size);
        u32::try_from(there).unwrap_or(u32::MAX).max(captured)
    }

    /// Checks everything that can be checked before the first step.
    pub fn check(&self) -> Result<(), PreflightError> {
        let mut refusals = Vec::new();
        refusals.extend(self.options.strategy.check(self.desired).into_iter().map(Refusal::from));
        self.check_numbers(&mut refusals);
        self.check_releases(&mut refusals);
        self.check_room(&mut refusals);
        self.check_existing(&mut refusals);
        self.check_strategy_fits(&mut refusals);
        if refusals.is_empty() { Ok(()) } else { Err(PreflightError { group: self.group.clone(), refusals }) }
    }

    fn check_numbers(&self, refusals: &mut Vec<Refusal>) {
        let options = &self.options;
        let least_one = [
            ("step_attempts", u64::from(options.step_attempts)),
            ("health_deadline", options.health_deadline.0),
            ("progress_deadline", options.progress_deadline.0),
            ("rollback_deadline", options.rollback_deadline.0),
        ];
        refusals.extend(
            least_one
                .into_iter()
                .filter(|(_, value)| *value == 0)
                .map(|(option, _)| Refusal::Zero { option }),
        );
    }

    fn check_releases(&self, refusals: &mut Vec<Refusal>) {
        let Preflight { to, from, room: _ } = self.preflight;
        if to != Availability::Launchable && self.desired > 0 {
            refusals.push(Refusal::ToUnavailable { release: self.to, availability: to });
        }
        if let Some(captured) = self.from
            && self.options.on_failure == OnFailure::RollBack
            && self.replaces()
            && from != Availability::Launchable
        {
            refusals.push(Refusal::FromUnavailable { release: captured.release, availability: from });
        }
    }

    fn check_room(&self, refusals: &mut Vec<Refusal>) {
        let Some(room) = self.preflight.room else { return };
        let here = u32::try_from(self.existing.len()).unwrap_or(u32::MAX);
        let most = self.options.strategy.most(self.desired, self.others());
        let floor = if self.replaces() { most } else { self.desired };
        let needed = floor.saturating_sub(here);
        if needed > room {
            refusals.push(Refusal::NoRoom { needed, room });
        }
    }

    fn check_existing(&self, refusals: &mut Vec<Refusal>) {
        let mut names = BTreeSet::new();
        let mut slots: BTreeMap<u32, &InstanceId> = BTreeMap::new();
        let ours = format!("{}-", self.prefix);
        for Existing { id, slot, .. } in &self.existing {
            if !names.insert(id) {
                refusals.push(Refusal::Twice(id.clone()));
            }
            if id.0.starts_with(&ours) {
                refusals.push(Refusal::Taken(id.clone()));
            }
            let Some(slot) = *slot else { continue };
            if let Some(first) = slots.insert(slot, id) {
                refusals.push(Refusal::SlotTwice { slot, first: first.clone(), second: id.clone() });
            }
        }
    }

    fn check_strategy_fits(&self, refusals: &mut Vec<Refusal>) {
        match &self.options.strategy {
            Strategy::BlueGreen { .. } if self.fronting == Fronting::Nothing => {
                refusals.push(Refusal::NothingToShift);
            }
            Strategy::Quorum { member_check: Some(check), .. } if !self.checks.contains(check) => {
                refusals.push(Refusal::UnknownCheck(check.clone()));
            }
            _ => {}
        }
    }
}
