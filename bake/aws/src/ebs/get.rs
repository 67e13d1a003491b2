//! Reads blocks of snapshots: which there are, which differ from a known snapshot's, and their bytes.

use olbake_core::Digest;
use olbake_engine::store::disk::BLOCK;
use tokio::task::JoinSet;

use super::window::Window;
use super::{Snapshots, checksum};
use crate::error::{AwsError, AwsErrorKind};
use crate::pause::Backoff;

/// How often a call is tried in all.
const ATTEMPTS: u32 = 12;

/// A block that a snapshot has, by what fetches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub number: u32,
    /// What [`Snapshots::get`] wants to be shown; none where the block is gone, which makes it zeros.
    pub token: Option<String>,
}

/// A listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Blocks, in order.
    pub blocks: Vec<Listed>,
    /// GiB of the volume.
    pub size: u64,
}

fn number(index: Option<i32>) -> u32 {
    index.and_then(|index| u32::try_from(index).ok()).unwrap_or_default()
}

/// A page of a listing, and what asks for the next.
struct Page {
    blocks: Vec<Listed>,
    size: Option<i64>,
    next: Option<String>,
}

/// All pages; one that does not come is asked for again.
async fn pages<F>(ask: impl Fn(Option<String>) -> F) -> Result<Listing, AwsError>
where
    F: Future<Output = Result<Page, AwsError>>,
{
    let mut listing = Listing::default();
    let mut next = None;
    let mut pauses = Backoff::new();
    loop {
        let page = match ask(next.clone()).await {
            Ok(page) => page,
            Err(error) if error.is_passing() && pauses.count() < ATTEMPTS => {
                pauses.wait().await;
                continue;
            }
            Err(error) => return Err(error),
        };
        listing.size = u64::try_from(page.size.unwrap_or_default()).unwrap_or_default();
        listing.blocks.extend(page.blocks);
        match page.next.filter(|token| !token.is_empty()) {
            Some(token) => next = Some(token),
            None => break,
        }
    }
    listing.blocks.sort_unstable_by_key(|block| block.number);
    Ok(listing)
}

impl Snapshots {
    /// The blocks that a snapshot has.
    pub async fn list(&self, snapshot: &str) -> Result<Listing, AwsError> {
        pages(|next| async {
            let call = self.client.list_snapshot_blocks().snapshot_id(snapshot).set_next_token(next);
            let page = call.send().await.map_err(AwsError::of("ebs:ListSnapshotBlocks"))?;
            let listed = page.blocks.unwrap_or_default().into_iter();
            let listed =
                listed.map(|block| Listed { number: number(block.block_index), token: block.block_token });
            Ok(Page { blocks: listed.collect(), size: page.volume_size, next: page.next_token })
        })
        .await
    }

    /// The blocks in which a snapshot differs from one that it descends from.
    pub async fn list_changed(&self, from: &str, to: &str) -> Result<Listing, AwsError> {
        pages(|next| async {
            let call = self.client.list_changed_blocks().first_snapshot_id(from).second_snapshot_id(to);
            let call = call.set_next_token(next);
            let page = call.send().await.map_err(AwsError::of("ebs:ListChangedBlocks"))?;
            let listed = page
                .changed_blocks
                .unwrap_or_default()
                .into_iter()
                .map(|block| Listed { number: number(block.block_index), token: block.second_block_token });
            Ok(Page { blocks: listed.collect(), size: page.volume_size, next: page.next_token })
        })
        .await
    }

    /// Fetches blocks, many at once, and gives each to `take`, checked, in no order. Blocks that are gone are not
    /// asked for.
    pub async fn get<E: From<AwsError>>(
        &self,
        snapshot: &str,
        blocks: &[Listed],
        mut take: impl FnMut(u32, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let window = Window::new();
        let mut left = blocks.iter().filter_map(|block| Some((block.number, block.token.clone()?)));
        let mut running: JoinSet<Result<(u32, Vec<u8>), AwsError>> = JoinSet::new();
        let mut more = true;
        while more || !running.is_empty() {
            tokio::select! {
                biased;
                Some(ended) = running.join_next() => {
                    let (number, bytes) = ended.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
                    take(number, bytes)?;
                }
                place = window.enter(), if more => match left.next() {
                    None => more = false,
                    Some((number, token)) => {
                        let (client, snapshot, window) = (self.client.clone(), snapshot.to_owned(), window.clone());
                        running.spawn(async move {
                            let _place = place;
                            Ok((number, fetch(&client, &snapshot, number, &token, &window).await?))
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

async fn fetch(
    client: &aws_sdk_ebs::Client,
    snapshot: &str,
    number: u32,
    token: &str,
    window: &Window,
) -> Result<Vec<u8>, AwsError> {
    let mut pauses = Backoff::new();
    loop {
        match fetch_once(client, snapshot, number, token).await {
            Ok(bytes) => {
                window.succeeded();
                return Ok(bytes);
            }
            Err(error) if !error.is_passing() || pauses.count() >= ATTEMPTS => return Err(error),
            Err(error) if error.kind == AwsErrorKind::Throttled => window.refused(),
            Err(_) => {}
        }
        pauses.wait().await;
    }
}

async fn fetch_once(
    client: &aws_sdk_ebs::Client,
    snapshot: &str,
    number: u32,
    token: &str,
) -> Result<Vec<u8>, AwsError> {
    const ACTION: &str = "ebs:GetSnapshotBlock";
    let unsure = |message: String| AwsError::said(ACTION, AwsErrorKind::Unsure, message);
    let index = i32::try_from(number).unwrap_or(i32::MAX);
    let call = client.get_snapshot_block().snapshot_id(snapshot).block_index(index).block_token(token);
    let answer = call.send().await.map_err(AwsError::of(ACTION))?;
    let bytes = answer.block_data.collect().await.map_err(|error| unsure(error.to_string()))?.to_vec();
    if bytes.len() != BLOCK {
        return Err(unsure(format!("block {number} has {} bytes", bytes.len())));
    }
    match answer.checksum {
        Some(sum) if sum != checksum(&Digest::of(&bytes)) => {
            Err(unsure(format!("block {number} is not what its checksum says")))
        }
        _ => Ok(bytes),
    }
}
