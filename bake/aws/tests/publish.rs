//! Publishing over the EBS direct API: what is sent, what is found again, what is left after a fault.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod common;
#[path = "../../engine/tests/common/mod.rs"]
mod disks;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::wire::{Asked, Fault, Wire};
use common::{Moto, REGION, account};
use disks::{Scratch, registry, scratch};
use olbake_aws::publish::{self, Course, Desk, Happened, Publish, PublishError, Share, VERSION_TAG};
use olbake_core::Digest;
use olbake_core::time::Timestamp;
use olbake_engine::registry::places::EC2;
use olbake_engine::registry::{Registry, Version};

struct Setting {
    _moto: Moto,
    wire: Wire,
    scratch: Scratch,
    registry: Registry,
    desk: Desk,
    runtime: tokio::runtime::Runtime,
}

impl Setting {
    fn start() -> Option<Self> {
        let moto = Moto::start()?;
        let (wire, scratch) = (Wire::to(moto.port), scratch());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let account = runtime.block_on(account(&wire.endpoint()));
        let registry = registry(&scratch.path);
        let journals = scratch.path.join("journals");
        let desk = Desk { account, registry: registry.clone(), journals };
        Some(Self { _moto: moto, wire, scratch, registry, desk, runtime })
    }

    fn version(&self, seeds: &[u8], second: usize) -> Version {
        disks::publish(&self.registry, &self.scratch.path, "web", seeds, second, None).0
    }

    fn plan(&self, publish: &Publish) -> Result<publish::PublishPlan, PublishError> {
        self.runtime.block_on(publish::plan(&self.desk, publish))
    }

    fn publish(
        &self,
        publish: &Publish,
    ) -> Result<Vec<olbake_engine::registry::places::Place>, PublishError> {
        let plan = self.plan(publish)?;
        self.runtime.block_on(publish::carry_out(
            &self.desk,
            publish,
            &plan,
            &(Arc::new(|_: &str, _| {}) as _),
        ))
    }

    fn images(&self) -> Vec<aws_sdk_ec2::types::Image> {
        let client = aws_sdk_ec2::Client::new(self.desk.account.config());
        let call = client.describe_images().owners("self").send();
        self.runtime.block_on(call).unwrap().images.unwrap()
    }
}

fn wish(version: &Version) -> Publish {
    Publish {
        version: version.clone(),
        regions: vec![REGION.to_owned()],
        kms_key: None,
        share: Vec::new(),
        deprecate: None,
        copy: false,
        now: Timestamp::from_seconds(1_800_000_000),
    }
}

fn puts(asked: &[Asked]) -> BTreeMap<u32, &Asked> {
    let number = |asked: &Asked| asked.path.split_once("/blocks/")?.1.split('?').next()?.parse().ok();
    asked
        .iter()
        .filter(|asked| asked.method == "PUT")
        .filter_map(|asked| Some((number(asked)?, asked)))
        .collect()
}

/// Checks what moto does not: each block is what its checksum says, and the end names their count and sum.
fn check_blocks(asked: &[Asked], expect: &[u32]) {
    let puts = puts(asked);
    assert_eq!(puts.keys().copied().collect::<Vec<_>>(), expect);
    let mut sums = Vec::new();
    for put in puts.values() {
        let digest = Digest::of(&put.body);
        assert_eq!(put.header("x-amz-checksum"), Some(STANDARD.encode(digest.as_bytes()).as_str()));
        assert_eq!(put.header("x-amz-checksum-algorithm"), Some("SHA256"));
        assert_eq!((put.header("x-amz-data-length"), put.body.len()), (Some("524288"), 524_288));
        sums.extend_from_slice(digest.as_bytes());
    }
    let complete = asked.iter().rfind(|asked| asked.path.contains("/snapshots/completion/")).unwrap();
    assert_eq!(complete.header("x-amz-changedblockscount"), Some(expect.len().to_string().as_str()));
    let sum = STANDARD.encode(Digest::of(&sums).as_bytes());
    assert_eq!(complete.header("x-amz-checksum"), Some(sum.as_str()));
    assert_eq!(complete.header("x-amz-checksum-aggregation-method"), Some("LINEAR"));
}

fn starts(asked: &[Asked]) -> Vec<serde_json::Value> {
    let starts = asked.iter().filter(|asked| asked.method == "POST" && asked.path == "/snapshots");
    starts.map(|asked| serde_json::from_slice(&asked.body).unwrap()).collect()
}

