//! What calls that make snapshots and images do with bytes, and when those are completed.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::Answer;
use super::call::Call;
use super::error::CloudError;
use super::faults::Met;
use super::machines::Resting;
use super::shared::Shared;
use super::snapshots::Stage;
use super::xml::Element;

/// Completes a snapshot when its time has come: later, or never.
pub(super) fn complete_later(shared: &Arc<Shared>, region: &str, id: &str, met: &Met) {
    let usual = Duration::from_millis(shared.faults.behaviour().snapshot_ms);
    let Some(after) = met.snapshot(usual) else { return };
    let (shared, region, id) = (Arc::clone(shared), region.to_owned(), id.to_owned());
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        shared.snapshots.advance(&id, Stage::Completed);
        let completed = json!({ "region": region, "id": id, "status": "completed" });
        // If moto is gone, so is everybody who could ask.
        shared.moto.record("set_snapshot", &completed).await.ok();
    });
}

async fn pend(shared: &Shared, region: &str, id: &str) -> Result<(), CloudError> {
    let pending = json!({ "region": region, "id": id, "status": "pending" });
    shared.moto.record("set_snapshot", &pending).await.map(drop)
}

/// Does with bytes what a call did with records; the answer is moto's.
pub(super) async fn follow(
    shared: &Arc<Shared>,
    call: &Call,
    answer: &[u8],
    met: &Met,
) -> Result<(), CloudError> {
    let Ok(said) = Element::parse(answer) else { return Ok(()) };
    let region = call.region.as_str();
    match call.action.as_str() {
        "CreateSnapshot" => take(shared, region, &[said.text_at("snapshotId")], None, met).await,
        "CreateSnapshots" => {
            let taken: Vec<&str> =
                said.items("snapshotSet").iter().map(|item| item.text_at("snapshotId")).collect();
            take(shared, region, &taken, None, met).await
        }
        "CopySnapshot" => {
            let from = call.parameter("SourceSnapshotId").unwrap_or_default();
            copy(shared, region, said.text_at("snapshotId"), from, met).await
        }
        "CreateImage" => create_image(shared, call, said.text_at("imageId"), met).await,
        "CopyImage" => copy_image(shared, region, said.text_at("imageId"), met).await,
        _ => Ok(()),
    }
}

/// Takes snapshots of volumes as they are now.
async fn take(
    shared: &Arc<Shared>,
    region: &str,
    ids: &[&str],
    resting: Option<&Resting>,
    met: &Met,
) -> Result<(), CloudError> {
    for id in ids {
        pend(shared, region, id).await?;
        let known = shared.moto.record("snapshot", &json!({ "region": region, "id": id })).await?;
        let volume = known["volume"].as_str().unwrap_or_default();
        if !shared.machines.take(&shared.snapshots, (region, id), volume, resting).await? {
            start_empty(shared, region, id, &known)?;
        }
        complete_later(shared, region, id, met);
    }
    Ok(())
}

/// A snapshot of a volume that nothing was ever written to.
fn start_empty(shared: &Shared, region: &str, id: &str, known: &Value) -> Result<(), CloudError> {
    let size = known["size"].as_u64().and_then(|size| u32::try_from(size).ok()).unwrap_or(1);
    let base = known["volume_snapshot"].as_str();
    shared.snapshots.start(id, region, size, base).map_err(|error| CloudError::Answer(error.to_string()))
}

async fn copy(shared: &Arc<Shared>, region: &str, id: &str, from: &str, met: &Met) -> Result<(), CloudError> {
    pend(shared, region, id).await?;
    let known = shared.moto.record("snapshot", &json!({ "region": region, "id": id })).await?;
    let size = known["size"].as_u64().and_then(|size| u32::try_from(size).ok()).unwrap_or(1);
    let started = shared.snapshots.start(id, region, size, Some(from));
    started.map_err(|error| CloudError::Answer(error.to_string()))?;
    complete_later(shared, region, id, met);
    Ok(())
}

async fn image_of(shared: &Shared, region: &str, id: &str) -> Result<(String, Vec<String>), CloudError> {
    let image = shared.moto.record("image", &json!({ "region": region, "id": id })).await?;
    let snapshots = image["snapshots"].as_array().into_iter().flatten();
    let snapshots = snapshots.filter_map(|id| id.as_str().map(str::to_owned)).collect();
    Ok((image["instance"].as_str().unwrap_or_default().to_owned(), snapshots))
}

async fn create_image(shared: &Arc<Shared>, call: &Call, id: &str, met: &Met) -> Result<(), CloudError> {
    let (instance, snapshots) = image_of(shared, &call.region, id).await?;
    let ids: Vec<&str> = snapshots.iter().map(String::as_str).collect();
    let reboot = call.parameter("NoReboot") != Some("true");
    let resting = if reboot { shared.machines.rest(&instance).await? } else { None };
    let taken = take(shared, &call.region, &ids, resting.as_ref(), met).await;
    if let Some(resting) = resting {
        resting.wake().await?;
    }
    taken
}

async fn copy_image(shared: &Arc<Shared>, region: &str, id: &str, met: &Met) -> Result<(), CloudError> {
    let (_, snapshots) = image_of(shared, region, id).await?;
    for id in &snapshots {
        let known = shared.moto.record("snapshot", &json!({ "region": region, "id": id })).await?;
        let from = known["copied_from"][1].as_str().unwrap_or_default();
        copy(shared, region, id, from, met).await?;
    }
    Ok(())
}

/// The base64 of what an instance wrote to its console.
pub(super) async fn console(shared: &Shared, call: &Call) -> Option<Answer> {
    use base64::Engine;
    let instance = call.parameter("InstanceId")?;
    let text = shared.machines.console(instance).await?;
    let answer = Element::node(
        "GetConsoleOutputResponse",
        vec![
            Element::leaf("requestId", super::answer::request_id()),
            Element::leaf("instanceId", instance),
            Element::leaf("timestamp", "2026-01-01T00:00:00.000Z"),
            Element::leaf("output", base64::engine::general_purpose::STANDARD.encode(text)),
        ],
    );
    Some(super::answer::xml_answer(answer.to_bytes()))
}
