//! The state of a rollout: all that is journalled, and the small changes that every part is made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::member::{Member, Origin, Stage};
use super::observe::Observation;
use super::outcome::{Event, Failure, Outcome, Waiting, Why};
use super::request::{InstanceId, OnFailure, Release, Request};
use super::step::{Ask, Lien, OpenStep, Shares, StepId};
use super::time::{Millis, Time};

/// A rollout under way: its request, and everything it has decided and learnt since.
///
/// It is one value without references, to be journalled whole. See the module's text for how it is driven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    pub(crate) schema: Schema,
    pub(crate) request: Request,
    pub(crate) began: Time,
    /// The latest time ever told: time does not run backwards here, whatever a clock does.
    pub(crate) clock: Time,
    pub(crate) course: Course,
    pub(crate) members: Vec<Member>,
    /// How many instances were launched: the next one's number is one more.
    pub(crate) launched: u32,
    /// How many steps were decided.
    pub(crate) decided: u32,
    pub(crate) open: BTreeMap<StepId, OpenStep>,
    pub(crate) liens: BTreeMap<Lien, LienState>,
    pub(crate) gate: Gate,
    /// Since when the finished group is watched.
    pub(crate) baking: Option<Time>,
    /// What the balancer was last told and confirmed.
    pub(crate) traffic: Option<Weights>,
    pub(crate) traffic_step: Option<StepId>,
    /// Setting weights was given up: how traffic is divided is not known until it is set again.
    pub(crate) traffic_in_doubt: bool,
    /// When weights were last confirmed.
    pub(crate) traffic_since: Time,
    /// When something last got better.
    pub(crate) progress: Time,
    pub(crate) failures: u32,
    pub(crate) rollback_failures: u32,
    pub(crate) last_failure: Option<(InstanceId, Failure)>,
    pub(crate) paused: Option<Time>,
    /// How long it was paused or not driven in all; deadlines do not count it.
    pub(crate) paused_for: Millis,
    /// Noticed since the last decision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) events: Vec<Event>,
}

/// Where a rollout is heading.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "course", rename_all = "snake_case")]
pub enum Course {
    /// To the new release.
    Forward,
    /// To what ran before.
    Back {
        /// Why.
        why: Why,
        /// Since when.
        since: Time,
    },
    /// To its end: the group is left as it is, temporary changes are undone.
    Ending {
        /// How it will have ended.
        outcome: Outcome,
        /// Since when.
        since: Time,
    },
    /// It is over.
    Over {
        /// How it ended.
        outcome: Outcome,
        /// When.
        at: Time,
    },
}

/// How far the strategy's steps are passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gate {
    /// How many.
    pub(crate) passed: usize,
    /// Since when the next one's condition holds.
    pub(crate) since: Option<Time>,
}

/// Where a temporary change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LienState {
    Wanted,
    Taking,
    Held,
    Releasing,
    Released,
    Left,
}

/// What the balancer was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Weights {
    pub(crate) shares: Shares,
    pub(crate) old: Vec<InstanceId>,
    pub(crate) new: Vec<InstanceId>,
}

/// The version of the journalled form; another is refused rather than misread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schema;

/// The version that is written.
pub const ROLLOUT_SCHEMA: u32 = 1;

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(ROLLOUT_SCHEMA)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            ROLLOUT_SCHEMA => Ok(Self),
            other => Err(serde::de::Error::custom(format!(
                "a rollout of schema {other}; this olbake knows {ROLLOUT_SCHEMA}"
            ))),
        }
    }
}

/// One question to the machine, while it is answered.
pub(crate) struct Turn<'a> {
    pub(crate) world: &'a Observation,
    pub(crate) now: Time,
    pub(crate) waiting: Vec<Waiting>,
}

impl Rollout {
    /// The release and size that the present course leads to; nothing where it leads to no instances at all.
    pub(crate) fn goal(&self) -> Option<(Release, u32)> {
        match self.course {
            Course::Back { .. } => self.request.from.map(|from| (from.release, from.size)),
            _ => Some((self.request.to, self.request.desired)),
        }
    }

    /// The size that the present course leads to.
    pub(crate) fn goal_size(&self) -> u32 {
        self.goal().map_or(0, |(_, size)| size)
    }

    pub(crate) fn is_forward(&self) -> bool {
        self.course == Course::Forward
    }

