//! AWS as a provider of resources. Main type: [`AwsProvider`].
//!
//! Each type is a [`kind::Kind`]: one that looks at objects, makes, settles and removes them. The flow is the same
//! for all and is in this file: what is there is looked for by the id that the plan fixed, which the call that makes
//! an object writes into its tags or its name; what is not there is made; what comes up is waited for; then it is
//! brought in line. So every verb can be repeated, and after a crash what was made is found.
//!
//! | file | what it has |
//! |---|---|
//! | `kind.rs` | the trait of types |
//! | `owner.rs` | tags, tokens, names |
//! | `problem.rs` | what errors mean |
//! | `clients.rs` | clients and patience |
//! | `ec2/` | networks, addresses, security groups, launch templates |
//! | `iam.rs` | roles, policies, instance profiles |
//! | `balancing.rs` | load balancers, target groups, listeners, rules |
//! | `group/` | Auto Scaling groups and their instances |
//! | `services/` | names, certificates, buckets, keys, parameters, secrets |
//! | `images.rs`, `probe.rs`, `command.rs` | what instances run, how they answer, commands on them |

mod balancing;
mod clients;
mod command;
mod ec2;
mod group;
mod iam;
mod images;
mod kind;
mod owner;
mod probe;
mod problem;
mod services;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use olbake_core::stack::{Catalog, ResourceType};
use olbake_engine::stack::provider::{Bulk, Fleet, Live, Object, Provider, ProviderError};
use serde_json::{Map, Value};
use tokio::task::JoinSet;

pub use clients::Patience;
pub use images::{Amis, NoAmis, TaggedAmis};

use crate::Account;
use clients::Aws;
use kind::{Kind, Settled, Sighting, Stage, Wanted, Which};
use problem::{Nature, Problem};

/// How many types are looked at at the same time.
const TYPES: usize = 8;

/// Every type, under its name.
fn kinds() -> impl Iterator<Item = (&'static str, &'static dyn Kind)> {
    [ec2::KINDS, iam::KINDS, balancing::KINDS, group::KINDS, services::KINDS].into_iter().flatten().copied()
}

/// An account of AWS in a region.
#[derive(Clone, Debug)]
pub struct AwsProvider {
    aws: Aws,
}

impl AwsProvider {
    /// The provider of an account, which has to have a region. `amis` says which image a version is there.
    pub fn open(account: Account, amis: Arc<dyn Amis>) -> Result<Self, ProviderError> {
        if account.region().is_none() {
            return Err(ProviderError::Refused {
                message: "no region is named".to_owned(),
                help: Some("set `AWS_REGION`, or `region` in `~/.aws/config`".to_owned()),
            });
        }
        Ok(Self { aws: Aws::new(account, Patience::default(), amis) })
    }

