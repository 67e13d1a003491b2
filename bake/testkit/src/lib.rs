//! What tests and benchmarks have in common: workspaces, stacks, and a cloud that exists in memory only.

#[cfg(feature = "cloud")]
pub mod cloud;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "ec2")]
pub mod ec2;
pub mod host;
pub mod load;
#[cfg(feature = "cloud")]
pub mod stacks;
pub mod workspace;
