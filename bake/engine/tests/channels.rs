//! Channels: histories only grow, pointers name what exists, and whatever happens nothing is overwritten.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod common;
#[path = "common/promoting.rs"]
mod promoting;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use camino::Utf8Path;
use common::{Scratch, process, publish, registry, scratch};
use olbake_core::promotion::{Why, rollback_targets};
use olbake_core::{Digest, ImageRef};
use olbake_engine::cache::Cache;
use olbake_engine::gc::{self, GcOptions, Kind};
use olbake_engine::promotion::PromotionError;
use olbake_engine::registry::channels::{Move, Moved};
use olbake_engine::registry::{RegistryError, Version};
use promoting::{at, channel, config, promotions, web, work};
use proptest::prelude::*;

/// Versions of `web`, the first the oldest.
fn versions(path: &Utf8Path, count: usize) -> Vec<Version> {
    let registry = registry(path);
    (1..=count).map(|second| publish(&registry, path, "web", &[second as u8], second, None).0).collect()
}

/// Every file of a channel with its content.
fn files(path: &Utf8Path, channel: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = path.join("registry/v1/channels/web/-").join(channel);
    let Ok(entries) = folder.read_dir_utf8() else { return BTreeMap::new() };
    let read = |path: &Utf8Path| (path.file_name().unwrap().to_owned(), fs::read(path).unwrap());
    entries.map(|entry| read(entry.unwrap().path())).collect()
}

/// The number of the entry that the pointer names.
fn pointed(path: &Utf8Path, channel: &str) -> Option<u64> {
    let text = fs::read(path.join(format!("registry/v1/channels/web/-/{channel}.json"))).ok()?;
    serde_json::from_slice::<serde_json::Value>(&text).unwrap()["sequence"].as_u64()
}

