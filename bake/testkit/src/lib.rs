//! What tests and benchmarks have in common: workspaces, stacks, and a cloud that exists in memory only.

pub mod cloud;
pub mod stacks;
pub mod workspace;
