//! AWS: the registry and states on S3, images on EC2, and the provider of stacks.
//!
//! All but the types of resources is behind the feature `aws`: without it no AWS crate is compiled.

pub mod types;

#[cfg(feature = "aws")]
mod account;
#[cfg(feature = "aws")]
pub mod bake;
#[cfg(feature = "aws")]
pub mod ebs;
#[cfg(feature = "aws")]
pub mod error;
#[cfg(feature = "aws")]
pub mod gc;
#[cfg(feature = "aws")]
pub mod import;
#[cfg(feature = "aws")]
pub mod kms;
#[cfg(feature = "aws")]
mod pause;
#[cfg(feature = "aws")]
pub mod provider;
#[cfg(feature = "aws")]
pub mod publish;
#[cfg(feature = "aws")]
pub mod s3;
#[cfg(feature = "aws")]
pub mod ssm;
#[cfg(feature = "aws")]
mod token;

#[cfg(feature = "aws")]
pub use account::Account;
#[cfg(feature = "aws")]
pub use error::{AwsError, AwsErrorKind};
#[cfg(feature = "aws")]
pub use provider::AwsProvider;
