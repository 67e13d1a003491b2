//! What a rollout says of itself: decisions, why it waits, what it noticed, how it ended. All of it data.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::member::{Stage, Times};
use super::request::{CheckName, InstanceId, Release};
use super::step::{Hook, Lien, Shares, Step, StepId};
use super::time::{Millis, Time};

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Steps to begin now, in any order and at the same time.
    pub steps: Vec<Step>,
    /// When to ask again at the latest; ask earlier when a step has a result or something is seen to change.
    pub wait_until: Option<Time>,
    /// It is over: there is nothing more to do or to ask.
    pub finished: Option<Outcome>,
    /// What it waits for, and why.
    pub waiting: Vec<Waiting>,
    /// What was noticed or decided this time, in order.
    pub events: Vec<Event>,
}

/// Something that a rollout waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "waits_for", rename_all = "snake_case")]
pub enum Waiting {
    /// A step's result.
    Step {
        /// The step.
        step: StepId,
        /// When it is tried again, if its last attempt failed.
        retry_at: Option<Time>,
    },
    /// A first look at an instance.
    Sight {
        /// Which.
        instance: InstanceId,
    },
    /// An instance to be healthy.
    Health {
        /// Which.
        instance: InstanceId,
        /// What is not yet as it should be.
        lacks: Vec<Lack>,
        /// When it will count as failed.
        until: Time,
    },
    /// An instance to have been healthy for long enough.
    Settling {
        /// Which.
        instance: InstanceId,
        /// Until when.
        until: Time,
    },
    /// Connections to end.
    Drain {
        /// Which.
        instance: InstanceId,
        /// Until when at the latest.
        until: Time,
    },
    /// More instances in service, before another may leave it.
    Capacity {
        /// How many are in service and healthy.
        available: u32,
        /// How many must stay.
        least: u32,
    },
    /// Instances to be gone, before another may be launched.
    Room {
        /// How many there are.
        alive: u32,
        /// How many there may be.
        most: u32,
    },
    /// All other members to be well, before the next is touched.
    Members,
    /// Watching the new release, as the strategy says.
    Bake {
        /// Until when.
        until: Time,
    },
    /// The operator.
    Paused,
}

/// What an instance lacks to be healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "lacks", rename_all = "snake_case")]
pub enum Lack {
    /// It was not seen.
    Sight,
    /// It is not up.
    Running,
    /// A check does not hold.
    Check {
        /// Which.
        check: CheckName,
    },
    /// It does not say what it runs.
    Digest,
    /// It says that it runs something else.
    OtherDigest,
    /// The load balancer does not find it well.
    Balancer,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sight => f.write_str("not seen"),
            Self::Running => f.write_str("not running"),
            Self::Check { check } => write!(f, "check `{check}`"),
            Self::Digest => f.write_str("does not say what it runs"),
            Self::OtherDigest => f.write_str("runs another image"),
            Self::Balancer => f.write_str("the load balancer's check"),
        }
    }
}

/// Something that was noticed or decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An instance is at another stage of its life.
    Stage {
        /// Which.
        instance: InstanceId,
        /// Its release.
        release: Release,
        /// The stage it has reached.
        stage: Stage,
    },
    /// An instance failed.
    Failed {
        /// Which.
        instance: InstanceId,
        /// Why.
        failure: Failure,
        /// Whether it speaks against the release that is rolled out (or returned to).
        counts: bool,
    },
    /// Traffic is divided thus.
    Shifted {
        /// Each set's share.
        shares: Shares,
    },
    /// A step of the strategy is done: canary step or weight, from 1.
    Passed {
        /// Which.
        step: usize,
        /// Of how many.
        of: usize,
    },
    /// The finished group is being watched.
    Baking {
        /// Until when.
        until: Time,
    },
    /// It goes back to what ran before.
    RollingBack {
        /// Why.
        why: Why,
    },
    /// An attempt at a step failed.
    StepFailed {
        /// Which.
        step: StepId,
        /// Why.
        message: String,
        /// Whether it is tried again.
        again: bool,
    },
    /// The operator paused it.
    Paused,
    /// The operator let it go on.
    Resumed,
    /// It is decided how it ends; temporary changes are being undone.
    Ending {
        /// How.
        outcome: Outcome,
    },
}

