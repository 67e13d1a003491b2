//! Puts blocks of a disk into a snapshot, many at once, each as often as it takes. Main function: [`Snapshots::put`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_ebs::types::{ChecksumAggregationMethod, ChecksumAlgorithm, Status};
use aws_smithy_types::byte_stream::ByteStream;
use olbake_core::Digest;
use olbake_engine::registry::Registry;
use olbake_engine::store::StoreError;
use olbake_engine::store::disk::BLOCK;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::window::Window;
use super::{Snapshots, checksum, linear};
use crate::error::{AwsError, AwsErrorKind};
use crate::pause::Backoff;

/// Blocks that are read and wait for a place.
const READ_AHEAD: usize = 32;
/// How often a block is tried in all.
const ATTEMPTS: u32 = 15;
/// How often a block is put again that AWS calls wrong.
const DOUBTED: u32 = 3;
/// How long a snapshot that was just started may not be known everywhere.
const UNKNOWN: Duration = Duration::from_secs(120);
/// Minutes without a block after which AWS gives a snapshot up.
const TIMEOUT: i32 = 240;

/// A block to be put: its number, and its digest or none for zeros where the parent has data.
pub type Wanted = (u32, Option<Digest>);

/// Why blocks could not be put.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// AWS.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a snapshot is started.
#[derive(Clone, Debug)]
pub struct Start {
    /// Makes the call one call, however often it is made.
    pub token: String,
    /// GiB of the volume.
    pub size: i64,
    /// The snapshot that it starts from: what is not put is as there.
    pub parent: Option<String>,
    /// The key that encrypts it; never with a parent, whose key it has.
    pub kms_key: Option<String>,
    /// Its tags.
    pub tags: Vec<(String, String)>,
    /// What it is, for people.
    pub description: String,
}

/// A snapshot that was started.
#[derive(Clone, Debug)]
pub struct Started {
    /// `snap-…`.
    pub snapshot: String,
    /// Whose it is.
    pub owner: Option<String>,
}

