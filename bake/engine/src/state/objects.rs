//! Where journals are kept: four primitives on named bytes, asynchronous. Main type: the trait [`Objects`].
//!
//! Everything above this line is made of these calls and no others, so that the crash sweep and the model cover
//! every backend. [`FileObjects`] lends the registry's files to it.

use std::sync::Arc;

use async_trait::async_trait;
use camino::Utf8Path;

use crate::store::StoreError;
use crate::store::file::FileStore;
use crate::store::object::{Object, ObjectKey, ObjectStore, Put, PutOutcome};

use super::StateError;

/// How often a put whose outcome is not known is tried in all.
const ATTEMPTS: u32 = 5;

/// A place for objects. They appear whole or not at all, and are durable when the call that wrote them returns.
#[async_trait]
pub trait Objects: std::fmt::Debug + Send + Sync {
    /// An object's content; none where there is no such object. Sees every write that has returned.
    async fn get(&self, key: &ObjectKey) -> Result<Option<Object>, StoreError>;

    /// Writes an object. Where a network hides whether it did, the error is [`StoreError::Unsure`].
    async fn put(&self, key: &ObjectKey, bytes: &[u8], condition: Put) -> Result<PutOutcome, StoreError>;

    /// Removes an object; false where there was none.
    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError>;

    /// The names that start with `prefix` and come after `after`, in order.
    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Vec<ObjectKey>, StoreError>;

    /// Where an object is, for people: a path or a URL.
    fn place(&self, key: &ObjectKey) -> String;
}

/// Objects as files of a directory.
#[derive(Clone, Debug)]
pub struct FileObjects {
    files: Arc<FileStore>,
}

impl FileObjects {
    /// Opens a directory; makes it where there is none, and removes what killed writers left.
    pub fn open(root: &Utf8Path) -> Result<Self, StoreError> {
        Ok(Self { files: Arc::new(FileStore::open(root)?) })
    }

    async fn run<T: Send + 'static>(
        &self,
        act: impl FnOnce(&FileStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let files = self.files.clone();
        match tokio::task::spawn_blocking(move || act(&files)).await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

#[async_trait]
impl Objects for FileObjects {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Object>, StoreError> {
        let key = key.clone();
        self.run(move |files| files.get(&key)).await
    }

    async fn put(&self, key: &ObjectKey, bytes: &[u8], condition: Put) -> Result<PutOutcome, StoreError> {
        let (key, bytes) = (key.clone(), bytes.to_owned());
        self.run(move |files| files.put(&key, &bytes, condition)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let key = key.clone();
        self.run(move |files| files.delete(&key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Vec<ObjectKey>, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        let listed = self.run(move |files| files.list(&prefix)).await?;
        let names = listed.into_iter().map(|listed| listed.key);
        Ok(names.filter(|key| after.as_ref().is_none_or(|after| key > after)).collect())
    }

    fn place(&self, key: &ObjectKey) -> String {
        self.files.place(key)
    }
}

/// Opens the objects at a URL; a relative `file://` is relative to the workspace.
pub(super) fn open(url: &str, workspace: &Utf8Path) -> Result<Arc<dyn Objects>, StateError> {
    match url.strip_prefix("file://") {
        Some(path) if !path.is_empty() => Ok(Arc::new(FileObjects::open(&workspace.join(path))?)),
        _ => Err(StateError::BadUrl { url: crate::payload::public_url(url).to_string() }),
    }
}

/// Writes bytes that no other writer writes, until it is known whether they are there.
///
/// A put may be carried out although its answer is lost, and its repetition then finds itself. So a refusal, too,
/// is believed only when what is there is not what we wrote.
pub(super) async fn put_surely(
    objects: &dyn Objects,
    key: &ObjectKey,
    bytes: &[u8],
    condition: Put,
) -> Result<PutOutcome, StoreError> {
    let mut attempt = 1;
    loop {
        match objects.put(key, bytes, condition.clone()).await {
            Ok(PutOutcome::Stored(etag)) => return Ok(PutOutcome::Stored(etag)),
            Ok(PutOutcome::Refused) => {
                let ours = objects.get(key).await?.filter(|there| there.bytes == bytes);
                return Ok(ours.map_or(PutOutcome::Refused, |there| PutOutcome::Stored(there.etag)));
            }
            Err(StoreError::Unsure { .. }) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}
