//! `aws.bucket`.

use async_trait::async_trait;
use aws_sdk_s3::types::{
    BucketLocationConstraint, BucketVersioningStatus, CreateBucketConfiguration,
    PublicAccessBlockConfiguration, ServerSideEncryption, ServerSideEncryptionByDefault,
    ServerSideEncryptionConfiguration, ServerSideEncryptionRule, Tag, Tagging, VersioningConfiguration,
};
use serde_json::json;

use super::super::clients::Aws;
use super::super::kind::{Kind, Settled, Sighting, Wanted, Which};
use super::super::owner::{self, Owner, Tags};
use super::super::problem::{Nature, Problem, problem};

pub(super) struct Bucket;

/// The region that a bucket is in if none is said.
const FIRST_REGION: &str = "us-east-1";

impl Bucket {
    /// Whose a bucket is; none: nobody's that we know of, or there is none.
    async fn owner(aws: &Aws, name: &str) -> Result<Option<Owner>, Problem> {
        let found = aws.s3.get_bucket_tagging().bucket(name).send().await;
        match found.map_err(problem("s3:GetBucketTagging")) {
            Ok(found) => {
                let tags: Tags = found
                    .tag_set()
                    .iter()
                    .map(|tag| (tag.key().to_owned(), tag.value().to_owned()))
                    .collect();
                Ok(Owner::read(&tags))
            }
            Err(problem) if problem.nature() == Nature::Absent || problem.is("NoSuchTagSet") => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    async fn sighting(aws: &Aws, name: &str, owner: Owner) -> Result<Sighting, Problem> {
        let found = aws.s3.get_bucket_versioning().bucket(name).send().await;
        let found = found.map_err(problem("s3:GetBucketVersioning"))?;
        let versioning = found.status() == Some(&BucketVersioningStatus::Enabled);
        let inputs = json!({"name": name, "versioning": versioning});
        Ok(Sighting::new(owner, name, inputs).gives("arn", format!("arn:aws:s3:::{name}")))
    }

    async fn version(aws: &Aws, wanted: &Wanted<'_>, name: &str) -> Result<(), Problem> {
        let status = match wanted.flag("versioning") {
            true => BucketVersioningStatus::Enabled,
            false => BucketVersioningStatus::Suspended,
        };
        let versioning = VersioningConfiguration::builder().status(status).build();
        let call = aws.s3.put_bucket_versioning().bucket(name).versioning_configuration(versioning);
        call.send().await.map_err(problem("s3:PutBucketVersioning")).map(drop)
    }

    fn tagging(wanted: &Wanted<'_>, action: &'static str) -> Result<Vec<Tag>, Problem> {
        let tags = owner::tags(wanted.object, wanted.inputs);
        let tag = |(key, value): (&String, &String)| {
            let tag = Tag::builder().key(key).value(value).build();
            tag.map_err(|error| Problem::refused(action, error.to_string()))
        };
        tags.iter().map(tag).collect()
    }

    async fn write_tags(aws: &Aws, wanted: &Wanted<'_>, name: &str) -> Result<(), Problem> {
        let action = "s3:PutBucketTagging";
        let tags = Tagging::builder().set_tag_set(Some(Self::tagging(wanted, action)?)).build();
        let tags = tags.map_err(|error| Problem::refused(action, error.to_string()))?;
        let call = aws.s3.put_bucket_tagging().bucket(name).tagging(tags);
        call.send().await.map_err(problem(action)).map(drop)
    }
}

#[async_trait]
impl Kind for Bucket {
    async fn look(&self, aws: &Aws, which: Which<'_>) -> Result<Vec<Sighting>, Problem> {
        let names: Vec<String> = match which {
            Which::These(wanted) => {
                wanted.iter().filter_map(|wanted| wanted.text("name").map(str::to_owned)).collect()
            }
            Which::All => {
                let found = aws.s3.list_buckets().into_paginator().items().send();
                let found =
                    found.collect::<Result<Vec<_>, _>>().await.map_err(problem("s3:ListAllMyBuckets"))?;
                found.into_iter().filter_map(|bucket| bucket.name).collect()
            }
        };
        let mut found = Vec::new();
        for name in names {
            if let Some(owner) = Self::owner(aws, &name).await? {
                found.push(Self::sighting(aws, &name, owner).await?);
            }
        }
        Ok(found)
    }

    async fn make(&self, aws: &Aws, wanted: &Wanted<'_>) -> Result<(), Problem> {
        let action = "s3:CreateBucket";
        let name = wanted.text("name").unwrap_or_default();
        let place = (aws.region() != FIRST_REGION).then(|| BucketLocationConstraint::from(aws.region()));
        let config =
            place.map(|place| CreateBucketConfiguration::builder().location_constraint(place).build());
        let call = aws.s3.create_bucket().bucket(name).set_create_bucket_configuration(config);
        match call.send().await.map_err(problem(action)) {
            // An earlier call made it, and did not come to its tags; or it is this account's for something else.
            Err(problem) if problem.is("BucketAlreadyOwnedByYou") => {
                if Self::owner(aws, name).await?.is_some() {
                    return Err(problem);
                }
            }
            other => drop(other?),
        }
        Self::version(aws, wanted, name).await?;
        // From here on it is seen.
        Self::write_tags(aws, wanted, name).await
    }

    async fn settle(&self, aws: &Aws, there: &Sighting, wanted: &Wanted<'_>) -> Result<Settled, Problem> {
        let name = &there.native;
        let block = PublicAccessBlockConfiguration::builder()
            .block_public_acls(true)
            .ignore_public_acls(true)
            .block_public_policy(true)
            .restrict_public_buckets(true)
            .build();
        let call = aws.s3.put_public_access_block().bucket(name).public_access_block_configuration(block);
        call.send().await.map_err(problem("s3:PutBucketPublicAccessBlock"))?;
        let by = match wanted.text("kms_key_id") {
            Some(key) => ServerSideEncryptionByDefault::builder()
                .sse_algorithm(ServerSideEncryption::AwsKms)
                .kms_master_key_id(key),
            None => ServerSideEncryptionByDefault::builder().sse_algorithm(ServerSideEncryption::Aes256),
        };
        let action = "s3:PutEncryptionConfiguration";
        let wrong = |error: aws_sdk_s3::error::BuildError| Problem::refused(action, error.to_string());
        let rule = ServerSideEncryptionRule::builder()
            .apply_server_side_encryption_by_default(by.build().map_err(wrong)?)
            .bucket_key_enabled(true)
            .build();
        let rules = ServerSideEncryptionConfiguration::builder().rules(rule).build().map_err(wrong)?;
        let call = aws.s3.put_bucket_encryption().bucket(name).server_side_encryption_configuration(rules);
        call.send().await.map_err(problem(action))?;
        if there.inputs.get("versioning") == wanted.inputs.get("versioning") {
            return Ok(Settled::Already);
        }
        Self::version(aws, wanted, name).await?;
        Ok(Settled::Now)
    }

    async fn remove(&self, aws: &Aws, there: &Sighting) -> Result<(), Problem> {
        let call = aws.s3.delete_bucket().bucket(&there.native);
        call.send().await.map_err(problem("s3:DeleteBucket")).map(drop)
    }

    async fn claim(&self, aws: &Aws, wanted: &Wanted<'_>, foreign: &str) -> Result<(), Problem> {
        Self::write_tags(aws, wanted, foreign).await
    }
}
