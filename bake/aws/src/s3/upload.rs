//! Large objects on their way to S3. Main type: [`Spool`].
//!
//! A pack's name follows from its content, and S3 wants the name first; so a pack grows in a file without a name on
//! this host, and goes to S3 when it is whole, in parts, some at a time. Memory is bounded by those parts, and a
//! killed writer leaves nothing here, and at S3 at most parts that [`super::Bucket::abort_unfinished`] gives up.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use aws_smithy_types::byte_stream::ByteStream;
use olbake_engine::store::StoreError;
use olbake_engine::store::object::{ObjectKey, Put, Upload};
use tokio::task::JoinSet;

use super::calls::Calls;
use super::{Bucket, remote};
use crate::error::{AwsError, AwsErrorKind};

/// Bytes in a part, and in what goes at once.
const PART: u64 = 8 << 20;
/// Parts on their way at the same time.
const IN_FLIGHT: usize = 4;

/// An object that grows in a file of this host.
pub(super) struct Spool {
    bucket: Bucket,
    file: File,
}

impl Spool {
    pub(super) fn start(bucket: Bucket) -> Result<Self, StoreError> {
        let scratch = &bucket.calls.scratch;
        let made = std::fs::create_dir_all(scratch).and_then(|()| tempfile::tempfile_in(scratch));
        let file = made.map_err(|source| StoreError::Io {
            action: "create a file in",
            path: scratch.clone(),
            source,
        })?;
        Ok(Self { bucket, file })
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Upload for Spool {
    fn commit(self: Box<Self>, key: &ObjectKey) -> Result<(), StoreError> {
        let Self { bucket, file } = *self;
        let calls = bucket.calls.clone();
        let unreadable =
            |source| StoreError::Io { action: "read a file in", path: calls.scratch.clone(), source };
        let size = file.metadata().map_err(unreadable)?.len();
        let (calls, key) = (bucket.calls.clone(), key.clone());
        if size <= PART {
            let bytes = part(&file, 0, size).map_err(unreadable)?;
            return bucket.driver.wait(async move { calls.put(&key, bytes, Put::IfAbsent).await.map(drop) });
        }
        bucket.driver.wait(async move { calls.put_in_parts(&key, Arc::new(file), size).await })
    }

    fn place(&self) -> String {
        format!("{} (on its way to S3)", self.bucket.calls.scratch)
    }
}

fn part(file: &File, number: u64, size: u64) -> io::Result<Vec<u8>> {
    let from = number * PART;
    let mut bytes = vec![0; usize::try_from(PART.min(size - from)).expect("a part fits into memory")];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

impl Calls {
    async fn put_in_parts(
        self: Arc<Self>,
        key: &ObjectKey,
        file: Arc<File>,
        size: u64,
    ) -> Result<(), StoreError> {
        let failed = |error| remote("write", self.place(key), error);
        let call = self.client.create_multipart_upload().bucket(&self.bucket).key(self.name(key));
        let started = call.send().await.map_err(AwsError::of("s3:PutObject")).map_err(failed)?;
        let id = started.upload_id.unwrap_or_default();
        let done = match self.clone().put_parts(key, &id, file, size).await {
            Ok(parts) => self.complete(key, &id, parts).await,
            Err(error) => Err(error),
        };
        if done.as_ref().map_or(true, |stored| !stored) {
            let call = self.client.abort_multipart_upload().bucket(&self.bucket).key(self.name(key));
            // Where this fails too, the next sweep gives it up.
            drop(call.upload_id(&id).send().await);
        }
        done.map(drop).map_err(failed)
    }

    /// Puts every part. A part put twice is the same part.
    async fn put_parts(
        self: Arc<Self>,
        key: &ObjectKey,
        id: &str,
        file: Arc<File>,
        size: u64,
    ) -> Result<Vec<CompletedPart>, AwsError> {
        let count = size.div_ceil(PART);
        let mut running = JoinSet::new();
        let mut parts = Vec::new();
        for number in 0..count {
            if running.len() >= IN_FLIGHT {
                parts.extend(ended(running.join_next().await)?);
            }
            running.spawn(self.clone().put_part(self.name(key), id.to_owned(), file.clone(), number, size));
        }
        while !running.is_empty() {
            parts.extend(ended(running.join_next().await)?);
        }
        parts.sort_unstable_by_key(CompletedPart::part_number);
        Ok(parts)
    }

    async fn put_part(
        self: Arc<Self>,
        name: String,
        id: String,
        file: Arc<File>,
        number: u64,
        size: u64,
    ) -> Result<CompletedPart, AwsError> {
        const ACTION: &str = "s3:PutObject";
        let bytes = part(&file, number, size)
            .map_err(|error| AwsError::said(ACTION, AwsErrorKind::Refused, error.to_string()))?;
        let number = i32::try_from(number + 1).expect("a pack has few parts");
        let call = self.client.upload_part().bucket(&self.bucket).key(name).upload_id(id);
        let put = call.part_number(number).body(ByteStream::from(bytes)).send().await;
        let put = put.map_err(AwsError::of(ACTION))?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(put.e_tag)
            .set_checksum_crc32(put.checksum_crc32)
            .build())
    }

    /// Gives the parts their name; false where an object of that name is there, which is the same then. The name
    /// is a digest of what is in it.
    async fn complete(&self, key: &ObjectKey, id: &str, parts: Vec<CompletedPart>) -> Result<bool, AwsError> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let call = self.client.complete_multipart_upload().bucket(&self.bucket).key(self.name(key));
        let call = call.upload_id(id).if_none_match("*").multipart_upload(parts);
        match call.send().await.map_err(AwsError::of("s3:PutObject")) {
            Ok(_) => Ok(true),
            Err(error) if error.status == Some(412) => Ok(false),
            // The SDK repeats what had no answer, and an upload that was completed is no upload any more.
            Err(error) if error.is("NoSuchUpload") => {
                let call = self.client.head_object().bucket(&self.bucket).key(self.name(key));
                call.send().await.map(|_| true).map_err(|_| error)
            }
            Err(error) => Err(error),
        }
    }
}

type Joined = Option<Result<Result<CompletedPart, AwsError>, tokio::task::JoinError>>;

fn ended(joined: Joined) -> Result<Option<CompletedPart>, AwsError> {
    match joined {
        None => Ok(None),
        Some(Ok(part)) => part.map(Some),
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
    }
}
