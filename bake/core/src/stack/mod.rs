//! Stacks: what a project declares in an environment, what is there, and the plan from one to the other.
//!
//! ```text
//! Declaration (lang) ─┐
//! StackState (journal)├─► planner::plan ─► StackPlan ─► executor (engine) ─► Record … ─► StackState
//! Inventory (provider)┘
//! ```
//!
//! | file | what it has |
//! |---|---|
//! | [`name`] | names of stacks, resources and types |
//! | [`value`] | values with placeholders: outputs that are known after apply, and secrets |
//! | [`catalog`] | the types of resources that a provider has, their properties and outputs |
//! | [`declare`] | what a project declares |
//! | [`state`] | what was applied, as the fold of [`record`]s |
//! | [`plan`] | every action with its reasons, ids and values |
//! | [`planner`] | the pure function that makes one |
//! | [`queue`] | things that come after other things, in order |
//! | [`compare`] | desired, applied and live values, property by property |
//! | [`foreign`] | outputs of Pulumi and Terraform states |
//!
//! Nothing here acts, and nothing here chooses while something is carried out: identities are fixed in the plan.

pub mod catalog;
pub mod compare;
pub mod declare;
pub mod foreign;
pub mod graph;
pub mod name;
pub mod plan;
pub mod planner;
pub mod queue;
pub mod record;
pub mod state;
pub mod value;

pub use catalog::{Catalog, TypeSchema};
pub use declare::Declaration;
pub use name::{EnvironmentName, ObjectId, ResourceName, ResourceType, StackName};
pub use plan::StackPlan;
pub use record::Record;
pub use state::StackState;