    /// The same with another patience.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { aws: Aws { patience, ..self.aws } }
    }

    /// All that carries an object's id: more than one where a call was repeated before what it made was visible.
    async fn sightings(&self, kind: &dyn Kind, wanted: Wanted<'_>) -> Result<Vec<Sighting>, Problem> {
        let mut seen = kind.look(&self.aws, Which::These(&[wanted])).await?;
        seen.retain(|sighting| sighting.owner.id == *wanted.id());
        seen.sort_by(|a, b| a.native.cmp(&b.native));
        Ok(seen)
    }

    /// An object that stands, or comes up.
    async fn sight(&self, kind: &dyn Kind, wanted: Wanted<'_>) -> Result<Option<Sighting>, Problem> {
        let seen = self.sightings(kind, wanted).await?;
        Ok(seen.into_iter().find(|sighting| sighting.stage != Stage::Going))
    }

    /// Refuses to take what somebody else made for an object of ours.
    async fn refuse_strangers(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<(), ProviderError> {
        let kind = kind_of(&object.ty)?;
        if !kind.is_anonymous() {
            return Ok(());
        }
        let found = self.sight(kind, Wanted { object, inputs }).await.map_err(Problem::before)?;
        let same = |there: &Sighting| {
            live(there, inputs).inputs.iter().all(|(name, value)| inputs.get(name) == Some(value))
        };
        match found {
            Some(there) if !same(&there) => Err(ProviderError::Refused {
                message: format!("`{}` exists, and is not this resource's", there.native),
                help: Some(format!("take it with `import_id = \"{}\"`, or choose another", there.native)),
            }),
            _ => Ok(()),
        }
    }

    /// Makes an object if it is not there, and brings it in line.
    async fn ensure(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ProviderError> {
        let kind = kind_of(&object.ty)?;
        let wanted = Wanted { object, inputs };
        let found = self.sight(kind, wanted).await.map_err(Problem::before)?;
        if found.as_ref().is_none_or(|there| matches!(there.stage, Stage::Broken(_))) {
            // What goes, or came to nothing, would stand in the way of its successor.
            self.clear(kind, wanted).await.map_err(Problem::before)?;
            self.make(kind, wanted).await.map_err(Problem::before)?;
        }
        let there = self.ready(kind, wanted).await?;
        match kind.settle(&self.aws, &there, &wanted).await.map_err(Problem::after)? {
            Settled::Already => Ok(there.outputs),
            Settled::Now => Ok(self.ready(kind, wanted).await?.outputs),
        }
    }

    /// Makes an object. Where the answer is lost, or it is there already, it is looked for before anything is repeated.
    async fn make(&self, kind: &dyn Kind, wanted: Wanted<'_>) -> Result<(), Problem> {
        let mut looks = self.aws.looks(self.aws.patience.visible);
        loop {
            let made = self.aws.once_visible(|| kind.make(&self.aws, &wanted)).await;
            let Err(problem) = made else { return Ok(()) };
            let unheard = problem.nature() == Nature::Unheard;
            if !unheard && problem.nature() != Nature::Exists {
                return Err(problem);
            }
            if !self.stays_away(kind, wanted).await? {
                return Ok(());
            }
            if !(unheard && looks.next().await) {
                return Err(problem);
            }
        }
    }

    /// Waits until an object that was made can be used.
    async fn ready(&self, kind: &dyn Kind, wanted: Wanted<'_>) -> Result<Sighting, ProviderError> {
        let id = wanted.id();
        let patience = self.aws.patience;
        let mut looks = self.aws.looks(patience.visible);
        let mut coming = false;
        loop {
            match self.sight(kind, wanted).await.map_err(Problem::after)? {
                Some(there) => match there.stage {
                    Stage::Ready => return Ok(there),
                    Stage::Broken(why) => {
                        let message = format!("`{}` ({id}) came to nothing: {why}", there.native);
                        return Err(ProviderError::Failed { message, source: None });
                    }
                    Stage::Coming | Stage::Going if !coming => {
                        coming = true;
                        looks = self.aws.looks(patience.ready);
                    }
                    Stage::Coming | Stage::Going => {}
                },
                None if coming => {
                    let message = format!("`{id}` went away while it came up");
                    return Err(ProviderError::Failed { message, source: None });
                }
                None => {}
            }
            if !looks.next().await {
                let after = if coming { patience.ready } else { patience.visible };
                return Err(ProviderError::TimedOut { what: format!("making `{id}`"), after });
            }
        }
    }

    /// Removes whatever has an object's id, and waits until it is gone.
    async fn clear(&self, kind: &dyn Kind, wanted: Wanted<'_>) -> Result<(), Problem> {
        let mut looks = self.aws.looks(self.aws.patience.gone);
        loop {
            let seen = self.sightings(kind, wanted).await?;
            if seen.is_empty() {
                return Ok(());
            }
            for there in seen.iter().filter(|there| there.stage != Stage::Going) {
                match self.aws.once_free(|| kind.remove(&self.aws, there)).await {
                    Err(problem) if problem.nature() != Nature::Absent => return Err(problem),
                    _ => {}
                }
            }
            if !looks.next().await {
                return Err(Problem::failed("delete", format!("`{}` is not gone yet", wanted.id())));
            }
        }
    }

    /// Whether nothing is there, and does not become visible either.
    async fn stays_away(&self, kind: &dyn Kind, wanted: Wanted<'_>) -> Result<bool, Problem> {
        let mut looks = self.aws.looks(self.aws.patience.absent);
        loop {
            if !self.sightings(kind, wanted).await?.is_empty() {
                return Ok(false);
            }
            if !looks.next().await {
                return Ok(true);
            }
        }
    }

    async fn look_at(
        &self,
        kind: &'static dyn Kind,
        objects: &[(Object, Map<String, Value>)],
    ) -> Result<Vec<(Object, Option<Live>)>, Problem> {
        let wanted: Vec<Wanted<'_>> =
            objects.iter().map(|(object, inputs)| Wanted { object, inputs }).collect();
        let seen = kind.look(&self.aws, Which::These(&wanted)).await?;
        let mut by_id: BTreeMap<_, _> = BTreeMap::new();
        for sighting in seen.into_iter().filter(|sighting| sighting.stage != Stage::Going) {
            by_id.entry(sighting.owner.id.clone()).or_insert(sighting);
        }
        let live = |(object, inputs): &(Object, Map<String, Value>)| {
            (object.clone(), by_id.get(&object.id).map(|there| live(there, inputs)))
        };
        Ok(objects.iter().map(live).collect())
    }
}

fn kind_of(ty: &ResourceType) -> Result<&'static dyn Kind, ProviderError> {
    let found = kinds().find(|(name, _)| *name == ty.as_str());
    found
        .map(|(_, kind)| kind)
        .ok_or_else(|| ProviderError::refused(format!("there are no resources of type `{ty}` at AWS")))
}

