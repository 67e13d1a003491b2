//! EBS direct: snapshots read and written block by block, with checksums that are checked and parents that count.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::answer::{Answer, Refusal, answer, json_answer};
use super::call::Call;
use super::error::CloudError;
use super::faults::Met;
use super::shared::Shared;
use super::snapshots::{BLOCK, BLOCKS_PER_GIB, Snapshot, Stage};
use super::states;

/// What a call of EBS direct may end in besides an answer.
enum Stop {
    Refused(Refusal),
    Failed(CloudError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<CloudError> for Stop {
    fn from(error: CloudError) -> Self {
        Self::Failed(error)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(CloudError::Answer(error.to_string()))
    }
}

/// Answers a call of EBS direct.
pub(super) async fn call(shared: &Arc<Shared>, call: &Call, met: &Met) -> Result<Answer, CloudError> {
    let answered = match call.action.as_str() {
        "StartSnapshot" => start(shared, call).await,
        "PutSnapshotBlock" => put(shared, call),
        "CompleteSnapshot" => complete(shared, call, met).await,
        "GetSnapshotBlock" => get(shared, call),
        "ListSnapshotBlocks" => list(shared, call),
        "ListChangedBlocks" => list_changed(shared, call),
        _ => Err(Refusal::new("UnknownOperationException", "there is no such operation")
            .with_status(404)
            .into()),
    };
    match answered {
        Ok(answer) => Ok(answer),
        Err(Stop::Refused(refusal)) => Ok(refusal.answer(call)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new("ValidationException", message)
}

fn unknown(what: &str) -> Refusal {
    Refusal::new("ResourceNotFoundException", format!("{what} does not exist")).with_status(404)
}

/// The parts of the path behind `/snapshots/`.
fn path(call: &Call) -> Vec<&str> {
    call.head.uri.path().split('/').filter(|part| !part.is_empty()).skip(1).collect()
}

fn found(shared: &Shared, call: &Call, id: &str) -> Result<Snapshot, Refusal> {
    let snapshot = shared.snapshots.get(id).filter(|snapshot| snapshot.region == call.region);
    snapshot.ok_or_else(|| unknown(&format!("The snapshot '{id}'")))
}

fn readable(shared: &Shared, call: &Call, id: &str) -> Result<Snapshot, Refusal> {
    let snapshot = found(shared, call, id)?;
    if snapshot.stage == Stage::Completed {
        return Ok(snapshot);
    }
    Err(invalid(format!("The snapshot '{id}' is not completed")))
}

async fn start(shared: &Arc<Shared>, call: &Call) -> Result<Answer, Stop> {
    let asked = call.json();
    let size =
        asked["VolumeSize"].as_u64().and_then(|size| u32::try_from(size).ok()).filter(|size| *size > 0);
    let size = size.ok_or_else(|| invalid("VolumeSize is missing"))?;
    let parent = asked["ParentSnapshotId"].as_str();
    if let Some(parent) = parent {
        let known = readable(shared, call, parent)?;
        if known.size > size {
            return Err(invalid("VolumeSize is smaller than the parent's").into());
        }
    }
    let tags = asked["Tags"].as_array().cloned().unwrap_or_default();
    let pair = |tag: &Value| Some((tag["Key"].as_str()?.to_owned(), tag["Value"].as_str()?.to_owned()));
    let by_key: BTreeMap<String, String> = tags.iter().filter_map(pair).collect();
    let encrypted = asked["Encrypted"].as_bool().unwrap_or(false) || asked["KmsKeyArn"].is_string();
    let made = json!({
        "region": call.region, "size": size, "description": asked["Description"].as_str().unwrap_or_default(),
        "tags": by_key, "kms_key": asked["KmsKeyArn"], "encrypted": encrypted,
    });
    let made = shared.moto.record("start_snapshot", &made).await?;
    let id = made["id"].as_str().unwrap_or_default();
    shared.snapshots.start(id, &call.region, size, parent)?;
    let mut said = json!({
        "SnapshotId": id, "OwnerId": made["owner"], "Status": "pending", "StartTime": made["started"],
        "VolumeSize": size, "BlockSize": BLOCK, "Tags": tags,
    });
    for name in ["Description", "ParentSnapshotId", "KmsKeyArn"] {
        if asked[name].is_string() {
            said[name] = asked[name].clone();
        }
    }
    Ok(answer(StatusCode::CREATED, "application/json", said.to_string()))
}

fn number<T: std::str::FromStr>(text: Option<&str>, name: &str) -> Result<T, Refusal> {
    text.and_then(|text| text.parse().ok()).ok_or_else(|| invalid(format!("{name} is missing or no number")))
}

fn put(shared: &Shared, call: &Call) -> Result<Answer, Stop> {
    let [id, _, block] = path(call)[..] else { return Err(invalid("no such path").into()) };
    let snapshot = found(shared, call, id)?;
    if snapshot.stage != Stage::Open {
        return Err(invalid(format!("The snapshot '{id}' is not pending")).into());
    }
    let block: u32 = number(Some(block), "BlockIndex")?;
    if block >= snapshot.size.saturating_mul(BLOCKS_PER_GIB) {
        return Err(invalid("BlockIndex is beyond the volume's end").into());
    }
    let (bytes, length) = (call.bytes(), number::<usize>(call.header("x-amz-data-length"), "DataLength")?);
    if length != BLOCK || bytes.len() != BLOCK {
        return Err(invalid(format!("DataLength is {length}, and {} bytes were sent", bytes.len())).into());
    }
    if call.header("x-amz-checksum-algorithm") != Some("SHA256") {
        return Err(invalid("ChecksumAlgorithm must be SHA256").into());
    }
    let checksum: [u8; 32] = Sha256::digest(bytes).into();
    let said = call.header("x-amz-checksum").unwrap_or_default();
    if STANDARD.encode(checksum) != said {
        return Err(invalid("Checksum does not match the data of the block").into());
    }
    shared.snapshots.put(id, block, bytes, checksum)?;
    let mut done = answer(StatusCode::CREATED, "application/json", "{}");
    set(&mut done, "x-amz-checksum", said);
    set(&mut done, "x-amz-checksum-algorithm", "SHA256");
    Ok(done)
}

fn set(answer: &mut Answer, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        answer.headers_mut().insert(name, value);
    }
}

async fn complete(shared: &Arc<Shared>, call: &Call, met: &Met) -> Result<Answer, Stop> {
    let id = path(call).last().copied().unwrap_or_default();
    let snapshot = found(shared, call, id)?;
    if snapshot.stage == Stage::Open {
        check_whole(call, &snapshot)?;
        shared.snapshots.advance(id, Stage::Closed);
        states::complete_later(shared, &call.region, id, met);
    }
    let status = if snapshot.stage == Stage::Completed { "completed" } else { "pending" };
    Ok(answer(StatusCode::ACCEPTED, "application/json", json!({ "Status": status }).to_string()))
}

/// Whether what was put is what the caller says it put.
fn check_whole(call: &Call, snapshot: &Snapshot) -> Result<(), Refusal> {
    let changed: usize = number(call.header("x-amz-changedblockscount"), "ChangedBlocksCount")?;
    let own = snapshot.own.len();
    if changed != own {
        return Err(invalid(format!("ChangedBlocksCount is {changed}, and {own} blocks were put")));
    }
    let Some(said) = call.header("x-amz-checksum") else { return Ok(()) };
    if call.header("x-amz-checksum-aggregation-method") != Some("LINEAR") {
        return Err(invalid("ChecksumAggregationMethod must be LINEAR"));
    }
    let mut all = Sha256::new();
    snapshot.own.values().flatten().for_each(|checksum| all.update(checksum));
    if STANDARD.encode(all.finalize()) != said {
        return Err(invalid("Checksum does not match the checksums of the blocks"));
    }
    Ok(())
}

/// What a caller must show to read a block: it says whose own the block is.
fn token(owner: &str, block: u32) -> String {
    URL_SAFE_NO_PAD.encode(format!("{owner}/{block}"))
}

fn get(shared: &Shared, call: &Call) -> Result<Answer, Stop> {
    let [id, _, block] = path(call)[..] else { return Err(invalid("no such path").into()) };
    readable(shared, call, id)?;
    let block: u32 = number(Some(block), "BlockIndex")?;
    let blocks = shared.snapshots.blocks(id);
    let owner = blocks.get(&block).ok_or_else(|| unknown("The block"))?;
    if call.asked("blockToken").as_deref() != Some(&token(owner, block)) {
        return Err(invalid("The block token is invalid").into());
    }
    let bytes = shared.snapshots.read(owner, block)?;
    let checksum = STANDARD.encode(Sha256::digest(&bytes));
    let mut read = answer(StatusCode::OK, "application/octet-stream", bytes);
    set(&mut read, "x-amz-data-length", &BLOCK.to_string());
    set(&mut read, "x-amz-checksum", &checksum);
    set(&mut read, "x-amz-checksum-algorithm", "SHA256");
    Ok(read)
}

fn list(shared: &Shared, call: &Call) -> Result<Answer, Stop> {
    let id = path(call).first().copied().unwrap_or_default();
    let snapshot = readable(shared, call, id)?;
    let blocks = shared.snapshots.blocks(id).into_iter();
    let blocks = blocks
        .map(|(block, owner)| (block, json!({ "BlockIndex": block, "BlockToken": token(&owner, block) })));
    Ok(page(call, "Blocks", blocks.collect(), &snapshot)?)
}

fn list_changed(shared: &Shared, call: &Call) -> Result<Answer, Stop> {
    let id = path(call).first().copied().unwrap_or_default();
    let snapshot = readable(shared, call, id)?;
    let second = shared.snapshots.blocks(id);
    let first = match call.asked("firstSnapshotId") {
        None => BTreeMap::new(),
        Some(first) => {
            if readable(shared, call, &first)?.lineage != snapshot.lineage {
                return Err(invalid("The snapshots are not related").into());
            }
            shared.snapshots.blocks(&first)
        }
    };
    let mut changed = BTreeMap::new();
    for block in first.keys().chain(second.keys()) {
        let (before, after) = (first.get(block), second.get(block));
        if before == after || same(shared, *block, before, after)? {
            continue;
        }
        let mut entry = json!({ "BlockIndex": block });
        for (name, owner) in [("FirstBlockToken", before), ("SecondBlockToken", after)] {
            if let Some(owner) = owner {
                entry[name] = json!(token(owner, *block));
            }
        }
        changed.insert(*block, entry);
    }
    Ok(page(call, "ChangedBlocks", changed, &snapshot)?)
}

fn same(shared: &Shared, block: u32, one: Option<&String>, other: Option<&String>) -> std::io::Result<bool> {
    let (Some(one), Some(other)) = (one, other) else { return Ok(false) };
    Ok(shared.snapshots.read(one, block)? == shared.snapshots.read(other, block)?)
}

/// One page of a list.
fn page(
    call: &Call,
    name: &str,
    blocks: BTreeMap<u32, Value>,
    snapshot: &Snapshot,
) -> Result<Answer, Refusal> {
    let from = match (call.asked("pageToken"), call.asked("startingBlockIndex")) {
        (Some(token), _) => number(Some(&token), "NextToken")?,
        (None, Some(index)) => number(Some(&index), "StartingBlockIndex")?,
        (None, None) => 0,
    };
    let most = call.asked("maxResults").map_or(Ok(10_000), |most| number(Some(&most), "MaxResults"))?;
    let mut rest = blocks.into_iter().filter(|(block, _)| *block >= from);
    let shown: Vec<Value> = rest.by_ref().take(most).map(|(_, entry)| entry).collect();
    let mut said =
        json!({ name: shown, "VolumeSize": snapshot.size, "BlockSize": BLOCK, "ExpiryTime": expiry() });
    if let Some((next, _)) = rest.next() {
        said["NextToken"] = json!(next.to_string());
    }
    Ok(json_answer(&said))
}

/// Tokens say that they are good for a week, as those of EBS; they are good for longer.
fn expiry() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_secs() + 7 * 24 * 60 * 60
}
