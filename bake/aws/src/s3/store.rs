//! A bucket as the registry and as the journals of stacks see it.

use std::sync::Once;
use std::time::Duration;

use async_trait::async_trait;
use olbake_engine::state::Objects;
use olbake_engine::store::StoreError;
use olbake_engine::store::object::{Listed, Object, ObjectKey, ObjectStore, Put, PutOutcome, Upload};

use super::Bucket;
use super::upload::Spool;

/// Calls at once. S3 answers some thousands a second below one prefix; a call takes some tens of milliseconds.
const CONCURRENCY: usize = 32;
/// An upload that began longer ago than this belongs to nobody any more.
const UNFINISHED: Duration = Duration::from_secs(7 * 24 * 3600);

impl ObjectStore for Bucket {
    fn get(&self, key: &ObjectKey) -> Result<Option<Object>, StoreError> {
        let (calls, key) = (self.calls.clone(), key.clone());
        self.driver.wait(async move { calls.get(&key).await })
    }

    fn get_range(&self, key: &ObjectKey, offset: u64, length: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let (calls, key) = (self.calls.clone(), key.clone());
        self.driver.wait(async move { calls.get_range(&key, offset, length).await })
    }

    fn put(&self, key: &ObjectKey, bytes: &[u8], condition: Put) -> Result<PutOutcome, StoreError> {
        let (calls, key, bytes) = (self.calls.clone(), key.clone(), bytes.to_owned());
        self.driver.wait(async move { calls.put(&key, bytes, condition).await })
    }

    fn upload(&self) -> Result<Box<dyn Upload>, StoreError> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(|| {
            let calls = self.calls.clone();
            // What killed writers left costs money but harms nothing: who may not list uploads works all the same.
            drop(self.driver.spawn(async move { calls.abort_unfinished(UNFINISHED).await }));
        });
        Ok(Box::new(Spool::start(self.clone())?))
    }

    fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let (calls, key) = (self.calls.clone(), key.clone());
        self.driver.wait(async move { calls.delete(&key).await })
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let (calls, prefix) = (self.calls.clone(), prefix.to_owned());
        self.driver.wait(async move { calls.list(&prefix, None).await })
    }

    fn place(&self, key: &ObjectKey) -> String {
        self.calls.place(key)
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }
}

#[async_trait]
impl Objects for Bucket {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Object>, StoreError> {
        let (calls, key) = (self.calls.clone(), key.clone());
        self.run(async move { calls.get(&key).await }).await
    }

    async fn put(&self, key: &ObjectKey, bytes: &[u8], condition: Put) -> Result<PutOutcome, StoreError> {
        let (calls, key, bytes) = (self.calls.clone(), key.clone(), bytes.to_owned());
        self.run(async move { calls.put(&key, bytes, condition).await }).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let (calls, key) = (self.calls.clone(), key.clone());
        self.run(async move { calls.delete(&key).await }).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Vec<ObjectKey>, StoreError> {
        let (calls, prefix, after) = (self.calls.clone(), prefix.to_owned(), after.cloned());
        let listed = self.run(async move { calls.list(&prefix, after.as_ref()).await }).await?;
        Ok(listed.into_iter().map(|listed| listed.key).collect())
    }

    fn place(&self, key: &ObjectKey) -> String {
        self.calls.place(key)
    }
}
