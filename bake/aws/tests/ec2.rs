//! Publish, import and clean on the test cloud, which checks blocks and keeps parents, tokens and tags as EC2 does.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod common;
#[path = "../../engine/tests/common/mod.rs"]
mod disks;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use camino::Utf8PathBuf;
use common::REGION;
use common::cloud::TestCloud;
use disks::{Scratch, bytes, registry, scratch};
use olbake_aws::Account;
use olbake_aws::gc::{self, GcOptions, Kind};
use olbake_aws::import::import;
use olbake_aws::publish::{self, Course, Desk, Publish, PublishError};
use olbake_core::blockmap::BLOCK_SIZE;
use olbake_core::time::Timestamp;
use olbake_engine::registry::places::Place;
use olbake_engine::registry::{Registry, Version};
use serde_json::json;

const NOW: Timestamp = Timestamp::from_seconds(1_900_000_000);

struct Setting {
    cloud: TestCloud,
    scratch: Scratch,
    registry: Registry,
    account: Account,
    runtime: tokio::runtime::Runtime,
}

impl Setting {
    fn start() -> Option<Self> {
        let cloud = TestCloud::start()?;
        let scratch = scratch();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let account = runtime.block_on(cloud.account());
        let registry = registry(&scratch.path);
        Some(Self { cloud, scratch, registry, account, runtime })
    }

    fn version(&self, seeds: &[u8], second: usize) -> Version {
        disks::publish(&self.registry, &self.scratch.path, "web", seeds, second, None).0
    }

    fn desk(&self) -> Desk {
        Desk {
            account: self.account.clone(),
            registry: self.registry.clone(),
            journals: self.scratch.path.join("journals"),
        }
    }

    fn try_publish(&self, version: &Version) -> Result<Place, PublishError> {
        let publish = Publish {
            version: version.clone(),
            regions: vec![REGION.to_owned()],
            kms_key: None,
            share: Vec::new(),
            deprecate: None,
            copy: false,
            now: NOW,
        };
        let desk = self.desk();
        self.runtime.block_on(async {
            let plan = publish::plan(&desk, &publish).await?;
            let quiet: publish::Listener = Arc::new(|_: &str, _| {});
            Ok(publish::carry_out(&desk, &publish, &plan, &quiet).await?.remove(0))
        })
    }

    fn course(&self, version: &Version) -> Course {
        let publish = Publish {
            version: version.clone(),
            regions: vec![REGION.to_owned()],
            kms_key: None,
            share: Vec::new(),
            deprecate: None,
            copy: false,
            now: NOW,
        };
        self.runtime.block_on(publish::plan(&self.desk(), &publish)).unwrap().regions.remove(0).course
    }

    fn fetch(&self, image: &str, name: &str) -> olbake_aws::import::Imported {
        let bases = self.bases();
        let imported = import(&self.account, &self.registry, image, &bases, name, |_, _| {});
        self.runtime.block_on(imported).unwrap()
    }

    fn bases(&self) -> Utf8PathBuf {
        self.scratch.path.join("bases")
    }

    fn clean(&self, needed: &[&Version], younger: Duration, apply: bool) -> gc::GcPlan {
        let options = GcOptions {
            regions: vec![REGION.to_owned()],
            needed: needed.iter().map(|version| (version.digest, "it is needed".to_owned())).collect(),
            younger,
            now: NOW,
        };
        self.runtime.block_on(async {
            match apply {
                true => gc::apply(&self.account, &self.registry, &options).await.unwrap(),
                false => gc::plan(&self.account, &self.registry, &options).await.unwrap(),
            }
        })
    }

    /// The ids of our images and snapshots.
    fn left(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let client = aws_sdk_ec2::Client::new(self.account.config());
        self.runtime.block_on(async {
            let images = client.describe_images().owners("self").send().await.unwrap();
            let snapshots = client.describe_snapshots().owner_ids("self").send().await.unwrap();
            (
                images.images().iter().map(|image| image.image_id().unwrap().to_owned()).collect(),
                snapshots
                    .snapshots()
                    .iter()
                    .filter(|snapshot| !snapshot.tags().is_empty())
                    .map(|snapshot| snapshot.snapshot_id().unwrap().to_owned())
                    .collect(),
            )
        })
    }

    fn fault(&self, action: &str, skip: u32, times: u32, kind: &serde_json::Value) {
        let mut fault = json!({ "action": action, "skip": skip, "times": times });
        fault.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
        self.cloud.tell("POST", "/_faults", &fault);
    }
}

/// Whether a disk begins with a block of each of these seeds, and goes on with zeros.
fn assert_disk(path: &camino::Utf8Path, seeds: &[u8]) {
    let disk = std::fs::read(path).unwrap();
    let (blocks, rest) = disk.split_at(seeds.len() * BLOCK_SIZE as usize);
    for (number, (block, seed)) in blocks.chunks(BLOCK_SIZE as usize).zip(seeds).enumerate() {
        assert!(block == bytes(*seed, BLOCK_SIZE as usize), "block {number}");
    }
    assert!(rest.iter().all(|byte| *byte == 0));
}

