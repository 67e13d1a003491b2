//! Journals in memory, which outlive the processes that write them. [`Journals`] is what is there.

use std::collections::BTreeMap;

use async_trait::async_trait;
use olbake_engine::state::Objects;
use olbake_engine::store::StoreError;
use olbake_engine::store::object::{Etag, Object, ObjectKey, Put, PutOutcome};

use super::Process;
use super::faults::{Fault, Nature};

/// The journals' objects by name.
pub(super) type Journals = BTreeMap<ObjectKey, Vec<u8>>;

impl Process {
    async fn at_journal<T>(
        &self,
        nature: Nature,
        what: String,
        act: impl FnOnce(&mut Journals) -> T + Send,
    ) -> T {
        let faults = &self.cloud.faults;
        let fault = faults.begin(self.number, nature, what);
        if fault == Some(Fault::HangBefore) {
            faults.hang().await;
        }
        let result = act(&mut self.cloud.journals.lock().expect("no thread panics with a journal"));
        if matches!(fault, Some(Fault::HangAfter | Fault::HangHalfway)) {
            faults.hang().await;
        }
        tokio::task::yield_now().await;
        result
    }
}

#[async_trait]
impl Objects for Process {
    async fn get(&self, key: &ObjectKey) -> Result<Option<Object>, StoreError> {
        let get = |journals: &mut Journals| journals.get(key).cloned();
        let bytes = self.at_journal(Nature::Read, format!("get {key}"), get).await;
        Ok(bytes.map(|bytes| Object { etag: Etag::of(&bytes), bytes }))
    }

    async fn put(&self, key: &ObjectKey, bytes: &[u8], condition: Put) -> Result<PutOutcome, StoreError> {
        let put = |journals: &mut Journals| {
            let there = journals.get(key).map(|bytes| Etag::of(bytes));
            let holds = match condition {
                Put::Always => true,
                Put::IfAbsent => there.is_none(),
                Put::IfMatch(etag) => there == Some(etag),
            };
            if !holds {
                return PutOutcome::Refused;
            }
            journals.insert(key.clone(), bytes.to_vec());
            PutOutcome::Stored(Etag::of(bytes))
        };
        Ok(self.at_journal(Nature::Journal, format!("put {key}"), put).await)
    }

    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let delete = |journals: &mut Journals| journals.remove(key).is_some();
        Ok(self.at_journal(Nature::Journal, format!("remove {key}"), delete).await)
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectKey>) -> Result<Vec<ObjectKey>, StoreError> {
        let list = |journals: &mut Journals| {
            let wanted =
                |key: &&ObjectKey| key.as_str().starts_with(prefix) && after.is_none_or(|after| *key > after);
            journals.keys().filter(wanted).cloned().collect()
        };
        Ok(self.at_journal(Nature::Read, format!("list {prefix}"), list).await)
    }

    fn place(&self, key: &ObjectKey) -> String {
        format!("memory:{key}")
    }
}