#[derive(Clone, Debug)]
enum Act {
    Promote(usize, &'static str),
    Rollback(&'static str),
    BackTo(usize, &'static str),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let name = || prop::sample::select(vec!["QA", "Production"]);
    let act = prop_oneof![
        3 => (0_usize..4, name()).prop_map(|(version, name)| Act::Promote(version, name)),
        1 => name().prop_map(Act::Rollback),
        1 => (0_usize..4, name()).prop_map(|(version, name)| Act::BackTo(version, name)),
    ];
    prop::collection::vec(act, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn histories_only_grow_and_pointers_name_entries(acts in acts()) {
        let Scratch { path, .. } = &scratch();
        let versions = versions(path, 4);
        let (registry, config) = (registry(path), config(path, ""));
        let records = registry.records();
        let mut before = BTreeMap::from([("QA", BTreeMap::new()), ("Production", BTreeMap::new())]);
        for (second, act) in (0..).zip(&acts) {
            let promotions = promotions(records, &config, "ann", second);
            let (name, wanted) = match act {
                Act::Promote(version, name) => {
                    let version = &versions[*version];
                    promotions.promote(version, &channel(name), Why::Set, None).unwrap();
                    (name, Some(version.digest))
                }
                Act::Rollback(name) => {
                    let history = records.channel_history(&web(), &channel(name)).unwrap();
                    let target = rollback_targets(&history).first().copied();
                    let done = promotions.rollback(&web(), &channel(name), None, None);
                    prop_assert_eq!(done.is_ok(), target.is_some());
                    (name, target.or(history.last().map(|record| record.digest)))
                }
                Act::BackTo(version, name) => {
                    let version = &versions[*version];
                    let history = records.channel_history(&web(), &channel(name)).unwrap();
                    let was_there = history.iter().any(|record| record.digest == version.digest);
                    let done = promotions.rollback(&web(), &channel(name), Some(version), None);
                    prop_assert_eq!(done.is_ok(), was_there);
                    let last = history.last().map(|record| record.digest);
                    (name, if was_there { Some(version.digest) } else { last })
                }
            };
            let found = records.channel(&web(), &channel(name)).unwrap().map(|version| version.digest);
            prop_assert_eq!(found, wanted);
            for (name, before) in &mut before {
                let now = files(path, name);
                prop_assert!(before.iter().all(|(file, text)| now.get(file) == Some(text)), "an entry changed");
                prop_assert!(now.len() <= before.len() + 1);
                let history = records.channel_history(&web(), &channel(name)).unwrap();
                prop_assert_eq!(history.len(), now.len());
                prop_assert_eq!(pointed(path, name), history.last().map(|record| record.sequence));
                let digests = || history.iter().map(|record| Some(record.digest));
                let previous: Vec<_> = std::iter::once(None).chain(digests()).take(history.len()).collect();
                prop_assert_eq!(history.iter().map(|record| record.previous).collect::<Vec<_>>(), previous);
                *before = now;
            }
        }
    }
}

#[test]
fn a_change_decided_on_an_older_entry_is_refused() {
    let Scratch { path, .. } = &scratch();
    let versions = versions(path, 3);
    let registry = registry(path);
    let change = |digest, seen| Move {
        image: web(),
        channel: channel("QA"),
        seen,
        digest,
        by: "ann".to_owned(),
        at: at(0),
        why: Why::Set,
        reason: None,
        evidence: Vec::new(),
    };
    let records = registry.records();
    assert!(matches!(records.move_channel(&change(versions[0].digest, 0)), Ok(Moved::Done(_))));
    let error = records.move_channel(&change(versions[1].digest, 0)).unwrap_err();
    let expect = format!(
        "QA of `web` was moved to `{}` by ann at 2027-01-15T08:00:00Z, meanwhile; nothing was changed",
        versions[0].digest.short()
    );
    assert_eq!(error.to_string(), expect);
    // Where the other wanted the same, both have it.
    let again = records.move_channel(&change(versions[0].digest, 0)).unwrap();
    assert!(matches!(again, Moved::NotNeeded(record) if record.sequence == 1));
    let unknown = records.move_channel(&change(Digest::of(b"none"), 1)).unwrap_err();
    assert!(matches!(unknown, RegistryError::UnknownVersion { .. }), "{unknown:?}");
    assert_eq!(records.channel_history(&web(), &channel("QA")).unwrap().len(), 1);
}

#[test]
fn torn_and_edited_objects_are_named() {
    let Scratch { path, .. } = &scratch();
    let versions = versions(path, 3);
    let (registry, config) = (registry(path), config(path, ""));
    let records = registry.records();
    for (second, version) in (0..).zip(&versions) {
        let promotions = promotions(records, &config, "ann", second);
        promotions.promote(version, &channel("QA"), Why::Set, None).unwrap();
    }
    let folder = path.join("registry/v1/channels/web/-");
    let check = |file: &str, damage: &dyn Fn(&str) -> String, expect: &str| {
        let file = folder.join(file);
        let whole = fs::read_to_string(&file).unwrap();
        assert_ne!(damage(&whole), whole);
        fs::write(&file, damage(&whole)).unwrap();
        let error = records.channel_history(&web(), &channel("QA")).unwrap_err();
        assert!(error.to_string().starts_with(&format!("`{file}` is not what was written: ")), "{error}");
        assert!(error.to_string().contains(expect), "{error}");
        fs::write(&file, whole).unwrap();
        records.channel_history(&web(), &channel("QA")).unwrap();
    };
    let half = |text: &str| text[..text.len() / 2].to_owned();
    let edited = |text: &str| text.replace("\"ann\"", "\"bob\"");
    for entry in ["QA/00000001.json", "QA/00000002.json", "QA/00000003.json"] {
        check(entry, &half, "restore it from a copy of the registry");
        check(entry, &|_| String::new(), "restore it from a copy of the registry");
        check(entry, &edited, "restore it from a copy of the registry");
    }
    check("QA.json", &half, "remove it: it is made again");
    check("QA.json", &|text| text.replace("\"QA\"", "\"CI\""), "it is about another channel");

    // Nothing moves a channel whose history is damaged.
    let last = folder.join("QA/00000003.json");
    let whole = fs::read_to_string(&last).unwrap();
    fs::write(&last, half(&whole)).unwrap();
    let promotions = promotions(records, &config, "ann", 9);
    assert!(promotions.promote(&versions[0], &channel("QA"), Why::Set, None).is_err());
    assert!(records.resolve_for_deploy(&web(), &channel("QA")).is_err());
    fs::write(&last, whole).unwrap();

    // Doing as it says for the pointer helps.
    fs::remove_file(folder.join("QA.json")).unwrap();
    assert_eq!(records.channel(&web(), &channel("QA")).unwrap().unwrap().digest, versions[2].digest);
    let again = promotions.promote(&versions[2], &channel("QA"), Why::Set, None).unwrap();
    assert!(matches!(again, Moved::NotNeeded(_)));
    assert_eq!(pointed(path, "QA"), Some(3));

    // A missing entry is missing, and not the end of the history.
    fs::remove_file(folder.join("QA/00000002.json")).unwrap();
    let error = records.channel_history(&web(), &channel("QA")).unwrap_err();
    assert!(matches!(error, RegistryError::Missing { .. }), "{error:?}");
}

#[test]
fn going_back_passes_over_what_must_not_run() {
    let Scratch { path, .. } = &scratch();
    let versions = versions(path, 4);
    let (registry, config) = (registry(path), config(path, ""));
    let records = registry.records();
    let ann = promotions(records, &config, "ann", 7);
    for version in &versions {
        ann.promote(version, &channel("Production"), Why::Set, None).unwrap();
    }
    ann.revoke(&versions[2], "a hole").unwrap();
    let back = ann.rollback(&web(), &channel("Production"), None, Some("slow")).unwrap();
    assert_eq!(back.moved.record().digest, versions[1].digest);
    assert_eq!(back.moved.record().why, Why::RolledBack);
    assert_eq!(back.skipped.len(), 1);
    assert!(back.skipped[0].reason.contains("was revoked by ann"), "{:?}", back.skipped);
    let refused = ann.rollback(&web(), &channel("Production"), Some(&versions[2]), None).unwrap_err();
    assert!(refused.to_string().contains("must not be deployed: it was revoked by ann"), "{refused}");
    ann.rollback(&web(), &channel("Production"), None, None).unwrap();
    let end = ann.rollback(&web(), &channel("Production"), None, None).unwrap_err();
    assert_eq!(end.to_string(), "Production of `web` has no earlier version to go back to");
    let empty = ann.rollback(&web(), &channel("QA"), None, None).unwrap_err();
    assert_eq!(empty.to_string(), "no version of `web` is in QA yet");
}

#[test]
fn revoking_reaches_all_that_starts_from_it() {
    let Scratch { path, .. } = &scratch();
    let registry = registry(path);
    let (base, _) = publish(&registry, path, "base", &[1], 1, None);
    let (app, _) = publish(&registry, path, "app", &[2], 2, Some(base.digest));
    let (leaf, _) = publish(&registry, path, "web/large", &[3], 3, Some(app.digest));
    let (other, _) = publish(&registry, path, "web", &[4], 4, None);
    let config = config(path, "");
    let records = registry.records();
    let ann = promotions(records, &config, "ann", 0);
    let qa = channel("QA");
    for version in [&leaf, &other] {
        ann.promote(version, &qa, Why::Set, None).unwrap();
    }
    let large: ImageRef = "web/large".parse().unwrap();
    assert_eq!(records.resolve_for_deploy(&large, &qa).unwrap().digest, leaf.digest);

    let revoked = ann.revoke(&base, "a hole").unwrap();
    let names: Vec<String> =
        revoked.descendants.iter().map(|version| version.image_ref().to_string()).collect();
    assert_eq!(names, ["app", "web/large"]);
    assert_eq!(revoked.channels.len(), 1);
    assert_eq!(revoked.channels[0].image, large);
    // The first revocation stands.
    let again = promotions(records, &config, "bob", 99).revoke(&base, "another").unwrap();
    assert_eq!(again.revocation, revoked.revocation);

    let error = records.resolve_for_deploy(&large, &qa).unwrap_err();
    let expect = format!(
        "`web/large@{}` must not be deployed: `base@{}`, which it starts from, was revoked by ann at \
         2027-01-15T08:00:00Z: a hole",
        leaf.digest.short(),
        base.digest.short()
    );
    assert_eq!(error.to_string(), expect);
    assert!(records.resolve_digest_for_deploy(&"app".parse().unwrap(), &app.digest).is_err());
    assert_eq!(records.resolve_for_deploy(&web(), &qa).unwrap().digest, other.digest);
    let gates = ann.promote(&leaf, &channel("Production"), Why::Set, None).unwrap_err();
    assert!(matches!(&gates, PromotionError::Gates(unmet) if !unmet.verdicts[0].held), "{gates:?}");
    // Its record may be gone: that it was revoked is known all the same.
    fs::remove_file(path.join(format!("registry/v1/versions/base/-/{}.json", base.digest.hex()))).unwrap();
    assert!(records.resolve_for_deploy(&large, &qa).is_err());

    // A revocation that cannot be read forbids, too.
    let file = path.join(format!("registry/v1/revoked/{}.json", base.digest.hex()));
    fs::write(&file, "{").unwrap();
    let error = records.resolve_for_deploy(&large, &qa).unwrap_err();
    assert!(error.to_string().starts_with(&format!("`{file}` is not what was written")), "{error}");
}

#[test]
fn what_is_not_registered_is_not_deployed() {
    let Scratch { path, .. } = &scratch();
    let versions = versions(path, 1);
    let (registry, config) = (registry(path), config(path, ""));
    let records = registry.records();
    let qa = channel("QA");
    let empty = records.resolve_for_deploy(&web(), &qa).unwrap_err();
    assert_eq!(empty.to_string(), "no version of `web` is in QA yet");
    assert_eq!(records.channel(&web(), &qa).unwrap(), None);
    promotions(records, &config, "ann", 0).promote(&versions[0], &qa, Why::Set, None).unwrap();
    let none = Digest::of(b"none");
    let unknown = records.resolve_digest_for_deploy(&web(), &none).unwrap_err();
    assert_eq!(unknown.to_string(), format!("no version `web@{none}` is registered"));
    fs::remove_file(path.join(format!("registry/v1/versions/web/-/{}.json", versions[0].digest.hex())))
        .unwrap();
    let gone = records.resolve_for_deploy(&web(), &qa).unwrap_err();
    let expect =
        format!("`web@{}`, which QA points to, is not registered any more", versions[0].digest.short());
    assert_eq!(gone.to_string(), expect);
}

#[test]
fn collection_keeps_what_channels_point_to_and_can_go_back_to() {
    let Scratch { path, .. } = &scratch();
    let all = versions(path, 7);
    let config = config(path, "");
    {
        let registry = registry(path);
        let ann = promotions(registry.records(), &config, "ann", 0);
        for version in &all[..5] {
            ann.promote(version, &channel("Production"), Why::Set, None).unwrap();
        }
        ann.promote(&all[1], &channel("QA"), Why::Set, None).unwrap();
    }
    let registry = registry(path);
    let cache = Cache::open(path.join("cache"), None).unwrap();
    let options = GcOptions { keep: Some(1), rollback_depth: 1, ..GcOptions::default() };
    let done = gc::apply(registry.records(), &cache, &options).unwrap();
    let left: Vec<Digest> =
        registry.records().versions(None).unwrap().iter().map(|version| version.digest).collect();
    assert_eq!(left, [all[1].digest, all[3].digest, all[4].digest, all[6].digest]);
    let kept: Vec<String> =
        done.kept.iter().map(|kept| format!("{} {}", &kept.what[4..], kept.reason)).collect();
    let expect =
        [(4, "Production points to it"), (3, "Production can go back to it"), (1, "QA points to it")];
    assert_eq!(kept, expect.map(|(at, reason)| format!("{} {reason}", all[at].digest.short())));
    assert!(done.garbage.iter().filter(|garbage| garbage.kind == Kind::Version).count() == 3);
    // What it points to is whole.
    let current = registry.records().resolve_for_deploy(&web(), &channel("Production")).unwrap();
    let map = registry.records().map(&current.map).unwrap();
    registry.records().blocks().verify(&map, &|_| {}).unwrap();
}

/// Another process that promotes: `examples/promoter.rs`.
fn promoter(arguments: &[&str]) -> Command {
    let mut command = process("promoter");
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

#[test]
fn processes_that_race_lose_nothing() {
    let Scratch { path, .. } = &scratch();
    versions(path, 4);
    let children: Vec<_> = (0..3)
        .map(|number| promoter(&["race", &number.to_string(), path.as_str()]).spawn().unwrap())
        .collect();
    let mut done: Vec<(u64, String)> = Vec::new();
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let ends = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(ends("DONE ") + ends("NOT NEEDED") + ends("LOST"), 20, "{text}");
        let entries = text.lines().filter_map(|line| line.strip_prefix("DONE ")?.parse().ok());
        done.extend(entries.map(|sequence: u64| (sequence, format!("racer {number}"))));
    }
    done.sort_unstable();
    // Each entry that someone was told of is there, and no other.
    let history = registry(path).records().channel_history(&web(), &channel("QA")).unwrap();
    let found: Vec<(u64, String)> =
        history.iter().map(|record| (record.sequence, record.by.clone())).collect();
    assert_eq!(found, done);
    assert_eq!(pointed(path, "QA"), Some(history.len() as u64));
    assert!(history.windows(2).all(|pair| pair[0].digest != pair[1].digest));
}

#[test]
fn killed_at_any_call_it_has_moved_or_not() {
    let Scratch { path: all, .. } = &scratch();
    let origin = all.join("origin");
    fs::create_dir(&origin).unwrap();
    let first = versions(&origin, 2);
    let config = config(&origin, "");
    let registry = registry(&origin);
    promotions(registry.records(), &config, "ann", 0)
        .promote(&first[0], &channel("QA"), Why::Set, None)
        .unwrap();
    let (mut kills, mut states) = (0, [0; 3]);
    for (call, when) in (0..200).flat_map(|call| [(call, "before"), (call, "after")]) {
        let path = all.join(format!("{call}-{when}"));
        copy(&origin, &path);
        let output = promoter(&["die", &call.to_string(), when, path.as_str()]).output().unwrap();
        let records = common::registry(&path);
        let records = records.records();
        // Right after, without any mending: a valid history, and a pointer that names one of its entries.
        let history = records.channel_history(&web(), &channel("QA")).unwrap();
        let pointer = pointed(&path, "QA").unwrap();
        assert!((1..=history.len() as u64).contains(&pointer), "{call} {when}");
        assert!(history.len() as u64 - pointer <= 1, "the pointer is more than one behind");
        assert_eq!(
            records.channel(&web(), &channel("QA")).unwrap().unwrap().digest,
            history.last().unwrap().digest
        );
        states[history.len() - 1] += 1;
        // The next run goes on from there.
        work(records, &config);
        let end: Vec<Digest> = records
            .channel_history(&web(), &channel("QA"))
            .unwrap()
            .iter()
            .map(|record| record.digest)
            .collect();
        assert_eq!(end, [first[0].digest, first[1].digest, first[0].digest], "{call} {when}");
        assert!(records.revocation(&first[1].digest).unwrap().is_some());
        assert!(files(&path, "QA").len() == 3 && pointed(&path, "QA").unwrap() >= 2);
        fs::remove_dir_all(&path).unwrap();
        if String::from_utf8_lossy(&output.stdout).contains("THROUGH") {
            assert!(kills > 20, "only {kills} kills: the sweep did not reach what it is for");
            assert!(states.iter().all(|count| *count > 0), "{states:?}");
            return;
        }
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(output.status.signal(), Some(9), "{call} {when}: {output:?}");
        kills += 1;
    }
    panic!("the work never came to its end");
}

fn copy(from: &Utf8Path, to: &Utf8Path) {
    fs::create_dir_all(to).unwrap();
    for entry in from.read_dir_utf8().unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}
