//! Objects on S3: what holds for files holds here, whatever the network does.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod common;
#[path = "../../engine/tests/common/mod.rs"]
mod disks;
#[path = "../../engine/tests/common/ledger.rs"]
mod ledger;
#[path = "../../engine/tests/common/promoting.rs"]
mod promoting;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use camino::Utf8Path;
use common::wire::{Asked, Fault, Wire};
use common::{Moto, account};
use disks::{Scratch, bytes, publish, scratch};
use ledger::{HandClock, add, change, hold, options, stack};
use olbake_aws::s3::Bucket;
use olbake_aws::{Account, AwsErrorKind};
use olbake_core::promotion::Why;
use olbake_engine::registry::Registry;
use olbake_engine::state::{StateError, StateStore, Takeover};
use olbake_engine::store::StoreError;
use olbake_engine::store::blocks::BlockStore;
use olbake_engine::store::object::{Etag, ObjectKey, ObjectStore, Put, PutOutcome};
use promoting::{channel, config, promotions, web};

/// A server, a wire to it, and a bucket.
struct Cloud {
    moto: Moto,
    wire: Wire,
    scratch: Scratch,
}

impl Cloud {
    fn start() -> Option<Self> {
        let moto = Moto::start()?;
        let cloud = Self { wire: Wire::to(moto.port), moto, scratch: scratch() };
        cloud.runtime().block_on(async {
            let client = aws_sdk_s3::Client::from_conf(
                aws_sdk_s3::config::Builder::from(cloud.moto.account().await.config())
                    .force_path_style(true)
                    .build(),
            );
            client.create_bucket().bucket("images").send().await.unwrap();
        });
        Some(cloud)
    }

    fn runtime(&self) -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn bucket_at(&self, url: &str, account: &Account) -> Bucket {
        Bucket::of(account, url.parse().unwrap(), &self.path().join("spool")).unwrap()
    }

    /// A bucket of its own connections, over the wire.
    fn bucket(&self) -> Bucket {
        let account = self.runtime().block_on(account(&self.wire.endpoint()));
        self.bucket_at("s3://images/team", &account)
    }

    fn path(&self) -> &Utf8Path {
        &self.scratch.path
    }
}

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

/// As blocking callers see it.
fn blocking(bucket: &Bucket) -> &dyn ObjectStore {
    bucket
}

