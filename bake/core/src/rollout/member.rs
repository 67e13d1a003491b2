//! One instance as the machine knows it: the stage of its life, its health, what it waits for.
//!
//! A stage that needs a step names it ([`Member::action`]), so that steps follow from stages and never the other
//! way round: a planner moves a member to a stage, the pass over all members asks for the step, and its result
//! moves the member on.

use serde::{Deserialize, Serialize};

use super::observe::{Attachment, Phase, Seen, Verdict};
use super::outcome::{Failure, Lack};
use super::request::{Fronting, InstanceId, Release, Request};
use super::step::{Action, Hook, StepId, Traffic};
use super::time::Time;

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It was there before, and nobody has looked at it yet.
    Found,
    /// It is being created.
    Launching,
    /// It boots, or is up and not yet healthy for long enough.
    Booting,
    /// Its after-boot hook runs.
    AfterBoot,
    /// It is being put into the load balancer.
    Attaching,
    /// It is in the load balancer, which does not find it well yet.
    Joining,
    /// It serves.
    InService,
    /// It still serves; its before-drain hook runs.
    BeforeDrain,
    /// It is being taken out of the load balancer.
    Detaching,
    /// It gets no new connections; the old ones end.
    Draining,
    /// Its after-drain hook runs.
    AfterDrain,
    /// It is being removed.
    Terminating,
    /// It is not there any more.
    Gone,
}

impl Stage {
    /// It is on its way into service.
    pub const fn is_arriving(self) -> bool {
        matches!(
            self,
            Self::Found | Self::Launching | Self::Booting | Self::AfterBoot | Self::Attaching | Self::Joining
        )
    }

    /// It is on its way out of service, and not yet gone.
    pub const fn is_leaving(self) -> bool {
        matches!(
            self,
            Self::BeforeDrain | Self::Detaching | Self::Draining | Self::AfterDrain | Self::Terminating
        )
    }
}

/// Who brought an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// It was there before the rollout.
    Found,
    /// The rollout launched it.
    Launched,
}

/// What is known of an instance's health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing speaks against it, but not everything for it.
    #[default]
    Unknown,
    /// It is up, passes every check and runs what it should.
    Healthy,
    /// A check fails, or it runs something else.
    Failing,
}

/// When an instance got where, for the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// It was created, by this rollout.
    pub launched: Option<Time>,
    /// It was first healthy.
    pub healthy: Option<Time>,
    /// It was first in service.
    pub in_service: Option<Time>,
    /// It began to leave.
    pub leaving: Option<Time>,
    /// It was gone.
    pub gone: Option<Time>,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which.
    pub id: InstanceId,
    /// What it was launched with.
    pub release: Release,
    /// The place that it holds.
    pub slot: Option<u32>,
    /// Who brought it.
    pub origin: Origin,
    /// Since when it is there.
    pub since: Time,
    /// Where it is in its life.
    pub stage: Stage,
    /// What is known of its health, as of the last look.
    pub health: Health,
    /// What it lacks to be healthy, as of the last look.
    pub lacks: Vec<Lack>,
    /// When it got where.
    pub times: Times,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// When it reached its stage.
    pub(crate) stage_since: Time,
    /// Since when it is on its way into service.
    pub(crate) arriving_since: Time,
    /// Since when it is healthy without a break.
    pub(crate) healthy_since: Option<Time>,
    /// Since when it fails without a break.
    pub(crate) failing_since: Option<Time>,
    /// Whether it was ever seen: what was never seen may only not be visible yet.
    pub(crate) sighted: bool,
    /// Whether it may be in the load balancer.
    pub(crate) attached: bool,
    /// Whether its after-boot hook is done.
    pub(crate) migrated: bool,
    /// Whether its before-drain hook is done.
    pub(crate) said_goodbye: bool,
    /// Whether it is up and may finish its work; a dead one is not drained.
    pub(crate) alive: bool,
    /// The step that its stage waits for.
    pub(crate) step: Option<StepId>,
}

impl Member {
    pub(crate) fn new(
        id: InstanceId,
        release: Release,
        slot: Option<u32>,
        origin: Origin,
        since: Time,
    ) -> Self {
        let stage = match origin {
            Origin::Found => Stage::Found,
            Origin::Launched => Stage::Launching,
        };
        Self {
            id,
            release,
            slot,
            origin,
            since,
            stage,
            health: Health::Unknown,
            lacks: vec![Lack::Sight],
            times: Times::default(),
            failure: None,
            stage_since: since,
            arriving_since: since,
            healthy_since: None,
            failing_since: None,
            sighted: false,
            attached: false,
            migrated: false,
            said_goodbye: false,
            alive: true,
            step: None,
        }
    }

    /// It is not gone.
    pub fn exists(&self) -> bool {
        self.stage != Stage::Gone
    }

