//! Why a stack could not be changed. Main type: [`StackError`].

use olbake_core::diagnostic::Diagnostics;
use olbake_core::secret::SecretId;
use olbake_core::stack::record::OperationKey;
use olbake_core::stack::{ResourceName, ResourceType, StackName};

use super::provider::ProviderError;
use crate::registry::RegistryError;
use crate::state::StateError;

/// Why a stack could not be planned or changed.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The plan cannot be made.
    #[error("the stack cannot be planned")]
    Plan(Diagnostics),
    /// A plan was made for another state than there is now.
    #[error(
        "the plan of `{stack}` was made for another state, and from the present one other changes follow"
    )]
    Moved {
        /// The stack.
        stack: StackName,
        /// What is now to be done and was not, or the other way round; a line each.
        differences: Vec<String>,
    },
    /// Whoever was asked said no.
    #[error("{0}")]
    Declined(String),
    /// There is no provider of a type.
    #[error("no provider has resources of type `{0}`")]
    NoProvider(ResourceType),
    /// A provider.
    #[error("`{name}`")]
    Provider {
        /// The resource.
        name: ResourceName,
        /// Why.
        #[source]
        source: ProviderError,
    },
    /// A provider could not say what it has.
    #[error("the objects of provider `{provider}` cannot be listed")]
    Listing {
        /// The provider.
        provider: String,
        /// Why.
        #[source]
        source: ProviderError,
    },
    /// A value turned out not to fit its property once it was known.
    #[error("`{name}`: {problem}")]
    Value {
        /// The resource.
        name: ResourceName,
        /// What does not fit.
        problem: String,
    },
    /// An output that a property refers to is not there.
    #[error("`{name}` needs `{reference}`, which is not there")]
    NoOutput {
        /// The resource.
        name: ResourceName,
        /// The output, with the resource that was to give it.
        reference: String,
    },
    /// A secret's value cannot be had.
    #[error("the secret `{}` of `{name}` cannot be read: {problem}", secret.0)]
    Secret {
        /// The resource.
        name: ResourceName,
        /// Which.
        secret: SecretId,
        /// Why not.
        problem: String,
    },
    /// A rollout cannot begin.
    #[error(transparent)]
    Preflight(#[from] olbake_core::rollout::PreflightError),
    /// A rollout did not bring the release.
    #[error("the rollout of `{name}` {outcome}")]
    Rollout {
        /// The group.
        name: ResourceName,
        /// How it ended.
        outcome: String,
    },
    /// A written-down rollout is not readable.
    #[error("the rollout of `{name}` in the state cannot be read")]
    BadRollout {
        /// The group.
        name: ResourceName,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Some actions failed; the others were done where they did not need them.
    #[error("{}", summary(.failures, *.skipped))]
    Failed {
        /// Each action that failed, and why.
        failures: Vec<(OperationKey, StackError)>,
        /// How many were not begun because of that.
        skipped: usize,
    },
    /// Someone asked to stop.
    #[error("stopped as asked; `olbake deploy` goes on from here")]
    Cancelled,
    /// A task of ours ended unexpectedly.
    #[error("a task ended unexpectedly")]
    Task(#[from] tokio::task::JoinError),
}

fn summary(failures: &[(OperationKey, StackError)], skipped: usize) -> String {
    let actions =
        if failures.len() == 1 { "1 action".to_owned() } else { format!("{} actions", failures.len()) };
    match skipped {
        0 => format!("{actions} failed"),
        _ => format!("{actions} failed, and {skipped} that come after were not begun"),
    }
}
