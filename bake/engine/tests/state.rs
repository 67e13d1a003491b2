//! The journal on files, by one process: what it keeps, who may write, what damage it bears and what it refuses.
#![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

mod common;
#[path = "common/ledger.rs"]
mod ledger;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use common::{Scratch, scratch};
use ledger::{Add, HandClock, Ledger, STACK, add, change, hold, options, stack, store};
use olbake_core::{Digest, canonical};
use olbake_engine::state::{Ending, Fold, HoldOptions, StateError, StateStore, Takeover, Viewed};

async fn read(store: &StateStore, clock: &Arc<HandClock>) -> Result<Option<Viewed<Ledger>>, StateError> {
    store.read(&stack(), &**clock).await
}

fn folded(records: &[Add]) -> Ledger {
    let mut state = Ledger::default();
    records.iter().for_each(|record| state.apply(record).unwrap());
    state
}

/// The files of the stack, by their names below its folder.
fn files(root: &Utf8Path) -> Vec<(String, Utf8PathBuf)> {
    fn walk(at: &Utf8Path, below: &Utf8Path, found: &mut Vec<(String, Utf8PathBuf)>) {
        for entry in at.read_dir_utf8().unwrap() {
            let path = entry.unwrap().into_path();
            if path.is_dir() {
                walk(&path, below, found);
            } else {
                found.push((path.strip_prefix(below).unwrap().to_string(), path));
            }
        }
    }
    let mut found = Vec::new();
    let stack = root.join("state/v1/stacks").join(STACK);
    walk(&stack, &stack, &mut found);
    found.sort();
    found
}

fn file(root: &Utf8Path, name: &str) -> Utf8PathBuf {
    root.join("state/v1/stacks").join(STACK).join(name)
}

#[tokio::test]
async fn what_is_appended_is_there_for_readers_and_the_next_holder() {
    let Scratch { path, .. } = &scratch();
    let (store, clock) = (store(path), Arc::new(HandClock::default()));
    assert!(read(&store, &clock).await.unwrap().is_none());
    assert_eq!(store.stacks().await.unwrap(), Vec::new());

    let held = hold(&store, options(1, &clock)).await.unwrap();
    let first = held.append(add("a", 1)).await.unwrap();
    let viewed = read(&store, &clock).await.unwrap().unwrap();
    assert_eq!((viewed.state, viewed.version, viewed.serial), (folded(&[add("a", 1)]), first, 0));
    assert_eq!(viewed.holder.unwrap().who, "person-1");
    let second = held.append(add("b", 2)).await.unwrap();
    assert_eq!(held.version(), second);
    assert_eq!(held.state().await.unwrap(), folded(&[add("a", 1), add("b", 2)]));
    let closed = held.close("2 created").await.unwrap();
    assert_eq!((closed.version, closed.serial, closed.problems), (second, 1, Vec::new()));
    assert!(matches!(held.append(add("c", 1)).await.unwrap_err(), StateError::Closed { .. }));
    assert!(held.is_lost());

    let held = hold(&store, options(2, &clock)).await.unwrap();
    assert_eq!(held.version(), second);
    assert_eq!(held.state().await.unwrap(), folded(&[add("a", 1), add("b", 2)]));
    // Nothing was changed, so there is nothing to remember.
    assert_eq!(held.close("nothing to do").await.unwrap().serial, 1);
    let history = store.history(&stack()).await.unwrap();
    assert_eq!(history.len(), 1);
    assert_eq!((history[0].summary.as_str(), history[0].ending), ("2 created", Ending::Closed));
    assert_eq!(store.stacks().await.unwrap(), [stack()]);
}

#[tokio::test]
async fn a_record_that_does_not_fit_is_not_written_and_ends_the_hold() {
    let Scratch { path, .. } = &scratch();
    let (store, clock) = (store(path), Arc::new(HandClock::default()));
    let held = hold(&store, options(1, &clock)).await.unwrap();
    held.append(add("a", 1)).await.unwrap();
    let rejected = held.append(add("a", 0)).await.unwrap_err();
    assert!(matches!(rejected, StateError::Rejected { .. }), "{rejected}");
    let broken = held.append(add("a", 1)).await.unwrap_err();
    assert!(broken.to_string().contains("nothing is added to `a`"), "{broken}");
    assert_eq!(read(&store, &clock).await.unwrap().unwrap().state, folded(&[add("a", 1)]));
}

