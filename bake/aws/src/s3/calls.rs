//! The calls to S3, each with its own way to fail. Main type: [`Calls`].

use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_smithy_types::byte_stream::ByteStream;
use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::store::StoreError;
use olbake_engine::store::object::{Etag, Listed, Object, ObjectKey, Put, PutOutcome};

use super::remote;
use super::url::S3Url;
use crate::account::Account;
use crate::error::{AwsError, AwsErrorKind};
use crate::pause::Backoff;

/// How often a conditional write is tried in all, and how often the body of an answer.
const ATTEMPTS: u32 = 6;

/// A bucket and how it is asked.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) client: Client,
    pub(super) bucket: String,
    prefix: String,
    pub(super) scratch: Utf8PathBuf,
}

impl Calls {
    pub(super) fn new(account: &Account, url: &S3Url, scratch: &Utf8Path) -> Self {
        let config = account.config();
        // Another endpoint than Amazon's has the bucket in its path, not in its host name.
        let config = aws_sdk_s3::config::Builder::from(config)
            .force_path_style(config.endpoint_url().is_some())
            .build();
        Self {
            client: Client::from_conf(config),
            bucket: url.bucket.clone(),
            prefix: url.prefix.clone(),
            scratch: scratch.to_owned(),
        }
    }

    pub(super) fn name(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(super) fn place(&self, key: &ObjectKey) -> String {
        format!("s3://{}/{}{key}", self.bucket, self.prefix)
    }

    pub(super) async fn get(&self, key: &ObjectKey) -> Result<Option<Object>, StoreError> {
        let Some((output, bytes)) = self.read(key, None).await? else { return Ok(None) };
        let etag = Etag(output.e_tag.unwrap_or_default());
        Ok(Some(Object { bytes, etag }))
    }

    pub(super) async fn get_range(
        &self,
        key: &ObjectKey,
        offset: u64,
        length: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        if length == 0 {
            return Ok(self.exists(key).await?.then(Vec::new));
        }
        let range = format!("bytes={offset}-{}", offset + length as u64 - 1);
        Ok(self.read(key, Some(range)).await?.map(|(_, bytes)| bytes))
    }

    async fn exists(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let call = self.client.head_object().bucket(&self.bucket).key(self.name(key));
        match call.send().await.map_err(AwsError::of("s3:GetObject")) {
            Ok(_) => Ok(true),
            Err(error) if error.kind == AwsErrorKind::NotFound => Ok(false),
            Err(error) => Err(remote("read", self.place(key), error)),
        }
    }

    /// Reads an object or a range of it. The SDK repeats what fails before the answer begins; what breaks off in its
    /// middle is repeated here.
    async fn read(
        &self,
        key: &ObjectKey,
        range: Option<String>,
    ) -> Result<Option<(GetObjectOutput, Vec<u8>)>, StoreError> {
        let mut pauses = Backoff::new();
        loop {
            let call = self.client.get_object().bucket(&self.bucket).key(self.name(key));
            let mut output =
                match call.set_range(range.clone()).send().await.map_err(AwsError::of("s3:GetObject")) {
                    Ok(output) => output,
                    Err(error) if error.is("NoSuchKey") => return Ok(None),
                    // The range begins where the object has ended.
                    Err(error) if error.is("InvalidRange") => {
                        return Ok(Some((GetObjectOutput::builder().build(), Vec::new())));
                    }
                    Err(error) => return Err(remote("read", self.place(key), error)),
                };
            match std::mem::take(&mut output.body).collect().await {
                Ok(bytes) => return Ok(Some((output, bytes.to_vec()))),
                Err(_) if pauses.count() < ATTEMPTS => pauses.wait().await,
                Err(error) => {
                    let error = AwsError::said("s3:GetObject", AwsErrorKind::Unreachable, error.to_string());
                    return Err(remote("read", self.place(key), error));
                }
            }
        }
    }

    pub(super) async fn put(
        &self,
        key: &ObjectKey,
        bytes: Vec<u8>,
        condition: Put,
    ) -> Result<PutOutcome, StoreError> {
        let mut pauses = Backoff::new();
        let mut unsure = false;
        loop {
            let error = match self.put_once(key, bytes.clone(), &condition).await {
                Ok(etag) => return Ok(PutOutcome::Stored(etag)),
                Err(error) => error,
            };
            match error.kind {
                _ if condition_failed(&error, &condition) => {
                    return if unsure { self.outcome(key, &bytes).await } else { Ok(PutOutcome::Refused) };
                }
                // `ConditionalRequestConflict`: another write of the name was under way.
                AwsErrorKind::Conflict if pauses.count() < ATTEMPTS => {}
                _ if error.is_passing() && pauses.count() < ATTEMPTS => {
                    unsure |= error.kind == AwsErrorKind::Unsure;
                }
                AwsErrorKind::Unsure => {
                    return match self.outcome(key, &bytes).await {
                        Ok(stored @ PutOutcome::Stored(_)) => Ok(stored),
                        _ => Err(remote("write", self.place(key), error)),
                    };
                }
                _ => return Err(remote("write", self.place(key), error)),
            }
            pauses.wait().await;
        }
    }

    async fn put_once(&self, key: &ObjectKey, bytes: Vec<u8>, condition: &Put) -> Result<Etag, AwsError> {
        let call = self.client.put_object().bucket(&self.bucket).key(self.name(key));
        let call = match condition {
            Put::Always => call,
            Put::IfAbsent => call.if_none_match("*"),
            Put::IfMatch(etag) => call.if_match(&etag.0),
        };
        let once = aws_sdk_s3::config::Builder::new().retry_config(RetryConfig::disabled());
        let call = call.body(ByteStream::from(bytes)).customize().config_override(once);
        let output = call.send().await.map_err(AwsError::of("s3:PutObject"))?;
        Ok(Etag(output.e_tag.unwrap_or_default()))
    }

    /// Whether a write whose answer was lost was carried out: what is there is then what it wrote.
    async fn outcome(&self, key: &ObjectKey, bytes: &[u8]) -> Result<PutOutcome, StoreError> {
        let ours = self.get(key).await?.filter(|there| there.bytes == bytes);
        Ok(ours.map_or(PutOutcome::Refused, |there| PutOutcome::Stored(there.etag)))
    }

    pub(super) async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        // S3 does not say whether there was one.
        if !self.exists(key).await? {
            return Ok(false);
        }
        let call = self.client.delete_object().bucket(&self.bucket).key(self.name(key));
        match call.send().await.map_err(AwsError::of("s3:DeleteObject")) {
            Ok(_) => Ok(true),
            Err(error) => Err(remote("remove", self.place(key), error)),
        }
    }

    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> Result<Vec<Listed>, StoreError> {
        let call =
            self.client.list_objects_v2().bucket(&self.bucket).prefix(format!("{}{prefix}", self.prefix));
        let mut pages = call.set_start_after(after.map(|after| self.name(after))).into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(AwsError::of("s3:ListBucket")).map_err(|error| {
                remote("list", format!("s3://{}/{}{prefix}", self.bucket, self.prefix), error)
            })?;
            found.extend(page.contents().iter().filter_map(|object| {
                let key = object.key()?.strip_prefix(&self.prefix)?.parse().ok()?;
                Some(Listed { key, size: u64::try_from(object.size().unwrap_or(0)).unwrap_or(0) })
            }));
        }
        Ok(found)
    }

    pub(super) async fn abort_unfinished(&self, older: Duration) -> Result<usize, StoreError> {
        let at = || format!("s3://{}/{}", self.bucket, self.prefix);
        let call = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(&self.prefix);
        let listed = call.send().await.map_err(AwsError::of("s3:ListBucketMultipartUploads"));
        let listed = listed.map_err(|error| remote("list", at(), error))?;
        let before = SystemTime::now().checked_sub(older).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut aborted = 0;
        for upload in listed.uploads() {
            let began = upload.initiated().and_then(|time| SystemTime::try_from(*time).ok());
            let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
            if began.is_none_or(|began| began > before) {
                continue;
            }
            let call = self.client.abort_multipart_upload().bucket(&self.bucket).key(key).upload_id(id);
            let ended = call.send().await.map_err(AwsError::of("s3:AbortMultipartUpload"));
            ended.map_err(|error| remote("remove", at(), error))?;
            aborted += 1;
        }
        Ok(aborted)
    }
}

/// Whether a write was refused because its condition did not hold. `If-Match` of what is gone is answered by 404.
fn condition_failed(error: &AwsError, condition: &Put) -> bool {
    match condition {
        Put::Always => false,
        Put::IfAbsent => error.status == Some(412),
        Put::IfMatch(_) => error.status == Some(412) || error.is("NoSuchKey"),
    }
}