    pub(crate) fn member_of_step(&mut self, id: StepId) -> Option<usize> {
        self.members.iter().position(|member| member.step == Some(id))
    }

    /// Whether what a member does now can be given up for something else: nobody is at a step whose result must
    /// be known first. A hook may run on; nothing depends on its result once its instance's course has changed.
    pub(crate) fn is_free(&self, index: usize) -> bool {
        let member = &self.members[index];
        let Some(step) = member.step else { return true };
        let hook = matches!(member.stage, Stage::AfterBoot | Stage::BeforeDrain);
        hook || self.open.get(&step).is_none_or(|open| matches!(open.ask, Ask::Again(_)))
    }

    /// Moves a member to a stage; a step that it was waiting for is given up.
    pub(crate) fn enter(&mut self, index: usize, stage: Stage, now: Time) {
        let member = &mut self.members[index];
        if member.stage == stage {
            return;
        }
        if let Some(step) = member.step.take() {
            self.open.remove(&step);
        }
        let member = &mut self.members[index];
        let left = member.stage;
        member.enter(stage, now);
        if matches!(stage, Stage::InService | Stage::Gone) && left != Stage::BeforeDrain {
            self.progress = now;
        }
        let (instance, release) = (member.id.clone(), member.release);
        self.events.push(Event::Stage { instance, release, stage });
    }

    /// Holds a failure against a member, once.
    pub(crate) fn fail(&mut self, index: usize, failure: Failure) {
        let member = &mut self.members[index];
        if member.failure.is_some() {
            return;
        }
        member.failure = Some(failure.clone());
        let arrived = member.times.in_service.is_some();
        let launched = member.origin == Origin::Launched;
        let (instance, release) = (member.id.clone(), member.release);
        let counts = launched && self.count_failure(release, arrived);
        if counts {
            self.last_failure = Some((instance.clone(), failure.clone()));
        }
        self.events.push(Event::Failed { instance, failure, counts });
    }

    /// Counts the failure of an instance that was launched here, if it speaks against its release.
    fn count_failure(&mut self, release: Release, arrived: bool) -> bool {
        let from = self.request.from.map(|from| from.release);
        match self.course {
            Course::Forward if release == self.request.to => self.failures += 1,
            Course::Back { .. } if Some(release) == from => self.rollback_failures += 1,
            // The old release keeps the group's capacity meanwhile. That somebody kills its instances says
            // nothing; that new ones of it do not even come into service says that there is no way back.
            Course::Forward if Some(release) == from && !arrived => self.rollback_failures += 1,
            _ => return false,
        }
        true
    }

    /// Goes back to what ran before, or holds, if that is what the options say.
    pub(crate) fn turn_back(&mut self, why: Why, now: Time) {
        if self.request.options.on_failure == OnFailure::Hold && why != Why::Wished {
            return self.end(Outcome::Held { why, after: None }, now);
        }
        self.gate.since = None;
        self.baking = None;
        self.progress = now;
        self.events.push(Event::RollingBack { why: why.clone() });
        self.course = Course::Back { why, since: now };
    }

    /// Stops where it is.
    pub(crate) fn hold(&mut self, why: Why, now: Time) {
        let after = match &self.course {
            Course::Back { why, .. } => Some(why.clone()),
            _ => None,
        };
        self.end(Outcome::Held { why, after }, now);
    }

    /// Steps that wait for another attempt are not tried again, but for those about liens.
    fn drop_failed_steps(&mut self) {
        let failed = |open: &OpenStep| matches!(open.ask, Ask::Again(_));
        if let Some(step) = self.traffic_step.filter(|step| self.open.get(step).is_none_or(failed)) {
            self.open.remove(&step);
            self.traffic_step = None;
            self.traffic_in_doubt = true;
        }
        for member in &mut self.members {
            if let Some(step) = member.step.take_if(|step| self.open.get(step).is_none_or(failed)) {
                self.open.remove(&step);
            }
        }
    }

    /// Begins to end: from here on, only liens are dealt with.
    pub(crate) fn end(&mut self, outcome: Outcome, now: Time) {
        self.paused = None;
        self.drop_failed_steps();
        self.events.push(Event::Ending { outcome: outcome.clone() });
        self.course = Course::Ending { outcome, since: now };
    }
}
