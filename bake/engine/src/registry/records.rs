//! The registry's objects, read and written. Main type: [`Records`].

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::blockmap::BlockMap;
use olbake_core::plan::Plan;
use olbake_core::{Digest, ImageName, ImageRef, canonical};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::version::{self, VERSION_SCHEMA, Version};
use super::{RegistryError, Result};
use crate::cache::{Lock, Sharing};
use crate::store::StoreError;
use crate::store::blocks::{BlockStore, Hear, ReadStats, Seed, WriteStats};
use crate::store::file::FileStore;
use crate::store::object::{ObjectKey, ObjectStore, Put};

/// The form of pointers.
const POINTER_SCHEMA: u32 = 1;
/// zstd's level for maps and plans: small, and read often.
const LEVEL: i32 = 6;
/// A map or plan does not unpack to more than this.
const LARGEST: usize = 1 << 30;

/// A pointer to a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pointer {
    schema: u32,
    image: ImageRef,
    version: Digest,
    created: String,
}

/// The disk of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    schema: u32,
    /// The digest of its block map.
    pub map: Digest,
    /// Bytes of the disk.
    pub size: u64,
    /// When it was last written, in seconds since 1970.
    pub written: u64,
}

/// The registry, blocking.
#[derive(Debug)]
pub struct Records {
    objects: Arc<dyn ObjectStore>,
    blocks: BlockStore,
    locks: Utf8PathBuf,
    /// Held from the first use of blocks on, so that nothing a bake counts on is collected meanwhile.
    in_use: Mutex<Option<Lock>>,
}

pub(super) fn object_key(text: String) -> ObjectKey {
    text.parse().expect("names and digits make an object's name")
}

pub(super) fn variant_part(image: &ImageRef) -> &str {
    image.variant.as_ref().map_or("-", |variant| variant.as_str())
}

fn version_key(image: &ImageRef, digest: &Digest) -> ObjectKey {
    object_key(format!("v1/versions/{}/{}/{}.json", image.image, variant_part(image), digest.hex()))
}

fn head_key(image: &ImageRef) -> ObjectKey {
    object_key(format!("v1/heads/{}/{}.json", image.image, variant_part(image)))
}

pub(crate) fn key_pointer(key: &Digest) -> ObjectKey {
    object_key(format!("v1/keys/{}.json", key.hex()))
}

fn layer_key(key: &Digest) -> ObjectKey {
    object_key(format!("v1/layers/{}.json", key.hex()))
}

pub(crate) fn map_key(digest: &Digest) -> ObjectKey {
    object_key(format!("v1/maps/{}.json.zst", digest.hex()))
}

pub(crate) fn plan_key(digest: &Digest) -> ObjectKey {
    object_key(format!("v1/plans/{}.json.zst", digest.hex()))
}

/// The digest that an object is named by, as `v1/maps/DIGEST.json.zst` is.
pub(crate) fn digest_in(key: &ObjectKey) -> Option<Digest> {
    Digest::from_hex(key.file_name().split('.').next()?).ok()
}

