//! What happens while a stack is changed, as data: the terminal draws these, `--json` writes them a line each.

use olbake_core::rollout;
use olbake_core::stack::plan::Act;
use olbake_core::stack::record::OperationKey;
use olbake_core::stack::{ResourceName, ResourceType, StackName};
use serde::{Deserialize, Serialize};

/// Something that happened to a stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum StackEvent {
    /// The changes of a plan begin.
    DeployStarted {
        /// The stack.
        stack: StackName,
        /// How many actions there are.
        actions: usize,
    },
    /// An earlier process ended in the middle of a call; it is known now what came of it.
    Resolved {
        /// The call.
        key: OperationKey,
        /// Whether it had been done.
        done: bool,
    },
    /// An action began.
    ActionStarted {
        /// Which.
        key: OperationKey,
        /// What it does.
        #[serde(flatten)]
        act: Act,
        /// To which resource.
        name: ResourceName,
        /// Of which type.
        #[serde(rename = "type")]
        ty: ResourceType,
    },
    /// An action is done.
    ActionDone {
        /// Which.
        key: OperationKey,
        /// Seconds it took.
        seconds: f64,
    },
    /// An action failed.
    ActionFailed {
        /// Which.
        key: OperationKey,
        /// Why.
        message: String,
        /// Seconds it took.
        seconds: f64,
    },
    /// An action is not begun, because one before it failed.
    ActionSkipped {
        /// Which.
        key: OperationKey,
    },
    /// A rollout says something.
    Rollout {
        /// The group.
        group: ResourceName,
        /// What.
        rollout: rollout::Event,
    },
    /// Where a rollout is; said when it changes.
    RolloutStatus {
        /// The group.
        group: ResourceName,
        /// What it waits for.
        waiting: Vec<rollout::Waiting>,
    },
    /// A rollout is over.
    RolloutOver {
        /// The group.
        group: ResourceName,
        /// How, with a line for each instance.
        report: Box<rollout::Report>,
    },
    /// The changes are over.
    DeployFinished {
        /// The stack.
        stack: StackName,
        /// How many actions were done.
        done: usize,
        /// How many failed.
        failed: usize,
        /// How many were not begun.
        skipped: usize,
        /// Seconds from start to end.
        seconds: f64,
    },
}
