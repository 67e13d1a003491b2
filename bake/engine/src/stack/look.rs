//! Looking at what is there: the inventory that plans are made with, and what became of calls whose end is not
//! known.

use std::sync::Arc;

use olbake_core::rollout::Verdict;
use olbake_core::stack::catalog::Kind;
use olbake_core::stack::planner::{Inventory, Sight};
use olbake_core::stack::record::{Intent, IntentAct};
use olbake_core::stack::state::Applied;
use olbake_core::stack::{ObjectId, Record, ResourceName, ResourceType, StackName, StackState};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::carry_out::reveal_known;
use super::error::StackError;
use super::event::StackEvent;
use super::provider::{Life, Live, Object};
use super::site::Site;
use crate::state::Held;

/// How many objects are looked at at the same time.
const LOOKS: usize = 32;

pub(super) fn object(stack: &StackName, name: &ResourceName, ty: &ResourceType, id: &ObjectId) -> Object {
    Object { stack: stack.clone(), name: name.clone(), ty: ty.clone(), id: id.clone() }
}

/// Looks at every object of a stack.
pub async fn inventory(site: &Site, stack: &StackName, state: &StackState) -> Result<Inventory, StackError> {
    let permits = Arc::new(Semaphore::new(LOOKS));
    let mut looks = JoinSet::new();
    for (name, applied) in &state.resources {
        let (site, permits) = (site.clone(), permits.clone());
        let object = object(stack, name, &applied.ty, &applied.id);
        let applied = applied.clone();
        looks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let sight = look(&site, &object, &applied).await?;
            Ok::<_, StackError>((object.id, sight))
        });
    }
    let mut found = Inventory::new();
    while let Some(look) = looks.join_next().await {
        let (id, sight) = look??;
        found.insert(id, sight);
    }
    Ok(found)
}

async fn look(site: &Site, object: &Object, applied: &Applied) -> Result<Sight, StackError> {
    let provider = site.provider(&object.ty)?;
    let wrap = |source| StackError::Provider { name: object.name.clone(), source };
    let revealed = reveal_known(site, &applied.inputs);
    let Some(Live { inputs, .. }) = provider.read(object, &revealed).await.map_err(wrap)? else {
        return Ok(Sight::Gone);
    };
    let is_group = site.catalog.get(&object.ty).is_some_and(|schema| schema.kind == Kind::Group);
    let (true, Some(fleet)) = (is_group, provider.fleet()) else { return Ok(Sight::There(inputs)) };
    let seen = fleet.observe(object, &applied.inputs).await.map_err(wrap)?;
    let release = applied.group.as_ref().and_then(|group| group.release);
    let serves = seen.iter().filter(|seen| {
        seen.life == Life::Running && seen.release == release && seen.in_service != Some(Verdict::Failing)
    });
    Ok(Sight::Group { properties: inputs, running: serves.count() as u64 })
}

/// Finds out what became of calls whose end an earlier process did not see, and writes it down.
pub(super) async fn resolve(
    site: &Site,
    stack: &StackName,
    held: &Held<StackState>,
) -> Result<(), StackError> {
    let pending: Vec<Intent> = held.with(|state| state.pending.values().cloned().collect()).await?;
    for intent in pending {
        let record = what_became_of(site, stack, &intent, held).await?;
        let done = matches!(record, Record::Done { .. });
        held.append(record).await?;
        site.say(StackEvent::Resolved { key: intent.key, done });
    }
    Ok(())
}

async fn what_became_of(
    site: &Site,
    stack: &StackName,
    intent: &Intent,
    held: &Held<StackState>,
) -> Result<Record, StackError> {
    let object = object(stack, &intent.name, &intent.ty, &intent.id);
    let provider = site.provider(&intent.ty)?;
    let wrap = |source| StackError::Provider { name: intent.name.clone(), source };
    let revealed = reveal_known(site, &intent.inputs);
    let live = provider.read(&object, &revealed).await.map_err(wrap)?;
    let key = intent.key.clone();
    Ok(match (&intent.act, live) {
        (IntentAct::Create | IntentAct::Import(_), Some(live)) => {
            Record::Done { key, outputs: live.outputs, seen: false }
        }
        (IntentAct::Create, None) => {
            // Nothing that could be called the object is there; what was made on the way to it goes.
            held.permit()?;
            provider.delete(&object, &revealed).await.map_err(wrap)?;
            Record::NotDone { key }
        }
        (IntentAct::Delete, None) => {
            held.permit()?;
            provider.delete(&object, &revealed).await.map_err(wrap)?;
            Record::Done { key, outputs: serde_json::Map::new(), seen: true }
        }
        (IntentAct::Import(_) | IntentAct::Update | IntentAct::Delete, _) => Record::NotDone { key },
    })
}