impl Records {
    pub(super) fn open(url: &str, workspace: &Utf8Path) -> Result<Self> {
        let path = url.strip_prefix("file://").filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| RegistryError::BadUrl { url: url.to_owned() })?;
        let store = FileStore::open(workspace.join(path))?;
        let locks = store.root().join(".locks");
        Ok(Self::over(Arc::new(store), locks))
    }

    /// The registry in an object store; `locks` is a directory for its locks on this host.
    pub fn over(objects: Arc<dyn ObjectStore>, locks: Utf8PathBuf) -> Self {
        let blocks = BlockStore::new(objects.clone());
        Self { objects, blocks, locks, in_use: Mutex::default() }
    }

    /// The blocks.
    pub fn blocks(&self) -> &BlockStore {
        &self.blocks
    }

    pub(crate) fn objects(&self) -> &dyn ObjectStore {
        &*self.objects
    }

    /// Waits until no collection is under way, and keeps new ones from starting while this value lives.
    pub fn hold(&self) -> Result<()> {
        let mut held = self.in_use.lock().expect("no thread panics while it takes the lock");
        if held.is_none() {
            *held = Some(Lock::wait(&self.locks, "registry", Sharing::Shared)?);
        }
        Ok(())
    }

    /// Keeps all others out, or says who is in.
    pub(crate) fn exclude(&self) -> Result<Lock> {
        match Lock::attempt(&self.locks, "registry", Sharing::Exclusive)? {
            Ok(lock) => Ok(lock),
            Err(holder) => Err(RegistryError::Busy { holder }),
        }
    }

    /// The version of a plan's key, when all of it is there: a version that lost blocks, its map or its record is
    /// made again.
    pub fn by_key(&self, key: &Digest) -> Result<Option<Version>> {
        let Some(pointer) = self.pointer(&key_pointer(key))? else { return Ok(None) };
        let Some(version) = self.version(&pointer.image, &pointer.version)? else { return Ok(None) };
        Ok(self.complete_map(&version.map)?.map(|_| version))
    }

    /// A block map, if it is there and so are all its blocks.
    pub(crate) fn complete_map(&self, digest: &Digest) -> Result<Option<BlockMap>> {
        if self.objects.get_range(&map_key(digest), 0, 0)?.is_none() {
            return Ok(None);
        }
        let map = self.map(digest)?;
        Ok(self.blocks.is_complete(&map)?.then_some(map))
    }

    /// The version of a digest.
    pub fn by_digest(&self, digest: &Digest) -> Result<Option<Version>> {
        let name = format!("{}.json", digest.hex());
        let listed = self.objects.list("v1/versions/")?;
        match listed.into_iter().find(|object| object.key.file_name() == name) {
            Some(object) => self.read_version(&object.key),
            None => Ok(None),
        }
    }

    /// The newest version of an image or variant.
    pub fn head(&self, image: &ImageRef) -> Result<Option<Version>> {
        match self.pointer(&head_key(image))? {
            Some(pointer) => self.version(image, &pointer.version),
            None => Ok(None),
        }
    }

    /// The images and variants that have versions.
    pub fn images(&self) -> Result<Vec<ImageRef>> {
        let listed = self.objects.list("v1/heads/")?;
        let image = |key: &ObjectKey| {
            let (image, variant) =
                key.as_str().strip_prefix("v1/heads/")?.strip_suffix(".json")?.split_once('/')?;
            let variant = if variant == "-" { None } else { Some(variant.parse().ok()?) };
            Some(ImageRef { image: image.parse().ok()?, variant })
        };
        Ok(listed.iter().filter_map(|object| image(&object.key)).collect())
    }

    /// The versions of an image, all variants; of all images where none is given. Oldest first.
    pub fn versions(&self, image: Option<&ImageName>) -> Result<Vec<Version>> {
        let keys = self.version_keys(image)?;
        let mut versions: Vec<Version> =
            keys.iter().filter_map(|key| self.read_version(key).transpose()).collect::<Result<_>>()?;
        versions.sort_by(|a, b| (&a.created, a.digest).cmp(&(&b.created, b.digest)));
        Ok(versions)
    }

    pub(super) fn version_keys(&self, image: Option<&ImageName>) -> Result<Vec<ObjectKey>> {
        let prefix = image.map_or("v1/versions/".to_owned(), |image| format!("v1/versions/{image}/"));
        Ok(self.objects.list(&prefix)?.into_iter().map(|object| object.key).collect())
    }

    /// The versions that a version starts from, nearest first.
    pub fn lineage(&self, version: &Version) -> Result<Vec<Version>> {
        let mut line: Vec<Version> = Vec::new();
        let mut parent = version.parent;
        while let Some(digest) = parent {
            let Some(version) = self.by_digest(&digest)? else { break };
            parent = version.parent;
            line.push(version);
        }
        Ok(line)
    }

    /// The plan of this digest; none where there is none.
    pub fn plan(&self, digest: &Digest) -> Result<Option<Plan>> {
        let key = plan_key(digest);
        let Some(text) = self.unpacked(&key)? else { return Ok(None) };
        if Digest::of(&text) != *digest {
            return Err(self.torn(&key, "it has another digest than its name says"));
        }
        self.parse(&key, &text).map(Some)
    }

    /// The block map of this digest.
    pub fn map(&self, digest: &Digest) -> Result<BlockMap> {
        let key = map_key(digest);
        let text = self
            .unpacked(&key)?
            .ok_or_else(|| RegistryError::Missing { object: self.objects.place(&key) })?;
        let map: BlockMap = self.parse(&key, &text)?;
        if map.digest() != *digest {
            return Err(self.torn(&key, "it has another digest than its name says"));
        }
        Ok(map)
    }

    /// The map of a layer's disk, when all its blocks are there: what lost blocks is made again.
    pub fn layer(&self, key: &Digest) -> Result<Option<BlockMap>> {
        self.hold()?;
        let name = layer_key(key);
        let Some(object) = self.objects.get(&name)? else { return Ok(None) };
        let layer: Layer = self.parse(&name, &object.bytes)?;
        self.complete_map(&layer.map)
    }

    /// Remembers the disk of a layer; its blocks are in the store.
    pub fn put_layer(&self, key: &Digest, map: &BlockMap) -> Result<()> {
        self.hold()?;
        self.put_map(map)?;
        let written =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let layer = Layer { schema: POINTER_SCHEMA, map: map.digest(), size: map.size, written };
        self.objects.put(&layer_key(key), canonical::to_string(&layer).as_bytes(), Put::Always)?;
        Ok(())
    }

    /// The layers that are remembered.
    pub(crate) fn layers(&self) -> Result<Vec<(ObjectKey, Layer)>> {
        let mut layers = Vec::new();
        for object in self.objects.list("v1/layers/")? {
            let Some(content) = self.objects.get(&object.key)? else { continue };
            layers.push((object.key.clone(), self.parse(&object.key, &content.bytes)?));
        }
        Ok(layers)
    }

    /// Registers a version. Its blocks are in the store.
    pub fn publish(&self, version: &Version, map: &BlockMap, plan: &Plan) -> Result<()> {
        self.hold()?;
        self.put_map(map)?;
        self.put_packed(&plan_key(&version.plan), plan.to_json().as_bytes())?;
        let image = version.image_ref();
        self.objects.put(
            &version_key(&image, &version.digest),
            version.to_json().as_bytes(),
            Put::IfAbsent,
        )?;
        let pointer = Pointer {
            schema: POINTER_SCHEMA,
            image: image.clone(),
            version: version.digest,
            created: version.created.clone(),
        };
        self.advance(&head_key(&image), &pointer)?;
        self.objects.put(
            &key_pointer(&version.key),
            canonical::to_string(&pointer).as_bytes(),
            Put::Always,
        )?;
        Ok(())
    }

    /// Moves a pointer on, unless it names a later version by now.
    fn advance(&self, key: &ObjectKey, to: &Pointer) -> Result<()> {
        let text = canonical::to_string(to);
        loop {
            let condition = match self.objects.get(key)? {
                None => Put::IfAbsent,
                Some(object) => {
                    let now: Pointer = self.parse(key, &object.bytes)?;
                    if now.created > to.created {
                        return Ok(());
                    }
                    Put::IfMatch(object.etag)
                }
            };
            if self.objects.put(key, text.as_bytes(), condition)?.stored() {
                return Ok(());
            }
        }
    }

    /// Makes a head name the newest of the versions that are left, or removes it.
    pub(crate) fn settle_head(&self, image: &ImageRef) -> Result<()> {
        let versions = self.versions(Some(&image.image))?;
        let key = head_key(image);
        match versions.iter().rfind(|version| version.variant == image.variant) {
            None => drop(self.objects.delete(&key)?),
            Some(newest) => {
                let pointer = Pointer {
                    schema: POINTER_SCHEMA,
                    image: image.clone(),
                    version: newest.digest,
                    created: newest.created.clone(),
                };
                self.objects.put(&key, canonical::to_string(&pointer).as_bytes(), Put::Always)?;
            }
        }
        Ok(())
    }

    /// Removes a version: the pointer to it first, so that nobody finds half of it.
    pub(crate) fn remove_version(&self, version: &Version) -> Result<()> {
        let key = key_pointer(&version.key);
        if self.pointer(&key)?.is_some_and(|pointer| pointer.version == version.digest) {
            self.objects.delete(&key)?;
        }
        self.objects.delete(&version_key(&version.image_ref(), &version.digest))?;
        Ok(())
    }

    /// Stores a disk. What the store has already is not stored again.
    pub fn write_disk(&self, disk: &Utf8Path, hear: Hear<'_>) -> Result<(BlockMap, WriteStats)> {
        self.hold()?;
        Ok(self.blocks.write_disk(disk, hear)?)
    }

    /// As [`Self::write_disk`]; see [`BlockStore::write_disk_like`].
    pub fn write_disk_like(
        &self,
        disk: &Utf8Path,
        seed: Option<Seed<'_>>,
        hear: Hear<'_>,
    ) -> Result<(BlockMap, WriteStats)> {
        self.hold()?;
        Ok(self.blocks.write_disk_like(disk, seed, hear)?)
    }

    /// Makes the raw disk of a map at `to`.
    pub fn read_disk(
        &self,
        map: &BlockMap,
        to: &Utf8Path,
        seed: Option<Seed<'_>>,
        hear: Hear<'_>,
    ) -> Result<ReadStats> {
        self.hold()?;
        Ok(self.blocks.read_disk(map, to, seed, hear)?)
    }

    fn put_map(&self, map: &BlockMap) -> Result<()> {
        self.put_packed(&map_key(&map.digest()), canonical::to_string(map).as_bytes())
    }

    fn put_packed(&self, key: &ObjectKey, text: &[u8]) -> Result<()> {
        let packed =
            zstd::bulk::compress(text, LEVEL).map_err(|e| StoreError::io("compress", key.as_str(), e))?;
        self.objects.put(key, &packed, Put::IfAbsent)?;
        Ok(())
    }

    fn unpacked(&self, key: &ObjectKey) -> Result<Option<Vec<u8>>> {
        let Some(object) = self.objects.get(key)? else { return Ok(None) };
        let size = zstd::zstd_safe::get_frame_content_size(&object.bytes).ok().flatten();
        let size = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= LARGEST);
        let size = size.ok_or_else(|| self.torn(key, "it is no zstd frame of a known size"))?;
        match zstd::bulk::decompress(&object.bytes, size) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(self.torn(key, &format!("it cannot be decompressed ({error})"))),
        }
    }

    pub(super) fn version(&self, image: &ImageRef, digest: &Digest) -> Result<Option<Version>> {
        self.read_version(&version_key(image, digest))
    }

    pub(super) fn read_version(&self, key: &ObjectKey) -> Result<Option<Version>> {
        let Some(object) = self.objects.get(key)? else { return Ok(None) };
        if Some(version::digest_of(&object.bytes)) != digest_in(key) {
            return Err(self.torn(key, "it has another digest than its name says"));
        }
        self.check_schema(key, &object.bytes, VERSION_SCHEMA)?;
        Version::from_json(&object.bytes).map(Some).map_err(|e| self.torn(key, &e.to_string()))
    }

    fn pointer(&self, key: &ObjectKey) -> Result<Option<Pointer>> {
        let Some(object) = self.objects.get(key)? else { return Ok(None) };
        self.check_schema(key, &object.bytes, POINTER_SCHEMA)?;
        self.parse(key, &object.bytes).map(Some)
    }

    /// The version that a pointer names.
    pub(crate) fn points_to(&self, key: &ObjectKey) -> Result<Option<Digest>> {
        Ok(self.pointer(key)?.map(|pointer| pointer.version))
    }

    pub(super) fn check_schema(&self, key: &ObjectKey, text: &[u8], known: u32) -> Result<()> {
        #[derive(Deserialize)]
        struct Schema {
            schema: u64,
        }
        let Schema { schema } = self.parse(key, text)?;
        if schema == u64::from(known) {
            return Ok(());
        }
        Err(RegistryError::Schema { object: self.objects.place(key), found: schema, known })
    }

    fn parse<T: DeserializeOwned>(&self, key: &ObjectKey, text: &[u8]) -> Result<T> {
        serde_json::from_slice(text).map_err(|error| self.torn(key, &error.to_string()))
    }

    fn torn(&self, key: &ObjectKey, problem: &str) -> RegistryError {
        RegistryError::Torn { object: self.objects.place(key), problem: problem.to_owned() }
    }
}
