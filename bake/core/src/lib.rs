//! The pure part of olbake: what recipes mean, and nothing about how they are carried out.
//!
//! Everything here is data and functions over data. There are no files, processes, clocks, random numbers,
//! network calls or async runtimes in this crate: a test over the crate's sources and dependencies
//! (`bake/xtask/tests/house.rs`) keeps it so. The agent depends on this crate too, which is why its
//! dependencies stay few and small.

pub mod blockmap;
pub mod canonical;
pub mod diagnostic;
pub mod digest;
pub mod effects;
pub mod key;
pub mod lint;
pub mod names;
pub mod operation;
pub mod plan;
pub mod promotion;
pub mod protocol;
pub mod redact;
pub mod report;
pub mod rollout;
pub mod secret;
pub mod settings;
pub mod span;
pub mod stack;
pub mod time;
pub mod why;

pub use digest::Digest;
pub use names::{ComponentName, ImageName, ImageRef, OperationId, VariantName};
