//! Promotes versions of a registry below a folder: `promoter race NUMBER FOLDER` many times, beside others of its kind;
//! `promoter die CALL before|after FOLDER` until it kills itself at a call of the store. Started by
//! `tests/channels.rs`.
#![allow(clippy::unwrap_used, reason = "whoever started it sees that it ended")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/common/promoting.rs"]
mod promoting;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use camino::Utf8Path;
use common::registry;
use olbake_core::promotion::Why;
use olbake_engine::promotion::PromotionError;
use olbake_engine::registry::channels::Moved;
use olbake_engine::registry::{Records, RegistryError};
use olbake_engine::store::StoreError;
use olbake_engine::store::file::FileStore;
use olbake_engine::store::object::{Listed, Object, ObjectKey, ObjectStore, Put, PutOutcome, Upload};
use promoting::{channel, config, promotions, work};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["race", number, path] => race(number.parse().unwrap(), path.into()),
        ["die", at, when, path] => die(at.parse().unwrap(), when == "after", path.into()),
        _ => panic!("say `race NUMBER FOLDER` or `die CALL before|after FOLDER`"),
    }
}

/// One of several processes that promote at the same time. It prints how each try ended.
fn race(number: usize, path: &Utf8Path) {
    let (registry, config) = (registry(path), config(path, ""));
    let records = registry.records();
    let versions = records.versions(None).unwrap();
    let mine = format!("racer {number}");
    for round in 0..20 {
        let version = &versions[(number + round) % versions.len()];
        let promotions = promotions(records, &config, &mine, round as u64);
        match promotions.promote(version, &channel("QA"), Why::Set, None) {
            Ok(Moved::Done(record)) => println!("DONE {}", record.sequence),
            Ok(Moved::NotNeeded(_)) => println!("NOT NEEDED"),
            Err(PromotionError::Registry(RegistryError::ChannelMoved(_))) => println!("LOST"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Promotes, goes back and revokes, until it is killed at a call of the store.
fn die(at: usize, after: bool, path: &Utf8Path) {
    let store = FileStore::open(path.join("registry")).unwrap();
    let store = Fatal { store, calls: AtomicUsize::new(0), at, after };
    let records = Records::over(Arc::new(store), path.join("registry/.locks"));
    work(&records, &config(path, ""));
    println!("THROUGH");
}

/// A store whose process is killed at one of its calls, before or after it took effect.
#[derive(Debug)]
struct Fatal {
    store: FileStore,
    calls: AtomicUsize,
    at: usize,
    after: bool,
}

impl Fatal {
    fn around<T>(&self, act: impl FnOnce() -> T) -> T {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let kill = || rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        if call == self.at && !self.after {
            kill().unwrap();
        }
        let done = act();
        if call == self.at {
            kill().unwrap();
        }
        done
    }
}

impl ObjectStore for Fatal {
    fn get(&self, key: &ObjectKey) -> Result<Option<Object>, StoreError> {
        self.around(|| self.store.get(key))
    }
    fn get_range(&self, key: &ObjectKey, offset: u64, length: usize) -> Result<Option<Vec<u8>>, StoreError> {
        self.around(|| self.store.get_range(key, offset, length))
    }
    fn put(&self, key: &ObjectKey, bytes: &[u8], condition: Put) -> Result<PutOutcome, StoreError> {
        self.around(|| self.store.put(key, bytes, condition))
    }
    fn upload(&self) -> Result<Box<dyn Upload>, StoreError> {
        self.store.upload()
    }
    fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        self.around(|| self.store.delete(key))
    }
    fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.around(|| self.store.list(prefix))
    }
    fn place(&self, key: &ObjectKey) -> String {
        self.store.place(key)
    }
    fn concurrency(&self) -> usize {
        self.store.concurrency()
    }
}
