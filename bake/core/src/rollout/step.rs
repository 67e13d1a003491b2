//! The steps that a rollout asks for. Each is idempotent by its id: asked for twice, it is done once.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::request::{InstanceId, Release};
use super::time::Time;

/// A step's identity within its rollout; steps are numbered in the order in which they were decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(pub u32);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.0)
    }
}

/// A step to carry out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its identity: the same when it is asked for again.
    pub id: StepId,
    /// What to do.
    #[serde(flatten)]
    pub action: Action,
}

/// What a step does. All choices are made: names, releases, shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// Make a temporary change that the rollout needs, having noted how to undo it.
    TakeLien {
        /// Which.
        lien: Lien,
    },
    /// Undo a temporary change; nothing to do if it was never made.
    ReleaseLien {
        /// Which.
        lien: Lien,
    },
    /// Create and start an instance; done when it is created, not when it has booted.
    Launch {
        /// The new instance's name.
        instance: InstanceId,
        /// What it is launched with.
        release: Release,
        /// The place that it takes, where places matter.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slot: Option<u32>,
    },
    /// Put an instance into the load balancer.
    Attach {
        /// Which.
        instance: InstanceId,
        /// Whether it is given traffic at once.
        traffic: Traffic,
    },
    /// Divide traffic between two sets, absolutely: what was set before does not matter. Within a set, instances
    /// share alike; instances that are in neither keep the weight they have.
    SetWeights {
        /// Each set's share.
        shares: Shares,
        /// The set of the old release.
        old: Vec<InstanceId>,
        /// The set of the new release.
        new: Vec<InstanceId>,
    },
    /// Give an instance no new connections; done when the balancer has it so, not when it has drained.
    Detach {
        /// Which.
        instance: InstanceId,
    },
    /// Run one of the components' `upgrade` hooks on an instance, to its end.
    RunHook {
        /// Where.
        instance: InstanceId,
        /// Which.
        hook: Hook,
    },
    /// Stop an instance and remove it; volumes that outlive instances stay. Done when it is gone.
    Terminate {
        /// Which.
        instance: InstanceId,
    },
}

impl Action {
    /// The instance that the step is about.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Self::Launch { instance, .. }
            | Self::Attach { instance, .. }
            | Self::Detach { instance }
            | Self::RunHook { instance, .. }
            | Self::Terminate { instance } => Some(instance),
            Self::TakeLien { .. } | Self::ReleaseLien { .. } | Self::SetWeights { .. } => None,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakeLien { lien } => write!(f, "take lien {lien}"),
            Self::ReleaseLien { lien } => write!(f, "release lien {lien}"),
            Self::Launch { instance, release, slot: None } => write!(f, "launch {instance} of {release}"),
            Self::Launch { instance, release, slot: Some(slot) } => {
                write!(f, "launch {instance} of {release} in place {slot}")
            }
            Self::Attach { instance, traffic: Traffic::Full } => write!(f, "attach {instance}"),
            Self::Attach { instance, traffic: Traffic::None } => {
                write!(f, "attach {instance} without traffic")
            }
            Self::SetWeights { shares, .. } => write!(f, "set weights {shares}"),
            Self::Detach { instance } => write!(f, "detach {instance}"),
            Self::RunHook { instance, hook } => write!(f, "run {hook} on {instance}"),
            Self::Terminate { instance } => write!(f, "terminate {instance}"),
        }
    }
}

/// Whether a newly attached instance is given traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Traffic {
    /// As much as any other.
    Full,
    /// None before weights are set: it belongs to the new set of a blue-green rollout.
    None,
}

/// How traffic is divided between the old and the new release, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// The old release's.
    pub old: u8,
    /// The new release's.
    pub new: u8,
}

impl Shares {
    /// Everything to the old release.
    pub const OLD: Self = Self { old: 100, new: 0 };

    /// So many in a hundred to the new release.
    pub const fn to_new(percent: u8) -> Self {
        Self { old: 100_u8.saturating_sub(percent), new: percent }
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "old {} new {}", self.old, self.new)
    }
}

/// A hook of the components' `upgrade` phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// On a new, healthy instance before it is in service: migrations.
    AfterBoot,
    /// On an instance in service that is about to leave it: a backup, a worker's last job.
    BeforeDrain,
    /// On a drained instance before it is terminated: a final backup, leaving a cluster.
    AfterDrain,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AfterBoot => "after-boot",
            Self::BeforeDrain => "before-drain",
            Self::AfterDrain => "after-drain",
        })
    }
}

/// A temporary change outside the instances, undone whatever happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lien {
    /// The group's maximum is raised to make room for the surge.
    RaisedMaximum,
    /// Processes that would change the group meanwhile are suspended: scaling, balancing, repair.
    SuspendedProcesses,
    /// The group's capacity is pinned.
    PinnedCapacity,
    /// Instances are protected from being scaled in.
    ProtectedInstances,
}

impl fmt::Display for Lien {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RaisedMaximum => "raised maximum",
            Self::SuspendedProcesses => "suspended processes",
            Self::PinnedCapacity => "pinned capacity",
            Self::ProtectedInstances => "protected instances",
        })
    }
}

/// How an attempt at a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepResult {
    /// It is done.
    Done,
    /// It could not be done this time; it is tried again as often as the options say.
    Failed {
        /// Why, as a lower-case fragment, without secrets.
        message: String,
    },
}

/// A step that was asked for and whose result is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenStep {
    /// The step.
    pub step: Step,
    /// When it was decided.
    pub since: Time,
    /// How many attempts have failed.
    pub failed: u32,
    /// Whether it must be asked for (again), and not before when.
    pub(crate) ask: Ask,
}

impl Ask {
    /// When it must be asked for, if it must.
    pub(crate) fn when(self) -> Option<Time> {
        match self {
            Self::From(time) | Self::Again(time) => Some(time),
            Self::No => None,
        }
    }
}

/// Whether a step must be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// From this time on: it was not asked for yet, or may have been by an engine that died.
    From(Time),
    /// From this time on, as an attempt failed: nobody is at it.
    Again(Time),
    /// It was: the driver is at it.
    No,
}
