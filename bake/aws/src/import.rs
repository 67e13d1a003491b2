//! Reads the disk of an image of EC2 into the block store, without an instance. Main function: [`import`].
//!
//! The disk becomes a file of the workspace, for `disk("bases/NAME.raw", sha256 = …)`, and a layer of the block store.
//! A file beside it ([`Source`]) says what it was made from: the next import of the name asks AWS only for the
//! blocks that differ, where the new snapshot descends from that one.

use std::fs::{File, OpenOptions};
use std::io;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::blockmap::BlockMap;
use olbake_core::digest::FieldDigest;
use olbake_engine::payload::digest_of;
use olbake_engine::registry::{Registry, RegistryError};
use olbake_engine::store::disk::{BLOCK, is_zero, write_block};
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::ebs::Snapshots;
use crate::ebs::get::{Listed, Listing};
use crate::error::AwsError;
use crate::publish::PublishError;
use crate::publish::images::{Images, snapshot_of};

/// The form of [`Source`].
pub const SOURCE_SCHEMA: u32 = 1;
const GIB: u64 = 1 << 30;

/// What an imported disk was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// [`SOURCE_SCHEMA`].
    pub schema: u32,
    /// The region.
    pub region: String,
    /// The image.
    pub image: String,
    /// The image's name.
    pub name: String,
    /// Its snapshot.
    pub snapshot: String,
    /// Its architecture, as EC2 writes it.
    pub architecture: String,
    /// How it boots, where it says so: `uefi`, `legacy-bios`, `uefi-preferred`.
    pub boot_mode: Option<String>,
    /// The digest of the disk's block map.
    pub map: Digest,
    /// The digest of the file.
    pub sha256: Digest,
    /// Bytes of the disk.
    pub size: u64,
}

/// What an import took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// What the disk is made from now.
    pub source: Source,
    /// The disk.
    pub file: Utf8PathBuf,
    /// Blocks that AWS was asked for.
    pub fetched: u64,
    /// Blocks that the store did not have.
    pub new_blocks: u64,
}

