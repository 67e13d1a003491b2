//! Runs plans. Schedules bakes, talks to agents, keeps the store, the registry and the journal, and says what
//! happens as events. Where a machine comes from is behind the traits of [`machine`]: nothing here knows
//! containers, QEMU or a cloud.

pub mod apply;
pub mod bake;
pub mod cache;
pub mod cancel;
pub mod config;
pub mod edit;
pub mod envelope;
pub mod event;
pub mod gc;
pub mod lock;
pub mod machine;
pub mod payload;
pub mod promotion;
pub mod registry;
pub mod secrets;
pub mod session;
pub mod stack;
pub mod state;
pub mod store;