#[test]
fn compare_and_swap_loses_no_update() {
    let Some(cloud) = Cloud::start() else { return };
    let key = key("v1/counter");
    let winners = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let bucket = cloud.bucket();
                let store = blocking(&bucket);
                if store.put(&key, b"0", Put::IfAbsent).unwrap().stored() {
                    winners.fetch_add(1, Ordering::Relaxed);
                }
                for _ in 0..6 {
                    loop {
                        let object = store.get(&key).unwrap().unwrap();
                        let count: u32 = String::from_utf8(object.bytes).unwrap().parse().unwrap();
                        let next = (count + 1).to_string();
                        if store.put(&key, next.as_bytes(), Put::IfMatch(object.etag)).unwrap().stored() {
                            break;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(winners.into_inner(), 1);
    let bucket = cloud.bucket();
    let store = blocking(&bucket);
    let object = store.get(&key).unwrap().unwrap();
    assert_eq!(object.bytes, b"24");
    assert!(!store.put(&key, b"x", Put::IfMatch(Etag("\"no\"".into()))).unwrap().stored());
    assert!(store.delete(&key).unwrap());
    assert!(!store.delete(&key).unwrap());
    assert!(!store.put(&key, b"x", Put::IfMatch(object.etag)).unwrap().stored());
    assert_eq!(store.get(&key).unwrap(), None);
}

#[test]
fn listings_and_ranges_are_those_of_files() {
    let Some(cloud) = Cloud::start() else { return };
    let bucket = cloud.bucket();
    let store = blocking(&bucket);
    for name in ["v1/a/b", "v1/a/c.json", "v1/ab", "v2/x"] {
        store.put(&key(name), name.as_bytes(), Put::Always).unwrap();
    }
    let list = |prefix| -> Vec<String> {
        store.list(prefix).unwrap().iter().map(|listed| listed.key.to_string()).collect()
    };
    assert_eq!(list("v1/a"), ["v1/a/b", "v1/a/c.json", "v1/ab"]);
    assert_eq!(list("v1/a/"), ["v1/a/b", "v1/a/c.json"]);
    assert_eq!(list("").len(), 4);
    assert_eq!(list("v3/"), Vec::<String>::new());
    let range = |name, offset, length| store.get_range(&key(name), offset, length).unwrap();
    assert_eq!(range("v1/ab", 3, 10).unwrap(), b"ab");
    assert_eq!(range("v1/ab", 0, 0), Some(Vec::new()));
    assert_eq!(range("v1/ab", 99, 5), Some(Vec::new()));
    assert_eq!((range("v1/none", 0, 0), range("v1/none", 0, 5)), (None, None));
    assert_eq!(store.place(&key("v1/ab")), "s3://images/team/v1/ab");
}

#[test]
fn more_than_a_page_is_listed() {
    let Some(cloud) = Cloud::start() else { return };
    let bucket = cloud.bucket_at("s3://images/many", &cloud.runtime().block_on(cloud.moto.account()));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 1100 {
                        break;
                    }
                    blocking(&bucket).put(&key(&format!("v1/{number:05}")), b"x", Put::Always).unwrap();
                }
            });
        }
    });
    let listed = blocking(&bucket).list("v1/").unwrap();
    assert_eq!(listed.len(), 1100);
    assert!(listed.is_sorted_by(|a, b| a.key < b.key));
    let after = cloud.runtime().block_on(async {
        olbake_engine::state::Objects::list(&bucket, "v1/", Some(&key("v1/01090"))).await.unwrap()
    });
    assert_eq!(after.len(), 9);
}

#[test]
fn disks_come_back_and_large_packs_go_in_parts() {
    let Some(cloud) = Cloud::start() else { return };
    let bucket = cloud.bucket();
    let (disk, copy) = (cloud.path().join("disk"), cloud.path().join("copy"));
    // Noise does not compress: more than one part.
    let noise: Vec<u8> = (0..24 * 16384_u32)
        .flat_map(|number| *olbake_core::Digest::of(&number.to_le_bytes()).as_bytes())
        .collect();
    std::fs::write(&disk, [noise, bytes(3, 700_001)].concat()).unwrap();
    let store = BlockStore::new(Arc::new(bucket.clone()));
    let (map, stats) = store.write_disk(&disk, &|_| {}).unwrap();
    assert_eq!(stats.new_blocks, map.blocks.len() as u64);
    let asked = cloud.wire.asked();
    let parts = asked.iter().filter(|asked| asked.path.contains("partNumber=")).count();
    assert!(parts > 1, "{parts}");
    let complete = asked.iter().find(|asked| asked.method == "POST" && asked.path.contains("uploadId="));
    assert_eq!(complete.unwrap().header("if-none-match"), Some("*"));
    let other = BlockStore::new(Arc::new(cloud.bucket()));
    other.read_disk(&map, &copy, None, &|_| {}).unwrap();
    let (disk, mut copied) = (std::fs::read(&disk).unwrap(), std::fs::read(&copy).unwrap());
    copied.truncate(disk.len());
    assert!(disk == copied);
    assert_eq!(other.write_disk(&cloud.path().join("disk"), &|_| {}).unwrap().1.new_blocks, 0);
    assert_eq!(bucket.abort_unfinished(Duration::ZERO).unwrap(), 0, "an upload was left open");
    assert_eq!(cloud.path().join("spool").read_dir_utf8().unwrap().count(), 0);
}

