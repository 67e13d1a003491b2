//! Asks each region what is there, and plans with it.

use std::collections::HashMap;

use aws_sdk_ec2::types::{Image, ImageState, SnapshotState};
use olbake_core::Digest;
use olbake_core::blockmap::BlockMap;
use olbake_engine::registry::places::{EC2, Place};
use olbake_engine::registry::{Registry, RegistryError};
use olbake_engine::store::StoreError;
use tokio::task::JoinSet;

use super::images::{Images, image_name};
use super::plan::{self, Course, Parent, PublishPlan, RegionPlan, volume_size, wanted};
use super::{Desk, Publish, PublishError, journal};
use crate::token::token;

/// Parents that are compared in a region: the newest. Reading the map of each costs a little.
const COMPARED: usize = 24;

type Result<T> = std::result::Result<T, PublishError>;

pub(super) async fn plan(desk: &Desk, publish: &Publish) -> Result<PublishPlan> {
    let map = desk.registry.map(&publish.version.map).await?;
    complete(&desk.registry, &map).await?;
    let candidates = candidates(&desk.registry, publish).await?;
    let mut looking = JoinSet::new();
    for (number, region) in publish.regions.iter().enumerate() {
        let from = (publish.copy && number > 0).then(|| publish.regions[0].clone());
        let near = candidates.get(region).cloned().unwrap_or_default();
        let look = Look {
            desk: desk.clone(),
            publish: publish.clone(),
            map: map.clone(),
            images: Images::new(&desk.account, region),
            region: region.clone(),
        };
        looking.spawn(async move { (number, look.region(from, near).await) });
    }
    let mut regions = Vec::new();
    while let Some(looked) = looking.join_next().await {
        let (number, planned) = looked.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        regions.push((number, planned?));
    }
    regions.sort_by_key(|(number, _)| *number);
    Ok(PublishPlan {
        image: publish.version.image_ref(),
        version: publish.version.digest,
        architecture: publish.version.architecture,
        size: volume_size(&map),
        data_blocks: map.blocks.len() as u64,
        regions: regions.into_iter().map(|(_, planned)| planned).collect(),
    })
}

/// Every block must be there before anything is begun.
async fn complete(registry: &Registry, map: &BlockMap) -> Result<()> {
    let (registry, map) = (registry.clone(), map.clone());
    blocking(move || {
        registry.records().hold()?;
        match registry.records().blocks().missing(&map)?.first() {
            None => Ok(()),
            Some((number, block)) => Err(StoreError::MissingBlock { block: *block, number: *number }.into()),
        }
    })
    .await
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(act).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A snapshot that could be a parent, with its version's blocks.
type Candidate = (Parent, BlockMap);

/// The published versions of each region, newest first.
async fn candidates(registry: &Registry, publish: &Publish) -> Result<HashMap<String, Vec<Candidate>>> {
    let (registry, regions) = (registry.clone(), publish.regions.clone());
    blocking(move || {
        let records = registry.records();
        let mut places: Vec<Place> = records.all_places()?;
        places.retain(|place| place.kind == EC2 && regions.contains(&place.region));
        places.sort_by_key(|place| std::cmp::Reverse((place.created, place.version)));
        let maps: HashMap<Digest, Digest> =
            records.versions(None)?.into_iter().map(|version| (version.digest, version.map)).collect();
        let mut found: HashMap<String, Vec<Candidate>> = HashMap::new();
        for place in places {
            let near = found.entry(place.region).or_default();
            let Some(map) = maps.get(&place.version).filter(|_| near.len() < COMPARED) else { continue };
            match records.map(map) {
                Ok(blocks) => {
                    let Place { snapshot, version, .. } = place;
                    near.push((Parent { snapshot, version, map: *map }, blocks));
                }
                Err(RegistryError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    })
    .await
}

/// What planning for one region needs.
struct Look {
    desk: Desk,
    publish: Publish,
    map: BlockMap,
    images: Images,
    region: String,
}

impl Look {
    async fn region(&self, from: Option<String>, near: Vec<Candidate>) -> Result<RegionPlan> {
        let version = &self.publish.version;
        let name = image_name(&version.image_ref(), &version.digest);
        let mut stale = self.desk.registry.place(&version.digest, EC2, &self.region).await?;
        if let Some(place) = &stale
            && self.images.by_id(&place.id).await?.is_some_and(|image| usable(&image))
        {
            let course = Course::NotNeeded { place: place.clone() };
            stale = None;
            return Ok(RegionPlan::new(&self.region, name, course, stale));
        }
        let course = match self.images.ours(&name, &version.digest).await? {
            Some(image) => Course::Adopt { image },
            None => match self.unfinished(from.is_some()).await? {
                Some(course) => course,
                None => match from {
                    Some(from) => Course::Copy { from, token: token() },
                    None => self.upload(near).await?,
                },
            },
        };
        Ok(RegionPlan::new(&self.region, name, course, stale))
    }

    /// What an earlier run began and can be gone on with.
    async fn unfinished(&self, copies: bool) -> Result<Option<Course>> {
        let path = journal::path(&self.desk.journals, &self.publish.version.digest, &self.region);
        let known = journal::read(&path)?;
        let (Some(token), false) = (known.token, copies) else { return Ok(None) };
        if let Some(snapshot) = &known.snapshot {
            let found = self.images.snapshots(vec![snapshot.clone()]).await?;
            // What AWS gave up, or somebody removed, is begun anew.
            match found.first().and_then(|found| found.state()) {
                Some(SnapshotState::Pending | SnapshotState::Completed) => {}
                _ => return Ok(None),
            }
        }
        let parent = match &known.parent {
            None => None,
            Some(parent) => match self.desk.registry.map(&parent.map).await {
                Ok(map) => Some(map),
                Err(RegistryError::Missing { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            },
        };
        let all = wanted(&self.map, parent.as_ref());
        let left = all.iter().filter(|(number, _)| !known.put.contains(number)).count();
        let blocks = if known.completed { 0 } else { left as u64 };
        Ok(Some(Course::Upload { parent: known.parent, token, blocks, resumes: known.snapshot }))
    }

    async fn upload(&self, near: Vec<Candidate>) -> Result<Course> {
        let ids = near.iter().map(|(parent, _)| parent.snapshot.clone()).collect();
        let there = self.images.snapshots(ids).await?;
        let key = self.publish.kms_key.as_deref();
        let usable = |parent: &Parent| {
            there.iter().any(|found| {
                let same_key = match (found.encrypted().unwrap_or(false), key) {
                    (false, None) => true,
                    // A snapshot has the key of what it starts from.
                    (true, Some(key)) => found.kms_key_id().is_some_and(|id| id.ends_with(key)),
                    _ => false,
                };
                found.snapshot_id() == Some(&parent.snapshot)
                    && found.state() == Some(&SnapshotState::Completed)
                    && same_key
            })
        };
        let candidates = near.iter().filter(|(parent, _)| usable(parent)).map(|(parent, map)| (parent, map));
        let (parent, blocks) = match plan::nearest(&self.map, candidates) {
            Some((parent, blocks)) => (Some(parent.clone()), blocks),
            None => (None, self.map.blocks.len() as u64),
        };
        Ok(Course::Upload { parent, token: token(), blocks, resumes: None })
    }
}

fn usable(image: &Image) -> bool {
    matches!(image.state(), Some(ImageState::Available | ImageState::Pending))
}