#[test]
fn what_was_published_comes_back_and_only_changes_are_put_and_fetched() {
    let Some(setting) = Setting::start() else { return };
    let first = setting.version(&[1, 2, 3, 0, 5, 6, 7, 8], 1);
    let first = (setting.try_publish(&first).unwrap(), first);
    let imported = setting.fetch(&first.0.id, "ubuntu");
    assert_eq!((imported.fetched, imported.new_blocks), (7, 0), "the store has them already");
    assert_eq!(imported.source.snapshot, first.0.snapshot);
    assert_disk(&imported.file, &[1, 2, 3, 0, 5, 6, 7, 8]);

    // One changed, one came, one went.
    let second = setting.version(&[1, 9, 3, 4, 5, 6, 7, 0], 2);
    assert!(matches!(setting.course(&second), Course::Upload { parent: Some(_), blocks: 3, .. }));
    let second = setting.try_publish(&second).unwrap();
    let imported = setting.fetch(&second.id, "ubuntu");
    assert!(imported.fetched <= 3, "{}", imported.fetched);
    assert_disk(&imported.file, &[1, 9, 3, 4, 5, 6, 7, 0]);
    let sum = olbake_core::Digest::of(&std::fs::read(&imported.file).unwrap());
    assert_eq!(imported.source.sha256, sum);
    // Of what did not change nothing is fetched.
    assert_eq!(setting.fetch(&second.id, "ubuntu").fetched, 0);
    assert_disk(&imported.file, &[1, 9, 3, 4, 5, 6, 7, 0]);
    // The file and what it was made from, and nothing half.
    assert_eq!(std::fs::read_dir(setting.bases()).unwrap().count(), 2);
}

#[test]
fn whatever_call_of_a_publish_is_cut_the_next_run_ends_with_one_image_and_one_snapshot() {
    let Some(setting) = Setting::start() else { return };
    let mut second = 1;
    for action in
        ["StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot", "RegisterImage", "DescribeSnapshots"]
    {
        for kind in
            [json!({ "kind": "cut_after" }), json!({ "kind": "cut_before" }), json!({ "kind": "throttle" })]
        {
            let version = setting.version(&[second as u8, 2, 3], second);
            second += 1;
            let before = setting.left();
            setting.fault(action, 0, 1, &kind);
            // A run may bear the fault or end with an error; the next one goes on from there.
            let place = setting.try_publish(&version).or_else(|_| setting.try_publish(&version)).unwrap();
            setting.cloud.tell("DELETE", "/_faults", &json!({}));
            let after = setting.left();
            let new: Vec<_> = after.0.difference(&before.0).collect();
            assert_eq!(new, [&place.id], "{action} {kind}");
            let new: Vec<_> = after.1.difference(&before.1).collect();
            assert_eq!(new, [&place.snapshot], "{action} {kind}");
        }
    }
}

#[test]
fn cleaning_removes_what_nothing_needs_and_what_a_publish_left() {
    let Some(setting) = Setting::start() else { return };
    let versions: Vec<Version> = (1..=3).map(|second| setting.version(&[second as u8, 9], second)).collect();
    let places: Vec<Place> = versions.iter().map(|version| setting.try_publish(version).unwrap()).collect();
    // An instance runs the second.
    let client = aws_sdk_ec2::Client::new(setting.account.config());
    let run = client.run_instances().image_id(&places[1].id).min_count(1).max_count(1);
    setting.runtime.block_on(run.send()).unwrap();
    // A publish that was given up left a snapshot.
    let lost = setting.version(&[7, 8, 9], 4);
    setting.fault(
        "RegisterImage",
        0,
        99,
        &json!({ "kind": "error", "code": "UnauthorizedOperation", "status": 403 }),
    );
    let error = setting.try_publish(&lost).unwrap_err();
    let PublishError::Aws { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("`ec2:RegisterImage` is denied"), "{source}");
    setting.cloud.tell("DELETE", "/_faults", &json!({}));

    let young = setting.clean(&[&versions[0]], Duration::from_secs(20 * 365 * 24 * 3600), false);
    let ids = |plan: &gc::GcPlan| plan.doomed.iter().map(|doomed| doomed.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&young), [places[2].id.clone()], "a snapshot may be gone on with while it is young");
    let before = setting.left();
    let plan = setting.clean(&[&versions[0]], Duration::ZERO, false);
    assert_eq!(setting.left(), before, "a plan changes nothing");
    let kinds: Vec<Kind> = plan.doomed.iter().map(|doomed| doomed.kind).collect();
    assert_eq!(kinds, [Kind::Image, Kind::Snapshot], "{plan:?}");
    let applied = setting.clean(&[&versions[0]], Duration::ZERO, true);
    assert_eq!(applied.doomed, plan.doomed);
    let (images, snapshots) = setting.left();
    assert_eq!(images, BTreeSet::from([places[0].id.clone(), places[1].id.clone()]));
    assert_eq!(snapshots, BTreeSet::from([places[0].snapshot.clone(), places[1].snapshot.clone()]));
    assert_eq!(setting.registry.records().places(&versions[2].digest).unwrap(), []);
    assert!(setting.clean(&[&versions[0]], Duration::ZERO, true).doomed.is_empty());
    // What was given up is published again from the beginning.
    assert!(matches!(setting.course(&lost), Course::Upload { resumes: None, .. }));
    setting.try_publish(&lost).unwrap();
}