#[test]
fn an_upload_that_fails_or_is_dropped_leaves_nothing() {
    let Some(cloud) = Cloud::start() else { return };
    let bucket = cloud.bucket();
    let noise = vec![7_u8; 20 << 20];
    let write = || {
        let mut upload = blocking(&bucket).upload().unwrap();
        upload.write_all(&noise).unwrap();
        upload
    };
    drop(write());
    cloud.wire.decide(|asked| match asked.path.contains("partNumber=2") {
        true => Fault::Refused(403, "AccessDenied"),
        false => Fault::None,
    });
    let error = write().commit(&key("v1/packs/x.pack")).unwrap_err();
    assert!(chain(&error).contains("`s3:PutObject` is denied"), "{}", chain(&error));
    assert_eq!(blocking(&bucket).list("v1/").unwrap(), []);
    assert_eq!(bucket.abort_unfinished(Duration::ZERO).unwrap(), 0);
    // A killed writer's parts are given up by a later one.
    cloud.wire.decide(|asked| match asked.method == "DELETE" || asked.path.contains("partNumber=2") {
        true => Fault::Refused(403, "AccessDenied"),
        false => Fault::None,
    });
    write().commit(&key("v1/packs/x.pack")).unwrap_err();
    cloud.wire.decide(|_| Fault::None);
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(bucket.abort_unfinished(Duration::ZERO).unwrap(), 1);
    write().commit(&key("v1/packs/x.pack")).unwrap();
    write().commit(&key("v1/packs/x.pack")).unwrap();
    assert_eq!(blocking(&bucket).list("v1/").unwrap()[0].size, noise.len() as u64);
}

/// Loses the answer of, or the question itself of, the first of these, so often.
fn lose(wire: &Wire, fault: Fault, times: u32, which: impl Fn(&Asked) -> bool + Send + 'static) {
    let left = AtomicU32::new(times);
    wire.decide(move |asked| {
        let hit = which(asked)
            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if hit { fault } else { Fault::None }
    });
}

#[test]
fn a_lost_answer_is_found_out_and_never_taken_for_anothers_write() {
    let Some(cloud) = Cloud::start() else { return };
    let bucket = cloud.bucket();
    let store = blocking(&bucket);
    let is_put = |asked: &Asked| asked.method == "PUT";
    for (number, fault) in
        [Fault::AnswerLost, Fault::Lost, Fault::Refused(500, "InternalError")].into_iter().enumerate()
    {
        let name = key(&format!("v1/object-{number}"));
        lose(&cloud.wire, fault, 1, is_put);
        let PutOutcome::Stored(etag) = store.put(&name, b"one", Put::IfAbsent).unwrap() else {
            panic!("{fault:?}: our own write was taken for another's")
        };
        assert_eq!(store.get(&name).unwrap().unwrap().etag, etag);
        lose(&cloud.wire, fault, 1, is_put);
        assert!(store.put(&name, b"two", Put::IfMatch(etag.clone())).unwrap().stored(), "{fault:?}");
        lose(&cloud.wire, fault, 1, is_put);
        assert!(!store.put(&name, b"three", Put::IfMatch(etag)).unwrap().stored(), "{fault:?}");
        lose(&cloud.wire, fault, 1, is_put);
        assert!(!store.put(&name, b"four", Put::IfAbsent).unwrap().stored(), "{fault:?}");
        assert_eq!(store.get(&name).unwrap().unwrap().bytes, b"two");
    }
    // Where it stays unknown, that is said.
    lose(&cloud.wire, Fault::Lost, u32::MAX, is_put);
    let error = store.put(&key("v1/never"), b"x", Put::IfAbsent).unwrap_err();
    assert!(matches!(error, StoreError::Unsure { .. }), "{error:?}");
}

