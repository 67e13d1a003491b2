//! What nothing needs any more: found, said with a reason, and on request removed. Main functions: [`plan`] and
//! [`apply`].
//!
//! Needed are, in this order: versions (all, or the newest of each image, what channels point to or can go back to, and
//! what those start from); the layers of
//! each image's newest version and those written lately, so that a failed bake is gone on with; the maps and plans of
//! both; the blocks of those maps. `apply` decides again while it keeps bakes out, and removes what points before
//! what is pointed at: killed at any moment it leaves a sound registry.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::plan::Payload;
use olbake_core::promotion::{ChannelRecord, rollback_targets};
use olbake_core::{Digest, ImageRef};
use serde::Serialize;

use crate::cache::{self, Cache, Superfluous};
use crate::config::ROLLBACK_DEPTH;
use crate::registry::{Records, RegistryError, Version};
use crate::store::StoreError;
use crate::store::collect::{Fate, Look, PackUse};
use crate::store::disk::allocated;
use crate::store::object::ObjectKey;

/// What to keep, and how closely to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcOptions {
    /// The newest versions of each image and variant to keep; all where it is none.
    pub keep: Option<usize>,
    /// The versions before its current one that each channel can go back to: they are kept whatever `keep` says.
    pub rollback_depth: usize,
    /// Layers, downloads and failed disks that are younger are kept, whether needed or not.
    pub younger: Duration,
    /// Check every needed block, and give up those that are corrupt, so that they are made again.
    pub repair: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            keep: None,
            rollback_depth: ROLLBACK_DEPTH,
            younger: Duration::from_secs(7 * 24 * 3600),
            repair: false,
        }
    }
}

/// What kind of thing can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A version of an image.
    Version,
    /// A pointer to a version.
    Pointer,
    /// A layer's disk, remembered for later bakes.
    Layer,
    /// A block map.
    Map,
    /// A plan.
    Plan,
    /// Blocks.
    Pack,
    /// A disk in the cache.
    Disk,
    /// A download in the cache.
    Download,
    /// The working directory of an interrupted bake. [`crate::bake::work::sweep`] removes it, not [`apply`].
    Work,
}

/// Something that can go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// Its kind.
    pub kind: Kind,
    /// Its name for people: `web@1a2b3c4d5e6f`, or where it is.
    pub what: String,
    /// Why it can go.
    pub reason: String,
    /// Bytes that this frees.
    pub bytes: u64,
}

/// A version that stays although newer ones would push it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Its name for people: `web@1a2b3c4d5e6f`.
    pub what: String,
    /// Why it stays.
    pub reason: String,
}

/// Everything that can go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GcPlan {
    /// In the order of removal.
    pub garbage: Vec<Garbage>,
    /// What channels keep.
    pub kept: Vec<Kept>,
}

impl GcPlan {
    /// Bytes that all of it frees.
    pub fn bytes(&self) -> u64 {
        self.garbage.iter().map(|garbage| garbage.bytes).sum()
    }
}

/// Finds what can go, and touches nothing.
pub fn plan(records: &Records, cache: &Cache, options: &GcOptions) -> Result<GcPlan, RegistryError> {
    Ok(Collection::find(records, cache, options)?.plan())
}

/// Removes what can go and says what that was. Fails where a bake is under way.
pub fn apply(records: &Records, cache: &Cache, options: &GcOptions) -> Result<GcPlan, RegistryError> {
    let _registry = records.exclude()?;
    let _cache = cache.exclude()?.map_err(|holder| RegistryError::Busy { holder })?;
    let collection = Collection::find(records, cache, options)?;
    collection.remove(records)?;
    Ok(collection.plan())
}

/// What can go, as it is removed.
#[derive(Default)]
struct Collection {
    versions: Vec<Version>,
    kept: Vec<Kept>,
    /// Objects of the registry, with kind, bytes and reason, in the order of removal.
    objects: Vec<(ObjectKey, Garbage)>,
    packs: Vec<PackUse>,
    /// Where packs are, for people.
    packs_at: Vec<String>,
    files: Vec<(Kind, Superfluous)>,
    work: Vec<Garbage>,
}

