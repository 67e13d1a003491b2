//! Promotions for the tests of channels and the processes that they start.
#![allow(dead_code, reason = "each program uses a part")]
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use camino::Utf8Path;
use olbake_core::ImageRef;
use olbake_core::promotion::{Channel, Why};
use olbake_core::time::Timestamp;
use olbake_engine::config::Config;
use olbake_engine::promotion::Promotions;
use olbake_engine::registry::Records;

pub(crate) fn channel(name: &str) -> Channel {
    name.parse().unwrap()
}

pub(crate) fn web() -> ImageRef {
    "web".parse().unwrap()
}

pub(crate) fn config(path: &Utf8Path, text: &str) -> Config {
    Config::parse(path, text).unwrap()
}

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_seconds(1_800_000_000 + seconds)
}

pub(crate) fn promotions<'a>(
    records: &'a Records,
    config: &'a Config,
    by: &'a str,
    now: u64,
) -> Promotions<'a> {
    Promotions { records, config, by, now: at(now) }
}

/// Three changes, each of which may have happened already.
pub(crate) fn work(records: &Records, config: &Config) {
    let versions = records.versions(None).unwrap();
    let ann = promotions(records, config, "ann", 5);
    let qa = channel("QA");
    let history = records.channel_history(&web(), &qa).unwrap();
    if history.len() == 1 {
        ann.promote(&versions[1], &qa, Why::Set, None).unwrap();
    }
    if history.len() < 3 {
        ann.rollback(&web(), &qa, None, None).unwrap();
    }
    ann.revoke(&versions[1], "slow").unwrap();
}