/// Why an instance failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "failure", rename_all = "snake_case")]
pub enum Failure {
    /// It could not be launched.
    Launch {
        /// Why.
        message: String,
    },
    /// It was not healthy in time.
    NotHealthy {
        /// What it lacked at the end.
        lacks: Vec<Lack>,
        /// How long it was waited for.
        after: Millis,
    },
    /// It runs another image than it was launched with.
    OtherDigest,
    /// It was in service, and then failed its checks for too long.
    Unhealthy {
        /// What it lacks.
        lacks: Vec<Lack>,
    },
    /// It stopped.
    Stopped,
    /// It is not there any more, and nobody here removed it.
    Vanished,
    /// A hook failed on it.
    Hook {
        /// Which.
        hook: Hook,
        /// Why.
        message: String,
    },
    /// It could not be put into the load balancer.
    Attach {
        /// Why.
        message: String,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |lacks: &[Lack]| lacks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Launch { message } => write!(f, "could not be launched: {message}"),
            Self::NotHealthy { lacks, after } => write!(f, "not healthy after {after}: {}", list(lacks)),
            Self::OtherDigest => f.write_str("runs another image than it was launched with"),
            Self::Unhealthy { lacks } => write!(f, "was in service, then failed: {}", list(lacks)),
            Self::Stopped => f.write_str("stopped"),
            Self::Vanished => f.write_str("is gone, and was not removed by this rollout"),
            Self::Hook { hook, message } => write!(f, "hook {hook} failed: {message}"),
            Self::Attach { message } => write!(f, "could not be attached: {message}"),
        }
    }
}

/// Why a rollout did not simply succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Why {
    /// Too many instances failed.
    Failures {
        /// How many.
        failed: u32,
        /// How many may.
        allowed: u32,
        /// The last of them.
        instance: InstanceId,
        /// Why that one failed.
        failure: Failure,
    },
    /// Nothing got better for too long.
    NoProgress {
        /// For how long.
        after: Millis,
    },
    /// It took too long in all.
    TooLong {
        /// How long.
        after: Millis,
    },
    /// A step could not be done.
    Step {
        /// Which.
        step: StepId,
        /// What it was to do, as text.
        action: String,
        /// Why not.
        message: String,
    },
    /// The operator wished it.
    Wished,
    /// A temporary change could not be undone.
    LienLeft {
        /// Which.
        lien: Lien,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failures { failed, allowed, instance, failure } => {
                write!(f, "{failed} failed ({allowed} may): {instance} {failure}")
            }
            Self::NoProgress { after } => write!(f, "nothing got better for {after}"),
            Self::TooLong { after } => write!(f, "not done after {after}"),
            Self::Step { action, message, .. } => write!(f, "could not {action}: {message}"),
            Self::Wished => f.write_str("aborted"),
            Self::LienLeft { lien } => write!(f, "could not release lien {lien}"),
        }
    }
}

/// How a rollout ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The group runs what it was to run.
    Succeeded,
    /// The group runs what ran before, by the machine's own decision.
    RolledBack {
        /// Why.
        why: Why,
    },
    /// The group runs what ran before, because the operator wished it.
    Aborted,
    /// It stopped where it was; a person must look. A further rollout can begin from there.
    Held {
        /// Why it stopped.
        why: Why,
        /// Why it was going back when it stopped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Why>,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => f.write_str("succeeded"),
            Self::RolledBack { why } => write!(f, "rolled back: {why}"),
            Self::Aborted => f.write_str("aborted: runs what ran before"),
            Self::Held { why, after: None } => write!(f, "held: {why}"),
            Self::Held { why, after: Some(after) } => {
                write!(f, "held while rolling back: {why} (rolled back: {after})")
            }
        }
    }
}

/// What became of everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The group.
    pub group: String,
    /// How it ended; absent while it goes on.
    pub outcome: Option<Outcome>,
    /// When it began.
    pub began: Time,
    /// When it ended; absent while it goes on.
    pub ended: Option<Time>,
    /// How many instances failed that speak against the new release.
    pub failures: u32,
    /// How many failed while going back.
    pub rollback_failures: u32,
    /// Each instance, in the order in which they came.
    pub instances: Vec<InstanceReport>,
    /// Temporary changes that were made, or may have been, and are not undone. A rollout that is over has none, or
    /// is held for want of undoing them; one that gives way to another hands them on to it.
    pub liens_left: Vec<Lien>,
    /// Steps whose results were not waited for any longer.
    pub open_steps: Vec<Step>,
}

/// What became of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Which.
    pub id: InstanceId,
    /// What it was launched with.
    pub release: Release,
    /// The place that it holds.
    pub slot: Option<u32>,
    /// Where it is in its life.
    pub stage: Stage,
    /// When it got where.
    pub times: Times,
    /// What became of it.
    pub result: InstanceResult,
}

/// What became of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum InstanceResult {
    /// It is in service and healthy.
    InService,
    /// It is there, and not (or not healthily) in service.
    Under,
    /// It is leaving or gone, as its release or its number was not wanted.
    Removed,
    /// It failed.
    Failed {
        /// Why.
        failure: Failure,
    },
}