    /// It is in service and healthy: it counts.
    pub fn is_available(&self) -> bool {
        self.stage == Stage::InService && self.health == Health::Healthy && self.failure.is_none()
    }

    /// It is in service, and nothing is held against it, whether it can be seen just now or not.
    pub(crate) fn seems_well(&self) -> bool {
        self.stage == Stage::InService && self.failure.is_none()
    }

    /// It is there, or coming, and nothing is held against it.
    pub(crate) fn is_kept(&self) -> bool {
        self.failure.is_none() && (self.stage.is_arriving() || self.stage == Stage::InService)
    }

    /// It is on its way and was never in service. One that was may be so again any time: the balancer lost it.
    pub(crate) fn never_served(&self) -> bool {
        self.stage.is_arriving() && self.times.in_service.is_none()
    }

    /// Moves on.
    pub(crate) fn enter(&mut self, stage: Stage, now: Time) {
        if self.stage == stage {
            return;
        }
        let arrives = stage.is_arriving() && !self.stage.is_arriving();
        if arrives || self.stage == Stage::Found || (self.stage, stage) == (Stage::Launching, Stage::Booting)
        {
            self.arriving_since = now;
        }
        self.stage = stage;
        self.stage_since = now;
        let times = &mut self.times;
        match stage {
            Stage::InService => times.in_service = times.in_service.or(Some(now)),
            Stage::Gone => times.gone = Some(now),
            stage if stage.is_leaving() => times.leaving = times.leaving.or(Some(now)),
            stage if stage.is_arriving() => times.leaving = None,
            _ => {}
        }
    }

    /// The step that the stage needs, if any. `None` also where the stage only waits.
    pub(crate) fn action(&self, traffic: Traffic) -> Option<Action> {
        let instance = self.id.clone();
        Some(match self.stage {
            Stage::Launching => Action::Launch { instance, release: self.release, slot: self.slot },
            Stage::AfterBoot => Action::RunHook { instance, hook: Hook::AfterBoot },
            Stage::Attaching => Action::Attach { instance, traffic },
            Stage::BeforeDrain => Action::RunHook { instance, hook: Hook::BeforeDrain },
            Stage::Detaching => Action::Detach { instance },
            Stage::AfterDrain => Action::RunHook { instance, hook: Hook::AfterDrain },
            Stage::Terminating => Action::Terminate { instance },
            Stage::Found
            | Stage::Booting
            | Stage::Joining
            | Stage::InService
            | Stage::Draining
            | Stage::Gone => {
                return None;
            }
        })
    }

    /// Takes note of its health as seen.
    pub(crate) fn weigh(&mut self, seen: Option<&Seen>, request: &Request, now: Time) {
        self.lacks = lacks(self, seen, request);
        self.health = health(self, seen, request);
        match self.health {
            Health::Healthy => {
                self.healthy_since = self.healthy_since.or(Some(now));
                self.failing_since = None;
                self.times.healthy = self.times.healthy.or(Some(now));
            }
            Health::Failing => {
                self.healthy_since = None;
                self.failing_since = self.failing_since.or(Some(now));
            }
            // Not to know is no news: a failing instance that cannot be asked goes on failing.
            Health::Unknown => self.healthy_since = None,
        }
    }
}

/// Whether the balancer's own check is part of an instance's health now.
fn balanced(member: &Member, request: &Request) -> bool {
    request.fronting == Fronting::Balancer && matches!(member.stage, Stage::Joining | Stage::InService)
}

fn lacks(member: &Member, seen: Option<&Seen>, request: &Request) -> Vec<Lack> {
    let Some(seen) = seen else { return vec![Lack::Sight] };
    if seen.phase != Phase::Running {
        return vec![Lack::Running];
    }
    let failing = request.checks.iter().filter(|check| seen.checks.get(check) != Some(&Verdict::Passing));
    let mut lacks: Vec<Lack> = failing.map(|check| Lack::Check { check: check.clone() }).collect();
    match seen.digest {
        None => lacks.push(Lack::Digest),
        Some(digest) if digest != member.release.image => lacks.push(Lack::OtherDigest),
        Some(_) => {}
    }
    if balanced(member, request) && seen.attachment != (Attachment::In { serving: Verdict::Passing }) {
        lacks.push(Lack::Balancer);
    }
    lacks
}

fn health(member: &Member, seen: Option<&Seen>, request: &Request) -> Health {
    let Some(seen) = seen.filter(|seen| seen.phase == Phase::Running) else { return Health::Unknown };
    let check = request.checks.iter().any(|check| seen.checks.get(check) == Some(&Verdict::Failing));
    let balancer =
        balanced(member, request) && seen.attachment == (Attachment::In { serving: Verdict::Failing });
    if check || balancer || member.lacks.contains(&Lack::OtherDigest) {
        Health::Failing
    } else if member.lacks.is_empty() {
        Health::Healthy
    } else {
        Health::Unknown
    }
}
