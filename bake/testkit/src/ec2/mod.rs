//! A test cloud: an EC2 that is real enough. moto keeps the records; a proxy in front of it mends what those get
//! wrong and injects faults; bodies make running instances boot. [`TestCloud`] is the way in.

#![allow(dead_code, reason = "the part that mends records follows")]

mod answer;
pub mod body;
mod call;
mod calls;
mod cloud;
mod control;
mod error;
mod faults;
mod moto;
mod proxy;
mod shared;
mod upstream;
mod xml;

pub use calls::{Aim, Counts, When};
pub use cloud::{Config, TestCloud};
pub use error::CloudError;
pub use faults::{Behaviour, Fault, FaultKind};