/// What is seen of an object, of those properties that were given: what AWS chose is no drift.
fn live(there: &Sighting, asked: &Map<String, Value>) -> Live {
    let given = |name: &String| asked.get(name).is_none_or(|value| !value.is_null());
    let seen = there.inputs.iter().filter(|(name, _)| given(name));
    Live {
        inputs: seen.map(|(name, value)| (name.clone(), value.clone())).collect(),
        outputs: there.outputs.clone(),
        stopped: false,
    }
}

#[async_trait]
impl Provider for AwsProvider {
    fn name(&self) -> &str {
        "aws"
    }

    fn catalog(&self) -> Catalog {
        crate::types::catalog()
    }

    async fn create(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ProviderError> {
        self.refuse_strangers(object, inputs).await?;
        self.ensure(object, inputs).await
    }

    async fn read(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Option<Live>, ProviderError> {
        let kind = kind_of(&object.ty)?;
        let seen = self.sight(kind, Wanted { object, inputs }).await.map_err(Problem::after)?;
        Ok(seen.map(|there| live(&there, inputs)))
    }

    async fn update(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ProviderError> {
        self.ensure(object, inputs).await
    }

    async fn delete(&self, object: &Object, inputs: &Map<String, Value>) -> Result<(), ProviderError> {
        let kind = kind_of(&object.ty)?;
        let wanted = Wanted { object, inputs };
        if kind.is_only_seen() {
            return Ok(());
        }
        // What a call that was cut short made may not be visible yet.
        if !self.stays_away(kind, wanted).await.map_err(Problem::after)? {
            self.clear(kind, wanted).await.map_err(Problem::after)?;
        }
        Ok(())
    }

    async fn import(
        &self,
        object: &Object,
        foreign: &str,
        inputs: &Map<String, Value>,
    ) -> Result<Live, ProviderError> {
        let kind = kind_of(&object.ty)?;
        let wanted = Wanted { object, inputs };
        kind.claim(&self.aws, &wanted, foreign).await.map_err(Problem::before)?;
        let there = self.ready(kind, wanted).await?;
        Ok(live(&there, inputs))
    }

    async fn list(&self) -> Result<Vec<Object>, ProviderError> {
        let mut found = Vec::new();
        for (name, kind) in kinds() {
            let seen = kind.look(&self.aws, Which::All).await.map_err(Problem::after)?;
            let ty: ResourceType = name.parse().expect("types are named in the program");
            found.extend(seen.into_iter().filter(|there| there.stage != Stage::Going).map(|there| {
                let owner::Owner { stack, name, id } = there.owner;
                Object { stack, name, ty: ty.clone(), id }
            }));
        }
        Ok(found)
    }

    fn bulk(&self) -> Option<&dyn Bulk> {
        Some(self)
    }

    fn fleet(&self) -> Option<&dyn Fleet> {
        Some(self)
    }
}

#[async_trait]
impl Bulk for AwsProvider {
    async fn read_all(
        &self,
        objects: &[(Object, Map<String, Value>)],
    ) -> Result<Vec<Option<Live>>, ProviderError> {
        let mut by_type: BTreeMap<ResourceType, Vec<(Object, Map<String, Value>)>> = BTreeMap::new();
        for pair in objects {
            by_type.entry(pair.0.ty.clone()).or_default().push(pair.clone());
        }
        let mut looks = JoinSet::new();
        let mut left = by_type.into_iter();
        let mut seen = BTreeMap::new();
        loop {
            while looks.len() < TYPES {
                let Some((ty, objects)) = left.next() else { break };
                let (provider, kind) = (self.clone(), kind_of(&ty)?);
                looks.spawn(async move { provider.look_at(kind, &objects).await });
            }
            let Some(look) = looks.join_next().await else { break };
            let look =
                look.map_err(|error| ProviderError::failed("objects could not be looked at", error))?;
            for (object, live) in look.map_err(Problem::after)? {
                seen.insert(object.id, live);
            }
        }
        Ok(objects.iter().map(|(object, _)| seen.remove(&object.id).flatten()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_carried_out_and_known() {
        let catalog = crate::types::catalog();
        let mut known: Vec<&str> = catalog.iter().map(|(ty, _)| ty.as_str()).collect();
        let mut carried_out: Vec<&str> = kinds().map(|(name, _)| name).collect();
        known.sort_unstable();
        carried_out.sort_unstable();
        assert_eq!(known, carried_out);
    }
}
