//! Which image at EC2 a version is. Main trait: [`Amis`].

use std::fmt;

use async_trait::async_trait;
use olbake_core::Digest;
use olbake_engine::stack::provider::ProviderError;

use super::clients::Aws;
use super::problem::Problem;

/// Where the images of versions are known.
#[async_trait]
pub trait Amis: Send + Sync + fmt::Debug {
    /// The image of a version in a region; none: it was not published there.
    async fn ami(&self, version: &Digest, region: &str) -> Result<Option<String>, ProviderError>;
}

/// No version is at EC2.
#[derive(Clone, Copy, Debug)]
pub struct NoAmis;

#[async_trait]
impl Amis for NoAmis {
    async fn ami(&self, _version: &Digest, _region: &str) -> Result<Option<String>, ProviderError> {
        Ok(None)
    }
}

impl Aws {
    /// The image of a version here; none: it was not published.
    pub(super) async fn published(&self, version: &Digest) -> Result<Option<String>, Problem> {
        let found = self.amis.ami(version, self.region()).await;
        found.map_err(|error| Problem::failed("ec2:DescribeImages", error.to_string()))
    }

    /// The image of a version here.
    pub(super) async fn ami(&self, version: &Digest) -> Result<String, Problem> {
        self.published(version).await?.ok_or_else(|| {
            let short = version.short();
            let region = self.region();
            let message = format!(
                "version `{short}` is not in {region}: `olbake publish @{short} --to ec2 --region {region}`"
            );
            Problem::refused("ec2:DescribeImages", message)
        })
    }
}
