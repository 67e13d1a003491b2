//! AWS: the registry and states on S3, images on EC2, and the provider of stacks.
//!
//! Everything is behind the feature `aws`: without it this crate is empty and no AWS crate is compiled.
#![cfg(feature = "aws")]

mod account;
pub mod ebs;
pub mod error;
pub mod gc;
pub mod import;
mod pause;
pub mod publish;
pub mod s3;
mod token;
pub mod provider;

pub use account::Account;
pub use error::{AwsError, AwsErrorKind};
pub use provider::AwsProvider;
