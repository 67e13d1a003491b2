//! Runs plans. Schedules bakes, talks to agents, keeps the store, the registry and the journal, and says what
//! happens as events. Where a machine comes from is behind the traits of [`machine`]: nothing here knows
//! containers, QEMU or a cloud.

pub mod cache;
pub mod event;
pub mod machine;
pub mod registry;
pub mod store;