#[tokio::test]
async fn appends_that_wait_share_a_slot() {
    let Scratch { path, .. } = &scratch();
    let (store, clock) = (store(path), Arc::new(HandClock::default()));
    let held = Arc::new(hold(&store, options(1, &clock)).await.unwrap());
    let appends = (0..200).map(|number| {
        let held = held.clone();
        tokio::spawn(async move { held.append(add(&format!("n{number:03}"), 1)).await.unwrap() })
    });
    let appends: Vec<_> = appends.collect();
    for append in appends {
        append.await.unwrap();
    }
    held.close("done").await.unwrap();
    let slots = files(path).iter().filter(|(name, _)| name.starts_with("j/")).count();
    assert!(slots < 100, "200 records took {slots} slots");
    assert_eq!(read(&store, &clock).await.unwrap().unwrap().state.records, 200);
}

#[tokio::test]
async fn a_stack_that_is_held_is_refused_until_its_lease_ends_or_it_is_taken() {
    let Scratch { path, .. } = &scratch();
    let (store, clock) = (store(path), Arc::new(HandClock::default()));
    let first = hold(&store, options(1, &clock)).await.unwrap();
    first.append(add("a", 1)).await.unwrap();
    let busy = hold(&store, options(2, &clock)).await.unwrap_err();
    let StateError::Busy { holder, .. } = &busy else { panic!("{busy}") };
    assert_eq!((holder.who.as_str(), holder.since), ("person-1", options(1, &clock).holder.since));
    assert!(busy.to_string().contains("person-1 on far (process 1, `olbake deploy`)"), "{busy}");

    clock.advance(Duration::from_secs(20));
    first.renew().await.unwrap();
    clock.advance(Duration::from_secs(20));
    first.permit().unwrap();
    assert!(matches!(hold(&store, options(2, &clock)).await, Err(StateError::Busy { .. })));
    clock.advance(Duration::from_secs(11));
    assert!(matches!(first.permit(), Err(StateError::Expired { .. })));

    let second = hold(&store, options(2, &clock)).await.unwrap();
    assert_eq!(second.state().await.unwrap(), folded(&[add("a", 1)]));
    let lost = first.append(add("a", 1)).await.unwrap_err();
    assert!(lost.to_string().contains("taken over by person-2"), "{lost}");
    assert!(matches!(first.close("done").await, Err(StateError::Lost { .. })));
    assert!(matches!(first.renew().await, Err(StateError::Lost { .. })));
    second.append(add("b", 1)).await.unwrap();

    // The history tells of the one that was interrupted.
    let history = store.history(&stack()).await.unwrap();
    assert_eq!(
        (history[0].ending, history[0].holder.as_ref().unwrap().who.as_str()),
        (Ending::Interrupted, "person-1")
    );

    // By force, while the lease is good: the same.
    let holder = store.unlock::<Ledger>(&stack(), options(3, &clock)).await.unwrap().unwrap();
    assert_eq!(holder.who, "person-2");
    assert!(matches!(second.append(add("b", 1)).await, Err(StateError::Lost { .. })));
    let viewed = read(&store, &clock).await.unwrap().unwrap();
    assert_eq!((viewed.state, viewed.holder), (folded(&[add("a", 1), add("b", 1)]), None));
    assert_eq!(store.unlock::<Ledger>(&stack(), options(4, &clock)).await.unwrap(), None);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_renewed_when_nobody_else_came() {
    let Scratch { path, .. } = &scratch();
    let (store, clock) = (store(path), Arc::new(HandClock::default()));
    let held = hold(&store, options(1, &clock)).await.unwrap();
    clock.advance(Duration::from_secs(100));
    held.append(add("a", 1)).await.unwrap();
    held.permit().unwrap();
    assert!(matches!(hold(&store, options(2, &clock)).await, Err(StateError::Busy { .. })));
}

#[tokio::test]
async fn who_waits_gets_the_stack_when_it_is_free() {
    let Scratch { path, .. } = &scratch();
    let (store, clock) = (store(path), Arc::new(HandClock::default()));
    let first = hold(&store, options(1, &clock)).await.unwrap();
    let waiting = HoldOptions { takeover: Takeover::Wait(Duration::from_secs(10)), ..options(2, &clock) };
    let second = tokio::spawn({
        let store = store.clone();
        async move { hold(&store, waiting).await.map(|held| held.version()) }
    });
    let version = first.append(add("a", 1)).await.unwrap();
    first.close("done").await.unwrap();
    assert_eq!(second.await.unwrap().unwrap(), version);
}

#[tokio::test]
async fn a_long_log_becomes_a_snapshot_of_the_same_version_and_state() {
    let Scratch { path, .. } = &scratch();
    let (store, clock) = (store(path), Arc::new(HandClock::default()));
    let records: Vec<Add> = (0..400).map(|number| add(&format!("{}-{number}", "x".repeat(150)), 1)).collect();
    let held = Arc::new(hold(&store, options(1, &clock)).await.unwrap());
    for record in &records {
        held.append(record.clone()).await.unwrap();
    }
    let before = read(&store, &clock).await.unwrap().unwrap();
    let closed = held.close("done").await.unwrap();
    assert_eq!(closed.problems, Vec::<String>::new());
    let after = read(&store, &clock).await.unwrap().unwrap();
    assert_eq!((after.version, &after.state), (before.version, &before.state));
    assert_eq!(after.state, folded(&records));

    let digest = Digest::of(canonical::to_string(&folded(&records)).as_bytes());
    let snapshots: Vec<_> = files(path).into_iter().filter(|(name, _)| name.starts_with("snap/")).collect();
    assert_eq!(
        snapshots.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        [format!("snap/{}.json.zst", digest.hex())]
    );

    // A short log after it stays a log.
    change(&store, options(2, &clock), &[add("y", 1)]).await;
    assert_eq!(files(path).iter().filter(|(name, _)| name.starts_with("snap/")).count(), 1);
    let next = read(&store, &clock).await.unwrap().unwrap();
    assert_eq!((next.state.records, next.serial), (401, 2));
}

#[tokio::test]
async fn a_state_that_cannot_be_right_is_no_snapshot_and_is_not_lost() {
    let Scratch { path, .. } = &scratch();
    let (store, clock) = (store(path), Arc::new(HandClock::default()));
    let held = hold(&store, options(1, &clock)).await.unwrap();
    held.append(add("wrong", 1)).await.unwrap();
    for number in 0..10 {
        held.append(add(&format!("{}-{number}", "x".repeat(10_000)), 1)).await.unwrap();
    }
    assert_eq!(held.close("done").await.unwrap().problems, ["`wrong` cannot be"]);
    assert_eq!(read(&store, &clock).await.unwrap().unwrap().state.records, 11);
    assert_eq!(files(path).iter().filter(|(name, _)| name.starts_with("snap/")).count(), 0);
}

/// A stack whose first hold was closed with a snapshot and whose second was interrupted after two slots.
async fn interrupted(path: &Utf8Path, clock: &Arc<HandClock>) -> (Vec<Add>, Digest, Digest) {
    let store = store(path);
    let mut records: Vec<Add> = (0..7).map(|n| add(&format!("{}-{n}", "x".repeat(10_000)), 1)).collect();
    change(&store, options(1, clock), &records).await;
    let held = hold(&store, options(2, clock)).await.unwrap();
    let before = held.append(add("a", 1)).await.unwrap();
    let last = held.append(add("b", 2)).await.unwrap();
    records.extend([add("a", 1), add("b", 2)]);
    clock.advance(Duration::from_secs(60));
    (records, before, last)
}

#[tokio::test]
async fn a_last_record_that_was_cut_short_does_not_count_and_every_flipped_bit_is_refused() {
    let Scratch { path, .. } = &scratch();
    let clock = Arc::new(HandClock::default());
    let (records, before, last) = interrupted(path, &clock).await;
    let (store, slot) = (store(path), file(path, "j/00000002/00000001"));
    let whole = fs::read(&slot).unwrap();
    for length in 0..whole.len() {
        fs::write(&slot, &whole[..length]).unwrap();
        let viewed = read(&store, &clock).await.unwrap().unwrap();
        assert_eq!((viewed.version, viewed.state.records), (before, 8), "cut to {length} bytes");
    }
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&slot, &flipped).unwrap();
        let error = read(&store, &clock).await.unwrap_err();
        assert!(
            matches!(&error, StateError::Damaged { object, .. } if *object == slot),
            "bit {bit}: {error}"
        );
    }
    fs::write(&slot, &whole).unwrap();
    let viewed = read(&store, &clock).await.unwrap().unwrap();
    assert_eq!((viewed.version, viewed.state), (last, folded(&records)));
}