/// Why an image could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// AWS.
    #[error(transparent)]
    Aws(#[from] AwsError),
    /// AWS, about images.
    #[error(transparent)]
    Images(#[from] PublishError),
    /// There is no such image.
    #[error("there is no image `{image}` in {region} that this account may see")]
    NoImage {
        /// What was asked for.
        image: String,
        /// The region.
        region: String,
    },
    /// It is not on EBS.
    #[error("`{image}` has no disk on EBS")]
    NoSnapshot {
        /// The image.
        image: String,
    },
    /// A file.
    #[error("cannot {action} `{path}`")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

fn failed(action: &'static str, path: &Utf8Path) -> impl FnOnce(io::Error) -> ImportError {
    let path = path.to_owned();
    move |source| ImportError::File { action, path, source }
}

/// Imports an image of the account's region as `directory/NAME.raw`. `hear` hears how many of how many blocks came.
pub async fn import(
    account: &Account,
    registry: &Registry,
    image: &str,
    directory: &Utf8Path,
    name: &str,
    hear: impl Fn(u64, u64),
) -> Result<Imported, ImportError> {
    let region = account.region().unwrap_or_default().to_owned();
    let found = Images::new(account, &region).by_id(image).await?;
    let found =
        found.ok_or_else(|| ImportError::NoImage { image: image.to_owned(), region: region.clone() })?;
    let snapshot = snapshot_of(&found).ok_or_else(|| ImportError::NoSnapshot { image: image.to_owned() })?;
    let paths = Paths::new(directory, name);
    let known = paths.known(&region)?;
    let snapshots = Snapshots::new(account);
    let (listing, base) = changed(&snapshots, registry, known, &snapshot).await?;
    let size = listing.size * GIB;

    std::fs::create_dir_all(directory).map_err(failed("create", directory))?;
    let partial = Partial(paths.partial.clone());
    if let Some(base) = &base {
        let map = registry.map(base).await?;
        registry.read_disk(&map, &partial.0).await?;
    }
    let fetched = fill(&snapshots, &snapshot, &listing, size, &partial.0, hear).await?;
    let (map, new_blocks) = keep(registry, &partial.0, &region, &snapshot).await?;
    let sha256 = File::open(&partial.0).and_then(|mut file| digest_of(&mut file));
    let sha256 = sha256.map_err(failed("read", &partial.0))?;
    std::fs::rename(&partial.0, &paths.disk).map_err(failed("write", &paths.disk))?;
    let source = Source {
        schema: SOURCE_SCHEMA,
        region,
        image: image.to_owned(),
        name: found.name().unwrap_or_default().to_owned(),
        snapshot,
        architecture: found.architecture().map(|known| known.as_str().to_owned()).unwrap_or_default(),
        boot_mode: found.boot_mode().map(|mode| mode.as_str().to_owned()),
        map,
        sha256,
        size,
    };
    paths.remember(&source)?;
    Ok(Imported { source, file: paths.disk, fetched, new_blocks })
}

/// Reads a snapshot into the store and says what its disk is made of; `known` is a snapshot that it descends from, with
/// the map of its disk. `partial` is a file for the disk meanwhile.
pub(crate) async fn fetch_blocks(
    snapshots: &Snapshots,
    registry: &Registry,
    known: Option<(&str, Digest)>,
    snapshot: &str,
    partial: &Utf8Path,
) -> Result<BlockMap, ImportError> {
    let (mut listing, mut base) = (None, None);
    if let Some((from, map)) = known {
        match snapshots.list_changed(from, snapshot).await {
            Ok(changed) => (listing, base) = (Some(changed), Some(map)),
            Err(error) if is_unrelated(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let listing = match listing {
        Some(listing) => listing,
        None => snapshots.list(snapshot).await?,
    };
    let partial = Partial(partial.to_owned());
    if let Some(base) = &base {
        let map = registry.map(base).await?;
        registry.read_disk(&map, &partial.0).await?;
    }
    fill(snapshots, snapshot, &listing, listing.size * GIB, &partial.0, |_, _| {}).await?;
    Ok(registry.write_disk(&partial.0).await?)
}

/// Whether AWS knows no difference between two snapshots: they are not related.
fn is_unrelated(error: &AwsError) -> bool {
    error.is("ValidationException") || error.is("ResourceNotFoundException")
}

/// The blocks to fetch, and the map of the disk that they go over. Whatever is wrong with what is known, all is
/// fetched.
async fn changed(
    snapshots: &Snapshots,
    registry: &Registry,
    known: Option<Source>,
    snapshot: &str,
) -> Result<(Listing, Option<Digest>), ImportError> {
    if let Some(known) = known
        && registry
            .layer(&layer_key(&known.region, &known.snapshot))
            .await?
            .is_some_and(|map| map.digest() == known.map)
    {
        if known.snapshot == snapshot {
            let listing = Listing { blocks: Vec::new(), size: known.size / GIB };
            return Ok((listing, Some(known.map)));
        }
        // Snapshots that are not related have no difference that AWS knows of.
        match snapshots.list_changed(&known.snapshot, snapshot).await {
            Ok(listing) => return Ok((listing, Some(known.map))),
            Err(error) if is_unrelated(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((snapshots.list(snapshot).await?, None))
}

/// Writes blocks to their places.
async fn fill(
    snapshots: &Snapshots,
    snapshot: &str,
    listing: &Listing,
    size: u64,
    to: &Utf8Path,
    hear: impl Fn(u64, u64),
) -> Result<u64, ImportError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(to);
    let file = file.map_err(failed("write", to))?;
    let fresh = file.metadata().map_err(failed("look at", to))?.len() == 0;
    file.set_len(size).map_err(failed("write", to))?;
    for gone in listing.blocks.iter().filter(|block| block.token.is_none()) {
        write_block(&file, gone.number, &[0; BLOCK]).map_err(failed("write", to))?;
    }
    let wanted: Vec<Listed> = listing.blocks.iter().filter(|block| block.token.is_some()).cloned().collect();
    let (mut done, total) = (0, wanted.len() as u64);
    snapshots
        .get(snapshot, &wanted, |number, bytes| {
            // Zeros in a new file are a hole already.
            if !(fresh && is_zero(&bytes)) {
                write_block(&file, number, &bytes).map_err(failed("write", to))?;
            }
            done += 1;
            hear(done, total);
            Ok::<(), ImportError>(())
        })
        .await?;
    Ok(total)
}

/// Keeps the disk's blocks, so that the next import starts from them.
async fn keep(
    registry: &Registry,
    disk: &Utf8Path,
    region: &str,
    snapshot: &str,
) -> Result<(Digest, u64), ImportError> {
    let (registry, disk, key) = (registry.clone(), disk.to_owned(), layer_key(region, snapshot));
    let kept = tokio::task::spawn_blocking(move || {
        let records = registry.records();
        let (map, stats) = records.write_disk(&disk, &|_| {})?;
        records.put_layer(&key, &map)?;
        Ok((map.digest(), stats.new_blocks))
    });
    kept.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

fn layer_key(region: &str, snapshot: &str) -> Digest {
    FieldDigest::new("olbake import 1")
        .field("region", region.as_bytes())
        .field("snapshot", snapshot.as_bytes())
        .finish()
}

/// Where an imported disk lies.
struct Paths {
    disk: Utf8PathBuf,
    partial: Utf8PathBuf,
    source: Utf8PathBuf,
}

impl Paths {
    fn new(directory: &Utf8Path, name: &str) -> Self {
        Self {
            disk: directory.join(format!("{name}.raw")),
            partial: directory.join(format!(".{name}.raw.{}", std::process::id())),
            source: directory.join(format!("{name}.json")),
        }
    }

    /// What the name was made from in this region; what is not understood counts as nothing.
    fn known(&self, region: &str) -> Result<Option<Source>, ImportError> {
        match std::fs::read(&self.source) {
            Ok(text) => Ok(serde_json::from_slice::<Source>(&text)
                .ok()
                .filter(|known| known.schema == SOURCE_SCHEMA && known.region == region)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("read", &self.source)(source)),
        }
    }

    fn remember(&self, source: &Source) -> Result<(), ImportError> {
        let text = serde_json::to_string_pretty(source).expect("a source is expressible in JSON") + "\n";
        std::fs::write(&self.source, text).map_err(failed("write", &self.source))
    }
}

/// A file that is removed unless it got its name.
struct Partial(Utf8PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // Where it was renamed there is nothing to remove.
        drop(std::fs::remove_file(&self.0));
    }
}
