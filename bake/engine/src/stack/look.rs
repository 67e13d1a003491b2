//! Looking at what is there: the inventory that plans are made with, and what became of calls whose end is not
//! known.

use std::collections::BTreeMap;
use std::sync::Arc;

use olbake_core::rollout::{Fronting, Verdict};
use olbake_core::stack::catalog::Kind;
use olbake_core::stack::planner::{Inventory, Sight};
use olbake_core::stack::record::{Intent, IntentAct};
use olbake_core::stack::state::Applied;
use olbake_core::stack::{ObjectId, Record, ResourceName, ResourceType, StackName, StackState};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::error::StackError;
use super::event::StackEvent;
use super::group::Group;
use super::provider::{Life, Live, Object, Seen};
use super::secrets::reveal_known;
use super::site::Site;
use crate::state::Held;

/// How many objects are looked at at the same time.
const LOOKS: usize = 32;

pub(super) fn object(stack: &StackName, name: &ResourceName, ty: &ResourceType, id: &ObjectId) -> Object {
    Object { stack: stack.clone(), name: name.clone(), ty: ty.clone(), id: id.clone() }
}

/// Looks at every object of a stack: those of a provider that can with few calls, the others one by one.
pub async fn inventory(site: &Site, stack: &StackName, state: &StackState) -> Result<Inventory, StackError> {
    let permits = Arc::new(Semaphore::new(LOOKS));
    let mut looks: JoinSet<Result<Vec<(ObjectId, Sight)>, StackError>> = JoinSet::new();
    let mut together: BTreeMap<&str, Vec<(Object, Applied)>> = BTreeMap::new();
    for (name, applied) in &state.resources {
        let object = object(stack, name, &applied.ty, &applied.id);
        let applied = applied.clone();
        if site.provider(&object.ty)?.bulk().is_some() {
            together.entry(state.resources[name].ty.provider()).or_default().push((object, applied));
            continue;
        }
        let (site, permits) = (site.clone(), permits.clone());
        looks.spawn(async move {
            let _permit = permits.acquire_owned().await;
            let sight = look(&site, &object, &applied).await?;
            Ok(vec![(object.id, sight)])
        });
    }
    for (provider, objects) in together {
        let (site, provider) = (site.clone(), provider.to_owned());
        looks.spawn(async move { look_together(&site, &provider, objects).await });
    }
    let mut found = Inventory::new();
    while let Some(look) = looks.join_next().await {
        found.extend(look??);
    }
    Ok(found)
}

async fn look(site: &Site, object: &Object, applied: &Applied) -> Result<Sight, StackError> {
    let provider = site.provider(&object.ty)?;
    let known = reveal_known(site, &applied.inputs);
    let live = provider.read(object, &known).await;
    let live = live.map_err(|source| StackError::Provider { name: object.name.clone(), source })?;
    sight(site, object, applied, &known, live).await
}

/// Looks at the objects of a provider that looks at many at once.
async fn look_together(
    site: &Site,
    provider: &str,
    objects: Vec<(Object, Applied)>,
) -> Result<Vec<(ObjectId, Sight)>, StackError> {
    let known = |(object, applied): &(Object, Applied)| (object.clone(), reveal_known(site, &applied.inputs));
    let asked: Vec<(Object, Map<String, Value>)> = objects.iter().map(known).collect();
    let bulk = site.providers.get(provider).and_then(|provider| provider.bulk());
    let bulk = bulk.expect("it was asked before");
    let lives = bulk.read_all(&asked).await;
    let lives = lives.map_err(|source| StackError::Listing { provider: provider.to_owned(), source })?;
    let mut found = Vec::with_capacity(objects.len());
    for ((object, applied), ((_, known), live)) in objects.iter().zip(asked.iter().zip(lives)) {
        found.push((object.id.clone(), sight(site, object, applied, known, live).await?));
    }
    Ok(found)
}