#[tokio::test]
async fn holders_go_on_after_a_record_that_was_cut_short_and_remember_that_it_does_not_count() {
    for length in [0, 5, 40, 90, 200] {
        let Scratch { path, .. } = &scratch();
        let clock = Arc::new(HandClock::default());
        let (mut records, before, _) = interrupted(path, &clock).await;
        let (store, slot) = (store(path), file(path, "j/00000002/00000001"));
        let whole = fs::read(&slot).unwrap();
        fs::write(&slot, &whole[..length]).unwrap();
        let held = hold(&store, options(3, &clock)).await.unwrap();
        assert_eq!(held.version(), before);
        held.append(add("c", 3)).await.unwrap();
        held.close("done").await.unwrap();
        let last = records.len() - 1;
        records[last] = add("c", 3);
        assert_eq!(read(&store, &clock).await.unwrap().unwrap().state, folded(&records));
        // It was sealed as not counting: now it may not come back.
        fs::write(&slot, &whole).unwrap();
        let error = read(&store, &clock).await.unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. }), "{error}");
    }
}

#[tokio::test]
async fn damage_elsewhere_is_refused_by_name() {
    let Scratch { path, .. } = &scratch();
    let clock = Arc::new(HandClock::default());
    let (_, _, version) = interrupted(path, &clock).await;
    let store = store(path);
    let all: Vec<_> = files(path).into_iter().filter(|(name, _)| !name.starts_with("hist/")).collect();
    assert_eq!(all.len(), 1 + 1 + 8 + 2, "{all:?}");
    let last = file(path, "j/00000002/00000001");
    for (name, damaged) in all.iter().filter(|(_, damaged)| *damaged != last) {
        let whole = fs::read(damaged).unwrap();
        let folded = name.starts_with("j/00000001/");
        let step = (whole.len() / 40).max(1);
        let cuts = (0..whole.len()).step_by(step).map(|length| whole[..length].to_vec());
        let flips = (0..whole.len()).step_by(step).map(|at| {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            flipped
        });
        for bytes in cuts.chain(flips) {
            fs::write(damaged, &bytes).unwrap();
            match read(&store, &clock).await {
                // The snapshot holds what these held; and not every bit of a compressed file matters.
                Ok(viewed) => {
                    assert!(folded || name.starts_with("snap/"), "{name}");
                    assert_eq!(viewed.unwrap().version, version, "{name}");
                }
                Err(StateError::Damaged { object, .. }) => assert_eq!(object, *damaged, "{name}"),
                Err(error) => panic!("{name}: {error}"),
            }
        }
        fs::remove_file(damaged).unwrap();
        match read(&store, &clock).await {
            Ok(None) => assert_eq!(name, "HEAD"),
            Ok(viewed) => assert!(folded && viewed.unwrap().state.records == 9, "{name}"),
            Err(StateError::Missing { object, .. }) => assert_eq!(object, *damaged, "{name}"),
            Err(error) => panic!("{name}: {error}"),
        }
        if !folded {
            let others = || files(path).into_iter().filter(|(name, _)| name != "HEAD");
            let before: Vec<_> = others().collect();
            let head = fs::read(file(path, "HEAD"));
            let error = hold(&store, options(3, &clock)).await.unwrap_err();
            assert!(matches!(error, StateError::Missing { .. }), "{name}: {error}");
            assert!(others().eq(before), "{name}");
            if let Ok(head) = head {
                fs::write(file(path, "HEAD"), head).unwrap();
            }
        }
        fs::write(damaged, &whole).unwrap();
    }
    assert_eq!(hold(&store, options(4, &clock)).await.unwrap().state().await.unwrap().records, 9);
}