#[test]
fn a_version_is_put_whole_and_the_next_as_what_differs_from_it() {
    let Some(setting) = Setting::start() else { return };
    let first = setting.version(&[1, 2, 0, 4], 1);
    let plan = setting.plan(&wish(&first)).unwrap();
    let Course::Upload { parent: None, blocks: 3, resumes: None, .. } = &plan.regions[0].course else {
        panic!("{plan:?}")
    };
    let [place] = setting.publish(&wish(&first)).unwrap().try_into().unwrap();
    let asked = setting.wire.asked();
    check_blocks(&asked, &[0, 1, 3]);
    let [start] = starts(&asked).try_into().unwrap();
    assert!(start["ClientToken"].as_str().is_some_and(|token| token.len() > 20), "{start}");
    assert!(start["Tags"].as_array().unwrap().iter().any(|tag| tag["Key"] == VERSION_TAG), "{start}");
    assert_eq!((place.kind.as_str(), place.region.as_str()), (EC2, REGION));
    let [image] = setting.images().try_into().unwrap();
    assert_eq!((image.image_id(), image.name()), (Some(place.id.as_str()), Some(place.name.as_str())));

    // Of what is there nothing is done again.
    assert!(setting.plan(&wish(&first)).unwrap().is_empty());
    assert_eq!(setting.publish(&wish(&first)).unwrap(), std::slice::from_ref(&place));
    assert_eq!(starts(&setting.wire.asked()).len(), 0);

    // A block came, one went.
    let second = setting.version(&[1, 2, 7, 0], 2);
    let plan = setting.plan(&wish(&second)).unwrap();
    let Course::Upload { parent: Some(parent), blocks: 2, .. } = &plan.regions[0].course else {
        panic!("{plan:?}")
    };
    assert_eq!((&parent.snapshot, parent.version), (&place.snapshot, first.digest));
    setting.wire.asked();
    setting.publish(&wish(&second)).unwrap();
    let asked = setting.wire.asked();
    let [start] = starts(&asked).try_into().unwrap();
    assert_eq!(start["ParentSnapshotId"], place.snapshot.as_str());
    check_blocks(&asked, &[2, 3]);
    assert!(puts(&asked)[&3].body.iter().all(|byte| *byte == 0), "what went is put as zeros");

    // Where all differs, a parent saves nothing.
    let third = setting.version(&[11, 12, 13], 3);
    let plan = setting.plan(&wish(&third)).unwrap();
    assert!(matches!(plan.regions[0].course, Course::Upload { parent: None, blocks: 3, .. }), "{plan:?}");
}

#[test]
fn a_publish_that_was_cut_short_goes_on_where_it_was() {
    let Some(setting) = Setting::start() else { return };
    let seeds: Vec<u8> = (1..=200).collect();
    let version = setting.version(&seeds, 1);
    let count = AtomicU32::new(0);
    setting.wire.decide(move |asked| {
        match asked.path.contains("/blocks/") && count.fetch_add(1, Ordering::SeqCst) >= 150 {
            true => Fault::Refused(403, "AccessDeniedException"),
            false => Fault::None,
        }
    });
    let error = setting.publish(&wish(&version)).unwrap_err();
    let PublishError::Aws { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("`ebs:PutSnapshotBlock` is denied"), "{source}");
    let before = setting.wire.asked();
    setting.wire.decide(|_| Fault::None);

    let plan = setting.plan(&wish(&version)).unwrap();
    let Course::Upload { resumes: Some(snapshot), blocks, token, .. } = &plan.regions[0].course else {
        panic!("{plan:?}")
    };
    assert!((50..200).contains(blocks), "{blocks}");
    assert_eq!(starts(&before)[0]["ClientToken"], token.as_str());
    let [place] = setting.publish(&wish(&version)).unwrap().try_into().unwrap();
    assert_eq!(place.snapshot, *snapshot);
    let asked = setting.wire.asked();
    assert_eq!(starts(&asked).len(), 0, "a second snapshot was started");
    assert_eq!(puts(&asked).len() as u64, *blocks);
    let complete = asked.iter().find(|asked| asked.path.contains("/snapshots/completion/")).unwrap();
    assert_eq!(complete.header("x-amz-changedblockscount"), Some("200"));
    assert_eq!(
        std::fs::read_dir(&setting.desk.journals)
            .unwrap()
            .filter(|entry| {
                entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "journal")
            })
            .count(),
        0
    );
}