async fn sight(
    site: &Site,
    object: &Object,
    applied: &Applied,
    known: &Map<String, Value>,
    live: Option<Live>,
) -> Result<Sight, StackError> {
    let Some(Live { inputs, stopped, .. }) = live else { return Ok(Sight::Gone) };
    if stopped {
        return Ok(Sight::Stopped(inputs));
    }
    let provider = site.provider(&object.ty)?;
    let is_group = site.catalog.get(&object.ty).is_some_and(|schema| schema.kind == Kind::Group);
    let (true, Some(fleet)) = (is_group, provider.fleet()) else { return Ok(Sight::There(inputs)) };
    let seen = fleet.observe(object, known).await;
    let seen = seen.map_err(|source| StackError::Provider { name: object.name.clone(), source })?;
    let release = applied.group.as_ref().and_then(|group| group.release);
    let fronting = Group::read(known).map_or(Fronting::Nothing, |group| group.fronting());
    let serves = seen.iter().filter(|seen| seen.release == release && serves(seen, fronting));
    Ok(Sight::Group { properties: inputs, running: serves.count() as u64 })
}

/// Whether requests reach an instance, as far as it is known.
fn serves(seen: &Seen, fronting: Fronting) -> bool {
    let reached = match fronting {
        Fronting::Balancer => seen.in_service.is_some_and(|verdict| verdict != Verdict::Failing),
        Fronting::Nothing => true,
    };
    reached && seen.life == Life::Running && seen.draining.is_none()
}

/// Finds out what became of calls whose end an earlier process did not see, and writes it down.
pub(super) async fn resolve(
    site: &Site,
    stack: &StackName,
    held: &Held<StackState>,
) -> Result<(), StackError> {
    let pending: Vec<Intent> = held.with(|state| state.pending.values().cloned().collect()).await?;
    for intent in pending {
        let (record, debris) = what_became_of(site, stack, &intent).await?;
        if debris == Debris::Perhaps {
            held.permit()?;
            let object = object(stack, &intent.name, &intent.ty, &intent.id);
            let inputs = reveal_known(site, &intent.inputs);
            let removed = site.provider(&intent.ty)?.delete(&object, &inputs).await;
            removed.map_err(|source| StackError::Provider { name: intent.name.clone(), source })?;
        }
        let done = matches!(record, Record::Done { .. });
        held.append(record).await?;
        site.say(StackEvent::Resolved { key: intent.key, done });
    }
    Ok(())
}

/// The state as [`resolve`] will find it: nothing is written down and nothing is removed.
pub(super) async fn foresee(
    site: &Site,
    stack: &StackName,
    state: &mut StackState,
) -> Result<(), StackError> {
    let pending: Vec<Intent> = state.pending.values().cloned().collect();
    for intent in pending {
        let (record, _) = what_became_of(site, stack, &intent).await?;
        state.apply(&record).expect("the call is among those whose end is not known");
    }
    Ok(())
}

/// Whether there may be parts of an object that is not there as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Debris {
    None,
    Perhaps,
}

async fn what_became_of(
    site: &Site,
    stack: &StackName,
    intent: &Intent,
) -> Result<(Record, Debris), StackError> {
    let object = object(stack, &intent.name, &intent.ty, &intent.id);
    let inputs = reveal_known(site, &intent.inputs);
    let live = site.provider(&intent.ty)?.read(&object, &inputs).await;
    let live = live.map_err(|source| StackError::Provider { name: intent.name.clone(), source })?;
    let key = intent.key.clone();
    Ok(match (&intent.act, live) {
        (IntentAct::Create | IntentAct::Import(_), Some(live)) => {
            (Record::Done { key, outputs: live.outputs, seen: false }, Debris::None)
        }
        // Nothing that could be called the object is there; what was made on the way to it, or is left, goes.
        (IntentAct::Create, None) => (Record::NotDone { key }, Debris::Perhaps),
        (IntentAct::Delete, None) => {
            (Record::Done { key, outputs: serde_json::Map::new(), seen: true }, Debris::Perhaps)
        }
        (IntentAct::Import(_) | IntentAct::Update | IntentAct::Delete, _) => {
            (Record::NotDone { key }, Debris::None)
        }
    })
}
