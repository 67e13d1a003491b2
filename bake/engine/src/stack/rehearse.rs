//! The rollouts that a plan would have, as the driver would begin them: for a run in virtual time.

use std::collections::{BTreeMap, BTreeSet};

use olbake_core::Digest;
use olbake_core::rollout::Request;
use olbake_core::stack::plan::{Act, Action, release};
use olbake_core::stack::{ResourceName, StackName, StackState};

use super::deploy::{Preview, Stacks};
use super::error::StackError;
use super::group::Group;
use super::look::object;
use super::roll::{Asked, captured, fleet};
use super::secrets::reveal_known;

impl Stacks {
    /// How each rollout of a plan would begin; none for a group whose instances the provider itself replaces. A group
    /// that is not there yet has no instances, and nothing is known of the room for them.
    pub async fn rehearse(
        &self,
        stack: &StackName,
        preview: &Preview,
    ) -> Result<BTreeMap<ResourceName, Option<Request>>, StackError> {
        let mut found = BTreeMap::new();
        for action in preview.plan.actions.iter().filter(|action| action.act == Act::Roll) {
            found.insert(action.name.clone(), self.begins_with(stack, action, &preview.state).await?);
        }
        Ok(found)
    }

    async fn begins_with(
        &self,
        stack: &StackName,
        action: &Action,
        state: &StackState,
    ) -> Result<Option<Request>, StackError> {
        let site = &self.site;
        let name = &action.name;
        let failed = |source| StackError::Provider { name: name.clone(), source };
        let provider = site.provider(&action.ty)?;
        let fleet = fleet(&**provider).map_err(failed)?;
        let group = Group::read(&action.inputs)
            .map_err(|problem| StackError::Value { name: name.clone(), problem })?;
        let schema = site.catalog.get(&action.ty).ok_or_else(|| StackError::NoProvider(action.ty.clone()))?;
        // Where it depends on what is known after apply, it is some other release than any that runs.
        let digest = release(schema, &action.inputs, &action.secrets);
        let to = group.release(digest.unwrap_or_else(|| Digest::of(b"known after apply")));
        let object = object(stack, name, &action.ty, &action.id);
        if fleet.delegates(&reveal_known(site, &action.inputs)) {
            return Ok(None);
        }
        let applied = state.resources.get(name).filter(|applied| !applied.gone && applied.id == action.id);
        let before = applied.and_then(|applied| applied.group.clone()).unwrap_or_default();
        let (mut seen, mut room) = (Vec::new(), None);
        if let Some(applied) = applied {
            // What it is there with: what it is to have may not be known yet.
            let applied = reveal_known(site, &applied.inputs);
            seen = fleet.observe(&object, &applied).await.map_err(failed)?;
            room = fleet.room(&object, &applied).await.map_err(failed)?;
        }
        let from = captured(&before).map(|from| from.release.image);
        let images: BTreeSet<Digest> = [Some(to.image), from].into_iter().flatten().collect();
        let mut hooks = false;
        for image in images {
            hooks |= !site.images.upgrade_hooks(&image).await?.is_empty();
        }
        let asked = Asked { site, object: &object, fleet, group: &group, before: &before, to, hooks };
        Ok(Some(asked.request(&seen, room, BTreeSet::new()).await?))
    }
}