#[test]
fn throttled_failing_and_lost_calls_are_tried_again_in_one_place() {
    let Some(setting) = Setting::start() else { return };
    let seeds: Vec<u8> = (1..=60).collect();
    let version = setting.version(&seeds, 1);
    let count = AtomicU32::new(0);
    setting.wire.decide(move |asked| {
        if !asked.path.contains("/blocks/") {
            return Fault::None;
        }
        match count.fetch_add(1, Ordering::SeqCst) {
            0..=9 => Fault::Refused(400, "RequestThrottledException"),
            10..=14 => Fault::Refused(500, "InternalServerException"),
            15..=19 => Fault::AnswerLost,
            20..=24 => Fault::Lost,
            25 => Fault::Refused(404, "ResourceNotFoundException"),
            26 => Fault::Refused(400, "ValidationException"),
            _ => Fault::None,
        }
    });
    setting.publish(&wish(&version)).unwrap();
    let asked = setting.wire.asked();
    assert_eq!(asked.iter().filter(|asked| asked.path.contains("/blocks/")).count(), 60 + 27);
    check_blocks(&asked, &(0..60).collect::<Vec<u32>>());
}

#[test]
fn an_image_that_nobody_wrote_down_is_found_by_its_name() {
    let Some(setting) = Setting::start() else { return };
    let version = setting.version(&[1, 2], 1);
    let [place] = setting.publish(&wish(&version)).unwrap().try_into().unwrap();
    assert!(setting.registry.records().remove_place(&place).unwrap());
    // moto leaves out the tags of a registration.
    let client = aws_sdk_ec2::Client::new(setting.desk.account.config());
    let tag = aws_sdk_ec2::types::Tag::builder().key(VERSION_TAG).value(version.digest.to_string()).build();
    setting.runtime.block_on(client.create_tags().resources(&place.id).tags(tag).send()).unwrap();
    let plan = setting.plan(&wish(&version)).unwrap();
    assert_eq!(plan.regions[0].course, Course::Adopt { image: place.id.clone() });
    setting.wire.asked();
    assert_eq!(setting.publish(&wish(&version)).unwrap()[0].id, place.id);
    assert_eq!(starts(&setting.wire.asked()).len(), 0);

    // An image that was removed by hand is made again.
    setting.runtime.block_on(client.deregister_image().image_id(&place.id).send()).unwrap();
    let plan = setting.plan(&wish(&version)).unwrap();
    assert_eq!(plan.regions[0].stale.as_ref().map(|stale| stale.id.as_str()), Some(place.id.as_str()));
    let [again] = setting.publish(&wish(&version)).unwrap().try_into().unwrap();
    assert_ne!(again.id, place.id);
}

#[test]
fn all_regions_are_published_and_shared() {
    let Some(setting) = Setting::start() else { return };
    let version = setting.version(&[1, 2, 3], 1);
    let regions = ["us-east-1", "eu-west-1"].map(str::to_owned);
    let publish = Publish {
        regions: regions.to_vec(),
        share: vec![Share::Account("123456789012".to_owned())],
        ..wish(&version)
    };
    let heard = Arc::new(Mutex::new(Vec::new()));
    let plan = setting.plan(&publish).unwrap();
    let listener: publish::Listener = {
        let heard = heard.clone();
        Arc::new(move |region: &str, happened: Happened| {
            if let Happened::Blocks { done, total } = happened
                && done == total
            {
                heard.lock().unwrap().push(region.to_owned());
            }
        })
    };
    let places =
        setting.runtime.block_on(publish::carry_out(&setting.desk, &publish, &plan, &listener)).unwrap();
    assert_eq!(places.iter().map(|place| place.region.clone()).collect::<Vec<_>>(), regions);
    let mut heard = heard.lock().unwrap().clone();
    heard.sort();
    assert_eq!(heard, ["eu-west-1", "us-east-1"]);
    assert_eq!(setting.registry.records().places(&version.digest).unwrap().len(), 2);
    let bodies: Vec<String> =
        setting.wire.asked().iter().map(|asked| String::from_utf8_lossy(&asked.body).into_owned()).collect();
    let said =
        |action: &str| bodies.iter().filter(|body| body.contains(&format!("Action={action}&"))).count();
    assert_eq!((said("ModifyImageAttribute"), said("ModifySnapshotAttribute")), (2, 2));
    let register = bodies.iter().find(|body| body.contains("Action=RegisterImage&")).unwrap();
    for part in [
        "BootMode=uefi",
        "EnaSupport=true",
        "ImdsSupport=v2.0",
        "SriovNetSupport=simple",
        "Architecture=x86_64",
    ] {
        assert!(register.contains(part), "{part} in {register}");
    }
}

#[test]
fn a_name_that_is_taken_is_said() {
    let Some(setting) = Setting::start() else { return };
    let version = setting.version(&[1], 1);
    let name = publish::image_name(&version.image_ref(), &version.digest);
    let client = aws_sdk_ec2::Client::new(setting.desk.account.config());
    setting.runtime.block_on(client.register_image().name(&name).send()).unwrap();
    let error = setting.publish(&wish(&version)).unwrap_err();
    assert!(matches!(&error, PublishError::NameTaken { name: taken, .. } if *taken == name), "{error:?}");
}