impl Collection {
    fn find(records: &Records, cache: &Cache, options: &GcOptions) -> Result<Self, RegistryError> {
        let pinned = pinned(records, options.rollback_depth)?;
        let Retained { kept, versions, by_channels } =
            retained(records.versions(None)?, options.keep, &pinned);
        let mut collection = Self { versions, kept: by_channels, ..Self::default() };
        let newest = newest(&kept);
        let layers = collection.layers(records, &newest, options)?;
        let maps: BTreeSet<Digest> = kept.iter().map(|version| version.map).chain(layers).collect();
        let lost = collection.blocks(records, &maps, options)?;
        collection.lost(records, &kept, &lost)?;
        collection.pointers(records, &kept)?;
        collection.unneeded(records, Kind::Map, "v1/maps/", &maps)?;
        let plans = kept.iter().map(|version| version.plan).collect();
        collection.unneeded(records, Kind::Plan, "v1/plans/", &plans)?;
        collection.disks(cache, options)?;
        collection.downloads(records, cache, &newest, options)?;
        collection.work = interrupted(cache.dir())?;
        Ok(collection)
    }

    /// Finds the layers that can go; the maps of the others.
    fn layers(
        &mut self,
        records: &Records,
        newest: &[&Version],
        options: &GcOptions,
    ) -> Result<Vec<Digest>, RegistryError> {
        let needed: HashSet<Digest> = newest
            .iter()
            .flat_map(|version| version.layers.iter().map(|layer| layer.key).chain([version.sealed_key]))
            .collect();
        let mut maps = Vec::new();
        for (key, layer) in records.layers()? {
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(layer.written);
            let wanted = crate::registry::digest_in(&key).is_some_and(|key| needed.contains(&key));
            if wanted || is_younger(written, options) {
                maps.push(layer.map);
            } else {
                self.object(records, Kind::Layer, key, "no image's newest version has this layer", 0);
            }
        }
        Ok(maps)
    }

