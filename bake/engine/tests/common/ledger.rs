//! A small state for the tests of journals, and what it takes to hold one.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use camino::Utf8Path;
use olbake_core::stack::StackName;
use olbake_engine::state::{
    Clock, Fold, Heartbeat, Held, HoldOptions, Holder, Process, StateError, StateStore, Takeover, Timestamp,
    Writer,
};
use serde::{Deserialize, Serialize};

pub(crate) const STACK: &str = "applications.hello.QA";

pub(crate) fn stack() -> StackName {
    STACK.parse().unwrap()
}

/// Names and sums; remembers how many records made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    pub(crate) sums: BTreeMap<String, u64>,
    pub(crate) records: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Add {
    pub(crate) name: String,
    pub(crate) amount: u64,
}

impl Fold for Ledger {
    type Record = Add;

    fn apply(&mut self, record: &Add) -> Result<(), String> {
        if record.amount == 0 {
            return Err(format!("nothing is added to `{}`", record.name));
        }
        *self.sums.entry(record.name.clone()).or_default() += record.amount;
        self.records += 1;
        Ok(())
    }

    fn lint(&self) -> Vec<String> {
        self.sums.keys().filter(|name| *name == "wrong").map(|name| format!("`{name}` cannot be")).collect()
    }
}

pub(crate) fn add(name: &str, amount: u64) -> Add {
    Add { name: name.to_owned(), amount }
}

/// A clock that goes when it is told to.
#[derive(Debug, Default)]
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_750_000_000_000 + self.0.load(Ordering::SeqCst))
    }

    fn steady(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// One of several holders who are told apart by numbers; of a host that cannot be looked at.
pub(crate) fn options(number: u128, clock: &Arc<HandClock>) -> HoldOptions {
    let process = Process {
        pid: number as u32,
        started: 1,
        boot: "b".into(),
        namespace: "n".into(),
        machine: "elsewhere".into(),
    };
    HoldOptions {
        holder: Holder {
            who: format!("person-{number}"),
            host: "far".into(),
            process,
            command: "olbake deploy".into(),
            since: clock.now(),
        },
        writer: Writer::fixed(number),
        clock: clock.clone(),
        ttl: Duration::from_secs(30),
        heartbeat: Heartbeat::Manual,
        takeover: Takeover::Refuse,
    }
}

pub(crate) fn store(root: &Utf8Path) -> StateStore {
    StateStore::open("file://state", root).unwrap()
}

pub(crate) async fn hold(store: &StateStore, options: HoldOptions) -> Result<Held<Ledger>, StateError> {
    store.hold(&stack(), options).await
}

/// Holds, appends and closes.
pub(crate) async fn change(store: &StateStore, options: HoldOptions, records: &[Add]) {
    let held = hold(store, options).await.unwrap();
    for record in records {
        held.append(record.clone()).await.unwrap();
    }
    held.close("done").await.unwrap();
}

/// Holds by this process and the host's clock.
pub(crate) fn here(ttl: Duration) -> HoldOptions {
    HoldOptions { ttl, ..HoldOptions::here("tester", "a test of processes").unwrap() }
}
