//! A test cloud: an EC2 that is real enough. moto keeps the records; a proxy in front of it mends what those get
//! wrong and injects faults; bodies make running instances boot. [`TestCloud`] is the way in.

mod answer;
pub mod balancer;
mod balancing;
pub mod base;
pub mod body;
mod call;
mod calls;
mod cloud;
mod control;
mod ebs;
mod error;
mod faults;
mod imds;
mod machines;
mod moto;
mod proxy;
mod shared;
mod snapshots;
mod states;
mod tokens;
mod upstream;
mod visibility;
mod xml;

pub use calls::{Aim, Counts, When};
pub use cloud::{Config, Registered, StockImage, TestCloud};
pub use error::CloudError;
pub use faults::{Behaviour, Fault, FaultKind};