    /// Finds the packs that can go; the blocks that are needed and not there.
    fn blocks(
        &mut self,
        records: &Records,
        maps: &BTreeSet<Digest>,
        options: &GcOptions,
    ) -> Result<HashSet<Digest>, RegistryError> {
        let mut needed = HashSet::new();
        for map in maps {
            match records.map(map) {
                Ok(map) => needed.extend(map.blocks.into_values()),
                // Of a map that is lost, no block can be needed; what it was for is made again.
                Err(RegistryError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let look = if options.repair { Look::Blocks } else { Look::Index };
        let packs = records.blocks().survey(&needed, look)?;
        for entry in packs.iter().flat_map(|pack| &pack.keep) {
            needed.remove(&entry.digest);
        }
        self.packs = packs.into_iter().filter(|pack| pack.fate() != Fate::Stays).collect();
        self.packs_at = self.packs.iter().map(|pack| records.objects().place(&pack.pack.key)).collect();
        Ok(needed)
    }

    /// Finds the layers that have lost blocks, and the pointers to such versions: so the next bake makes them again.
    fn lost(
        &mut self,
        records: &Records,
        kept: &[Version],
        lost: &HashSet<Digest>,
    ) -> Result<(), RegistryError> {
        let mut incomplete: BTreeMap<Digest, bool> = BTreeMap::new();
        let mut is_incomplete = |digest: Digest| -> Result<bool, RegistryError> {
            if let Some(known) = incomplete.get(&digest) {
                return Ok(*known);
            }
            let found = match records.map(&digest) {
                Ok(map) => map.blocks.values().any(|block| lost.contains(block)),
                Err(RegistryError::Missing { .. }) => true,
                Err(error) => return Err(error),
            };
            incomplete.insert(digest, found);
            Ok(found)
        };
        for (key, layer) in records.layers()? {
            let gone = self.objects.iter().any(|(other, _)| *other == key);
            if !gone && is_incomplete(layer.map)? {
                self.object(records, Kind::Layer, key, "blocks of its disk are lost", 0);
            }
        }
        for version in kept {
            if is_incomplete(version.map)? {
                let key = crate::registry::key_pointer(&version.key);
                if records.points_to(&key)? == Some(version.digest) {
                    let reason = format!("blocks of {} are lost: it is baked anew", written(version));
                    self.object(records, Kind::Pointer, key, &reason, 0);
                }
            }
        }
        Ok(())
    }

    /// Finds the pointers to versions that are gone.
    fn pointers(&mut self, records: &Records, kept: &[Version]) -> Result<(), RegistryError> {
        let there: HashSet<Digest> =
            kept.iter().chain(&self.versions).map(|version| version.digest).collect();
        for object in records.objects().list("v1/keys/")? {
            if records.points_to(&object.key)?.is_some_and(|version| !there.contains(&version)) {
                self.object(records, Kind::Pointer, object.key, "its version is gone", object.size);
            }
        }
        Ok(())
    }

    fn unneeded(
        &mut self,
        records: &Records,
        kind: Kind,
        prefix: &str,
        needed: &BTreeSet<Digest>,
    ) -> Result<(), RegistryError> {
        for object in records.objects().list(prefix)? {
            if crate::registry::digest_in(&object.key).is_some_and(|digest| !needed.contains(&digest)) {
                self.object(records, kind, object.key, "no version and no layer needs it", object.size);
            }
        }
        Ok(())
    }

    fn disks(&mut self, cache: &Cache, options: &GcOptions) -> Result<(), RegistryError> {
        self.files.extend(cache.superfluous()?.into_iter().map(|file| (Kind::Disk, file)));
        for path in cache::list(&cache.dir().join("failed"))? {
            self.file(Kind::Disk, path, "the disk of a bake that failed long ago", options);
        }
        Ok(())
    }

    fn downloads(
        &mut self,
        records: &Records,
        cache: &Cache,
        newest: &[&Version],
        options: &GcOptions,
    ) -> Result<(), RegistryError> {
        let mut needed = HashSet::new();
        for version in newest {
            let Some(plan) = records.plan(&version.plan)? else { continue };
            let downloads =
                plan.payloads.into_iter().filter(|(_, place)| matches!(place, Payload::Url { .. }));
            needed.extend(downloads.map(|(digest, _)| digest));
        }
        for path in cache::list(&cache.downloads())? {
            let digest = path.file_name().and_then(|name| Digest::from_hex(name).ok());
            if digest.is_none_or(|digest| !needed.contains(&digest)) {
                self.file(Kind::Download, path, "no image's newest version uses it", options);
            }
        }
        Ok(())
    }

    fn object(&mut self, records: &Records, kind: Kind, key: ObjectKey, reason: &str, bytes: u64) {
        let what = records.objects().place(&key);
        self.objects.push((key, Garbage { kind, what, reason: reason.to_owned(), bytes }));
    }

    fn file(&mut self, kind: Kind, path: Utf8PathBuf, reason: &'static str, options: &GcOptions) {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { return };
        if metadata.is_file() && !metadata.modified().is_ok_and(|modified| is_younger(modified, options)) {
            self.files.push((kind, Superfluous { path, bytes: allocated(&metadata), reason }));
        }
    }

    fn plan(&self) -> GcPlan {
        let versions = self.versions.iter().map(|version| Garbage {
            kind: Kind::Version,
            what: written(version),
            reason: "newer versions are kept, and none starts from it".to_owned(),
            bytes: 0,
        });
        let objects = self.objects.iter().map(|(_, garbage)| garbage.clone());
        let packs = self.packs.iter().zip(&self.packs_at).map(|(pack, at)| Garbage {
            kind: Kind::Pack,
            what: at.clone(),
            reason: pack_reason(pack),
            bytes: if pack.fate() == Fate::Goes { pack.pack.size } else { pack.free },
        });
        let files = self.files.iter().map(|(kind, file)| Garbage {
            kind: *kind,
            what: file.path.to_string(),
            reason: file.reason.to_owned(),
            bytes: file.bytes,
        });
        let work = self.work.iter().cloned();
        let garbage = versions.chain(objects).chain(packs).chain(files).chain(work).collect();
        GcPlan { garbage, kept: self.kept.clone() }
    }

    fn remove(&self, records: &Records) -> Result<(), RegistryError> {
        for version in &self.versions {
            records.remove_version(version)?;
        }
        let images: BTreeSet<ImageRef> = self.versions.iter().map(Version::image_ref).collect();
        for image in &images {
            records.settle_head(image)?;
        }
        for (key, _) in &self.objects {
            records.objects().delete(key)?;
        }
        for pack in &self.packs {
            records.blocks().collect(pack)?;
        }
        for (_, file) in &self.files {
            cache::remove(&file.path)?;
        }
        Ok(())
    }
}

/// A version as people write it.
fn written(version: &Version) -> String {
    format!("{}@{}", version.image_ref(), version.digest.short())
}

fn pack_reason(pack: &PackUse) -> String {
    if let Some((block, problem)) = pack.corrupt.first() {
        let more = pack.corrupt.len() - 1;
        let others = if more > 0 { format!(", and {more} more") } else { String::new() };
        return format!("block {block} is corrupt: {problem}{others}");
    }
    match pack.fate() {
        Fate::Goes => "no version and no layer needs its blocks".to_owned(),
        _ => format!("only {} of its blocks are needed: they move", pack.keep.len()),
    }
}

fn is_younger(than: SystemTime, options: &GcOptions) -> bool {
    SystemTime::now().duration_since(than).is_ok_and(|age| age < options.younger)
}

/// The versions that channels need, with the reason.
fn pinned(records: &Records, depth: usize) -> Result<BTreeMap<Digest, String>, RegistryError> {
    let mut pinned: BTreeMap<Digest, String> = BTreeMap::new();
    for last in records.channels()? {
        let ChannelRecord { image, channel, digest, .. } = &last;
        let history = records.channel_history(image, channel)?;
        let back = rollback_targets(&history).into_iter().take(depth);
        let back = back.map(|digest| (digest, format!("{channel} can go back to it")));
        // What a channel points to is the stronger reason.
        pinned.insert(*digest, format!("{channel} points to it"));
        for (digest, reason) in back {
            pinned.entry(digest).or_insert(reason);
        }
    }
    Ok(pinned)
}

/// The versions that stay, with the reason: what images made elsewhere of versions are judged by.
pub fn needed(records: &Records, options: &GcOptions) -> Result<BTreeMap<Digest, String>, RegistryError> {
    let pinned = pinned(records, options.rollback_depth)?;
    let Retained { kept, .. } = retained(records.versions(None)?, options.keep, &pinned);
    let reason = |version: &Version| match (pinned.get(&version.digest), options.keep) {
        (Some(reason), _) => reason.clone(),
        (None, None) => "its version is registered".to_owned(),
        (None, Some(keep)) => format!("it is among the newest {keep}, or one of those starts from it"),
    };
    Ok(kept.iter().map(|version| (version.digest, reason(version))).collect())
}

/// Versions divided.
struct Retained {
    /// Those that stay.
    kept: Vec<Version>,
    /// Those that can go.
    versions: Vec<Version>,
    /// Of those that stay, those that only channels keep.
    by_channels: Vec<Kept>,
}

/// Divides versions, oldest first, into those that stay and those that can go.
fn retained(versions: Vec<Version>, keep: Option<usize>, pinned: &BTreeMap<Digest, String>) -> Retained {
    let Some(keep) = keep else {
        return Retained { kept: versions, versions: Vec::new(), by_channels: Vec::new() };
    };
    let parents: BTreeMap<Digest, Option<Digest>> =
        versions.iter().map(|version| (version.digest, version.parent)).collect();
    let mut counts: BTreeMap<ImageRef, usize> = BTreeMap::new();
    let (newest, others): (Vec<&Version>, Vec<&Version>) = versions.iter().rev().partition(|version| {
        let count = counts.entry(version.image_ref()).or_default();
        *count += 1;
        *count <= keep.max(1)
    });
    let mut stays = HashSet::new();
    let mut stay = |version: &Version| {
        let mut next = Some(version.digest);
        // What a kept version starts from is kept with it.
        while let Some(digest) = next.filter(|digest| stays.insert(*digest)) {
            next = parents.get(&digest).copied().flatten();
        }
    };
    newest.into_iter().for_each(&mut stay);
    let mut by_channels = Vec::new();
    for version in others {
        if let Some(reason) = pinned.get(&version.digest) {
            stay(version);
            by_channels.push(Kept { what: written(version), reason: reason.clone() });
        }
    }
    let (kept, versions) = versions.into_iter().partition(|version| stays.contains(&version.digest));
    Retained { kept, versions, by_channels }
}

/// The newest version of each image and variant.
fn newest(versions: &[Version]) -> Vec<&Version> {
    let newest: BTreeMap<ImageRef, &Version> =
        versions.iter().map(|version| (version.image_ref(), version)).collect();
    newest.into_values().collect()
}

/// The working directories whose bake no longer runs.
fn interrupted(cache: &Utf8Path) -> Result<Vec<Garbage>, StoreError> {
    let mut found = Vec::new();
    for path in cache::list(&crate::bake::work::root(cache))? {
        let running = std::fs::File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_err());
        if !running {
            found.push(Garbage {
                kind: Kind::Work,
                bytes: occupied(&path),
                what: path.into_string(),
                reason: "its bake was interrupted".to_owned(),
            });
        }
    }
    Ok(found)
}

/// Bytes below a directory, on its file system; what cannot be looked at counts as nothing.
fn occupied(path: &Utf8Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(device) = std::fs::symlink_metadata(path).map(|metadata| metadata.dev()) else { return 0 };
    let mut bytes = 0;
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.dev() != device {
            continue;
        }
        bytes += allocated(&metadata);
        if metadata.is_dir() {
            left.extend(cache::list(&path).unwrap_or_default());
        }
    }
    bytes
}