#[tokio::test]
async fn a_sealed_epoch_that_lost_its_end_is_noticed() {
    let Scratch { path, .. } = &scratch();
    let (store, clock) = (store(path), Arc::new(HandClock::default()));
    change(&store, options(1, &clock), &[add("a", 1), add("b", 1)]).await;
    fs::remove_file(file(path, "j/00000001/00000002")).unwrap();
    let error = read(&store, &clock).await.unwrap_err();
    assert!(error.to_string().contains("epoch 1 of `applications.hello.QA` was sealed"), "{error}");
    fs::remove_file(file(path, "j/00000001/00000001")).unwrap();
    assert!(matches!(read(&store, &clock).await, Err(StateError::Missing { .. })));
}

#[tokio::test]
async fn what_an_append_writes_does_not_grow_with_the_state() {
    let mut written = Vec::new();
    for size in [100_u64, 4000] {
        let Scratch { path, .. } = &scratch();
        let (store, clock) = (store(path), Arc::new(HandClock::default()));
        let held = Arc::new(hold(&store, options(1, &clock)).await.unwrap());
        let appends: Vec<_> = (0..size)
            .map(|number| {
                let held = held.clone();
                tokio::spawn(async move { held.append(add(&format!("resource-{number}"), 1)).await.unwrap() })
            })
            .collect();
        for append in appends {
            append.await.unwrap();
        }
        held.close("made").await.unwrap();
        let total = |path| files(path).iter().map(|(_, path)| fs::metadata(path).unwrap().len()).sum::<u64>();
        let before = total(path);
        change(&store, options(2, &clock), &[add("one-more", 1)]).await;
        written.push(total(path) - before);
    }
    assert!(written[1] <= written[0] + 64, "{written:?}");
}
