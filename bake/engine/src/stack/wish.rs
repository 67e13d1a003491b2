//! What operators wish of rollouts that are under way: small objects beside the state, written by `olbake rollout
//! pause|resume|abort` and read by whoever drives the rollout. They are no part of the state: losing one loses a
//! wish, and nothing else.

use std::collections::BTreeMap;

use olbake_core::rollout::Wish;
use olbake_core::stack::{ResourceName, StackName};

use super::error::StackError;
use crate::state::StateStore;
use crate::store::object::{ObjectKey, Put};

fn key(stack: &StackName) -> ObjectKey {
    format!("v1/wishes/{stack}.json")
        .parse()
        .expect("a stack's name is made of what objects' names are made of")
}

/// The wishes for a stack's groups. What cannot be read is no wish.
pub async fn wishes(
    store: &StateStore,
    stack: &StackName,
) -> Result<BTreeMap<ResourceName, Wish>, StackError> {
    let found = store.objects().get(&key(stack)).await.map_err(crate::state::StateError::from)?;
    Ok(found.and_then(|found| serde_json::from_slice(&found.bytes).ok()).unwrap_or_default())
}

/// Wishes something of a group; `Go` takes a wish back.
pub async fn wish(
    store: &StateStore,
    stack: &StackName,
    group: &ResourceName,
    wish: Wish,
) -> Result<(), StackError> {
    let mut all = wishes(store, stack).await?;
    match wish {
        Wish::Go => drop(all.remove(group)),
        wish => drop(all.insert(group.clone(), wish)),
    }
    let text = olbake_core::canonical::to_string(&all);
    store
        .objects()
        .put(&key(stack), text.as_bytes(), Put::Always)
        .await
        .map_err(crate::state::StateError::from)?;
    Ok(())
}