#[test]
fn a_lost_answer_to_the_end_of_an_upload_is_found_out() {
    let Some(cloud) = Cloud::start() else { return };
    let bucket = cloud.bucket();
    lose(&cloud.wire, Fault::AnswerLost, 1, |asked| {
        asked.method == "POST" && asked.path.contains("uploadId=")
    });
    let mut upload = blocking(&bucket).upload().unwrap();
    upload.write_all(&vec![1; 9 << 20]).unwrap();
    upload.commit(&key("v1/packs/x.pack")).unwrap();
    assert_eq!(blocking(&bucket).list("v1/").unwrap()[0].size, 9 << 20);
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let Some(cloud) = Cloud::start() else { return };
    let account = cloud.runtime().block_on(cloud.moto.account());
    let missing = cloud.bucket_at("s3://no-such-bucket/x", &account);
    let error = blocking(&missing).get(&key("v1/x")).unwrap_err();
    let StoreError::Remote { help, .. } = &error else { panic!("{error:?}") };
    assert_eq!(help.as_deref(), Some("make it first: aws s3 mb s3://no-such-bucket"));
    assert!(blocking(&missing).list("v1/").is_err());

    let bucket = cloud.bucket();
    let told = |status, code| {
        cloud.wire.decide(move |_| Fault::Refused(status, code));
        let error = blocking(&bucket).list("v1/").unwrap_err();
        let StoreError::Remote { help, .. } = &error else { panic!("{error:?}") };
        (chain(&error), help.clone().unwrap_or_default())
    };
    let (text, help) = told(403, "AccessDenied");
    assert_eq!(text, "cannot list `s3://images/team/v1/`: `s3:ListBucket` is denied: as told");
    assert!(help.contains("lacks `s3:ListBucket`"), "{help}");
    let (text, help) = told(400, "ExpiredToken");
    assert_eq!(
        text,
        "cannot list `s3://images/team/v1/`: the AWS credentials for `s3:ListBucket` have expired"
    );
    assert!(help.contains("aws sso login"), "{help}");
    assert!(told(403, "InvalidAccessKeyId").0.contains("no usable AWS credentials"));
    assert!(told(301, "PermanentRedirect").1.contains("?region=REGION"));

    let nobody = cloud.runtime().block_on(common::account("http://127.0.0.1:1"));
    let error = blocking(&cloud.bucket_at("s3://images/x", &nobody)).get(&key("v1/x")).unwrap_err();
    assert!(chain(&error).contains("AWS cannot be reached for `s3:GetObject`"), "{}", chain(&error));

    let config = aws_config::SdkConfig::builder().build();
    let error = cloud.runtime().block_on(Account::from(config).check("s3:ListBucket")).unwrap_err();
    assert!(error.to_string().contains("no AWS region is set"), "{error}");
    let config = aws_config::SdkConfig::builder().region(aws_config::Region::new("eu-west-1")).build();
    let error = cloud.runtime().block_on(Account::from(config).check("s3:ListBucket")).unwrap_err();
    assert_eq!(error.kind, AwsErrorKind::Credentials);
}

#[test]
fn a_registry_and_its_channels_live_on_s3() {
    let Some(cloud) = Cloud::start() else { return };
    let path = cloud.path();
    let open = || Registry::over(Arc::new(cloud.bucket()), path.join("locks"));
    let registry = open();
    let (first, map) = publish(&registry, path, "web", &[1, 2], 1, None);
    let (second, _) = publish(&registry, path, "web", &[1, 3], 2, Some(first.digest));
    let other = open();
    let records = other.records();
    assert_eq!(records.head(&web()).unwrap().unwrap(), second);
    assert_eq!(records.by_key(&first.key).unwrap().unwrap(), first);
    assert_eq!(records.lineage(&second).unwrap(), std::slice::from_ref(&first));
    records.blocks().verify(&map, &|_| {}).unwrap();
    // Of several who move a channel at the same time one wins, and the history has each entry once.
    let config = config(path, "");
    let qa = channel("QA");
    std::thread::scope(|scope| {
        for version in [&first, &second, &first] {
            let (open, config, qa) = (&open, &config, &qa);
            scope.spawn(move || {
                let registry = open();
                let ann = promotions(registry.records(), config, "ann", 1);
                drop(ann.promote(version, qa, Why::Set, None));
            });
        }
    });
    let history = records.channel_history(&web(), &qa).unwrap();
    assert!(!history.is_empty());
    let sequences: Vec<u64> = history.iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, (1..=history.len() as u64).collect::<Vec<_>>());
    let last = history.last().unwrap().digest;
    assert_eq!(records.channel(&web(), &qa).unwrap().unwrap().digest, last);
}