impl Snapshots {
    /// Starts a snapshot.
    pub async fn start(&self, start: &Start) -> Result<Started, AwsError> {
        let Start { token, size, parent, kms_key, tags, description } = start;
        let tags: Vec<_> = tags
            .iter()
            .map(|(key, value)| aws_sdk_ebs::types::Tag::builder().key(key).value(value).build())
            .collect();
        let mut pauses = Backoff::new();
        loop {
            let call = self
                .client
                .start_snapshot()
                .client_token(token)
                .volume_size(*size)
                .set_parent_snapshot_id(parent.clone())
                .set_encrypted(kms_key.as_ref().map(|_| true))
                .set_kms_key_arn(kms_key.clone())
                .set_tags(Some(tags.clone()))
                .description(description)
                .timeout(TIMEOUT);
            match call.send().await.map_err(AwsError::of("ebs:StartSnapshot")) {
                Ok(started) => {
                    let snapshot = started.snapshot_id.unwrap_or_default();
                    return Ok(Started { snapshot, owner: started.owner_id });
                }
                Err(error) if again(&error) && pauses.count() < ATTEMPTS => pauses.wait().await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts blocks; `done` hears of each that is in the snapshot. Every block's bytes are checked when they are read.
    pub async fn put(
        &self,
        snapshot: &str,
        wanted: &Arc<[Wanted]>,
        registry: &Registry,
        mut done: impl FnMut(u32),
    ) -> Result<(), PutError> {
        let mut blocks = read_ahead(wanted.clone(), registry.clone());
        let window = Window::new();
        let since = Instant::now();
        let mut running: JoinSet<Result<u32, AwsError>> = JoinSet::new();
        let mut more = true;
        while more || !running.is_empty() {
            // Both ends of this choice may be taken back without losing a place or a block.
            let next = async { (window.enter().await, blocks.recv().await) };
            tokio::select! {
                biased;
                Some(ended) = running.join_next() => done(finished(ended)?),
                (place, block) = next, if more => match block {
                    None => more = false,
                    Some(block) => {
                        let (client, snapshot) = (self.client.clone(), snapshot.to_owned());
                        let putting = Putting { client, snapshot, window: window.clone(), since };
                        let block = block?;
                        running.spawn(async move {
                            let _place = place;
                            putting.repeat(&block).await.map(|()| block.number)
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Says that all blocks are there. The checksum is of what was put, in order.
    pub async fn complete(&self, snapshot: &str, wanted: &[Wanted]) -> Result<(), AwsError> {
        let zeros = zeros();
        let sum = linear(wanted.iter().map(|(_, digest)| digest.as_ref().unwrap_or(&zeros)));
        let count = i32::try_from(wanted.len()).unwrap_or(i32::MAX);
        let mut pauses = Backoff::new();
        loop {
            let call = self
                .client
                .complete_snapshot()
                .snapshot_id(snapshot)
                .changed_blocks_count(count)
                .checksum(&sum)
                .checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256)
                .checksum_aggregation_method(ChecksumAggregationMethod::ChecksumAggregationLinear);
            match call.send().await.map_err(AwsError::of("ebs:CompleteSnapshot")) {
                Ok(done) if done.status == Some(Status::Error) => {
                    let message = format!("`{snapshot}` is in error");
                    return Err(AwsError::said("ebs:CompleteSnapshot", AwsErrorKind::Refused, message));
                }
                Ok(_) => return Ok(()),
                Err(error) if again(&error) && pauses.count() < ATTEMPTS => pauses.wait().await,
                Err(error) => return Err(error),
            }
        }
    }
}

fn finished<T>(ended: Result<T, tokio::task::JoinError>) -> T {
    ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Whether a call that can be repeated should be.
fn again(error: &AwsError) -> bool {
    error.is_passing() || error.is("ConcurrentLimitExceededException")
}

/// The digest of a block of zeros.
fn zeros() -> Digest {
    Digest::of(&vec![0; BLOCK])
}

/// A block with its bytes.
struct Block {
    number: u32,
    digest: Digest,
    bytes: Vec<u8>,
}

/// Reads blocks on threads of their own, a few ahead of what is put.
fn read_ahead(wanted: Arc<[Wanted]>, registry: Registry) -> mpsc::Receiver<Result<Block, StoreError>> {
    let (to, blocks) = mpsc::channel(READ_AHEAD);
    let ticket = Arc::new(AtomicUsize::new(0));
    let zeros = zeros();
    for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(8) {
        let (wanted, registry, ticket, to) = (wanted.clone(), registry.clone(), ticket.clone(), to.clone());
        tokio::task::spawn_blocking(move || {
            while let Some((number, digest)) = wanted.get(ticket.fetch_add(1, Ordering::Relaxed)) {
                let block = match digest {
                    None => Ok(Block { number: *number, digest: zeros, bytes: vec![0; BLOCK] }),
                    Some(digest) => registry.records().blocks().read(*number, digest).map(|bytes| Block {
                        number: *number,
                        digest: *digest,
                        bytes,
                    }),
                };
                // Where nobody takes it, putting has ended with an error.
                if to.blocking_send(block).is_err() {
                    return;
                }
            }
        });
    }
    blocks
}

/// What putting one block needs.
struct Putting {
    client: aws_sdk_ebs::Client,
    snapshot: String,
    window: Arc<Window>,
    since: Instant,
}

impl Putting {
    /// The one place where a block is tried again.
    async fn repeat(&self, block: &Block) -> Result<(), AwsError> {
        let bytes = aws_smithy_types::body::SdkBody::from(block.bytes.as_slice());
        let mut pauses = Backoff::new();
        loop {
            let body = bytes.try_clone().expect("a body in memory can be sent again");
            let Err(error) = self.once(block, body).await else {
                self.window.succeeded();
                return Ok(());
            };
            match error.kind {
                _ if pauses.count() >= ATTEMPTS => return Err(error),
                AwsErrorKind::Throttled => self.window.refused(),
                AwsErrorKind::NotFound if self.since.elapsed() < UNKNOWN => {}
                _ if error.is_passing() => {}
                // What AWS got is not what was sent, or came too slowly: the way there is at fault, not the block.
                _ if error.is("ValidationException") && pauses.count() < DOUBTED => {}
                _ => return Err(error),
            }
            pauses.wait().await;
        }
    }

    async fn once(&self, block: &Block, body: aws_smithy_types::body::SdkBody) -> Result<(), AwsError> {
        const ACTION: &str = "ebs:PutSnapshotBlock";
        let sum = checksum(&block.digest);
        let call = self
            .client
            .put_snapshot_block()
            .snapshot_id(&self.snapshot)
            .block_index(i32::try_from(block.number).unwrap_or(i32::MAX))
            .data_length(i32::try_from(BLOCK).expect("half a mebibyte"))
            .checksum(&sum)
            .checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256)
            .block_data(ByteStream::new(body));
        let answer = call.send().await.map_err(AwsError::of(ACTION))?;
        match answer.checksum {
            Some(other) if other != sum => {
                let message = format!("the checksum of block {} is not the one sent", block.number);
                Err(AwsError::said(ACTION, AwsErrorKind::Unsure, message))
            }
            _ => Ok(()),
        }
    }
}
