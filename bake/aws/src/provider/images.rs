//! Which image at EC2 a version is. Main trait: [`Amis`].

use std::fmt;

use async_trait::async_trait;
use aws_sdk_ec2::types::Filter;
use olbake_core::Digest;
use olbake_engine::stack::provider::ProviderError;

use super::clients::Aws;
use super::problem::{Problem, problem};

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

/// The tag of an image with the digest of its version.
const VERSION: &str = "olbake:version";

/// Images are known by the tag that publishing gives them.
#[derive(Clone, Debug)]
pub struct TaggedAmis {
    ec2: aws_sdk_ec2::Client,
}

impl TaggedAmis {
    /// The images of an account.
    pub fn new(account: &crate::Account) -> Self {
        Self { ec2: aws_sdk_ec2::Client::new(account.config()) }
    }
}

#[async_trait]
impl Amis for TaggedAmis {
    async fn ami(&self, version: &Digest, _region: &str) -> Result<Option<String>, ProviderError> {
        let tag = Filter::builder().name(format!("tag:{VERSION}")).values(version.to_string()).build();
        let usable = Filter::builder().name("state").values("available").build();
        let call = self.ec2.describe_images().filters(tag).filters(usable);
        let found = call.send().await.map_err(problem("ec2:DescribeImages")).map_err(Problem::before)?;
        Ok(found.images().iter().filter_map(|image| image.image_id()).min().map(str::to_owned))
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