#[test]
fn a_journal_on_s3_is_sealed_by_whoever_takes_it_over() {
    let Some(cloud) = Cloud::start() else { return };
    let (store, clock) = (StateStore::new(Arc::new(cloud.bucket())), Arc::new(HandClock::default()));
    cloud.runtime().block_on(async {
        change(&store, options(1, &clock), &[add("a", 1), add("b", 2)]).await;
        let stale = hold(&store, options(2, &clock)).await.unwrap();
        stale.append(add("c", 3)).await.unwrap();
        let busy = hold(&store, options(3, &clock)).await.unwrap_err();
        assert!(matches!(busy, StateError::Busy { .. }), "{busy}");
        let forced = olbake_engine::state::HoldOptions { takeover: Takeover::Force, ..options(3, &clock) };
        let held = hold(&store, forced).await.unwrap();
        let lost = stale.append(add("d", 4)).await.unwrap_err();
        assert!(matches!(lost, StateError::Lost { .. }), "{lost}");
        held.append(add("e", 5)).await.unwrap();
        held.close("done").await.unwrap();
        let viewed = store.read::<ledger::Ledger>(&stack(), &*clock).await.unwrap().unwrap();
        let names: Vec<&str> = viewed.state.sums.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "b", "c", "e"]);
        assert_eq!(store.stacks().await.unwrap(), [stack()]);
        assert_eq!(
            store.history(&stack()).await.unwrap().len(),
            3,
            "the hold that was taken over is told of too"
        );
    });
}

#[test]
fn a_journal_on_s3_loses_and_doubles_nothing_whichever_answer_is_lost() {
    let Some(cloud) = Cloud::start() else { return };
    let (runtime, clock) = (cloud.runtime(), Arc::new(HandClock::default()));
    let account = runtime.block_on(account(&cloud.wire.endpoint()));
    for fault in [Fault::AnswerLost, Fault::Lost, Fault::Refused(503, "SlowDown")] {
        for at in 0.. {
            assert!(at < 60, "the questions do not end");
            let bucket = cloud.bucket_at(
                &format!("s3://images/{fault:?}-{at}").to_lowercase().replace(['(', ')', ',', '"', ' '], "-"),
                &account,
            );
            let store = StateStore::new(Arc::new(bucket));
            // The question of this number meets the fault, until there is no such question.
            let (count, hit) = (AtomicU32::new(0), Arc::new(AtomicBool::new(false)));
            let seen = hit.clone();
            cloud.wire.decide(move |_| match count.fetch_add(1, Ordering::SeqCst) == at {
                true => {
                    seen.store(true, Ordering::SeqCst);
                    fault
                }
                false => Fault::None,
            });
            runtime.block_on(change(&store, options(1, &clock), &[add("a", 1), add("a", 2)]));
            cloud.wire.decide(|_| Fault::None);
            let viewed = runtime.block_on(store.read::<ledger::Ledger>(&stack(), &*clock)).unwrap().unwrap();
            assert_eq!((viewed.state.sums["a"], viewed.state.records), (3, 2), "{fault:?} at {at}");
            if !hit.load(Ordering::SeqCst) {
                assert!(at > 5, "{at}");
                break;
            }
        }
    }
}
