//! The registry: versions exist whole or not at all, and what needs them keeps their blocks.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use common::{Scratch, disk_of, packs, plan, publish, registry, scratch};
use olbake_core::Digest;
use olbake_engine::cache::Cache;
use olbake_engine::gc::{self, GcOptions, Kind};
use olbake_engine::registry::places::{EC2, PLACE_SCHEMA, Place};
use olbake_engine::registry::{Registry, RegistryError};
use olbake_engine::store::StoreError;
use proptest::prelude::*;

#[tokio::test]
async fn a_published_version_is_found_in_every_way() {
    let Scratch { path, .. } = &scratch();
    let (web, map) = publish(&registry(path), path, "web", &[1, 2], 1, None);
    let (large, _) = publish(&registry(path), path, "web/large", &[1, 2, 3], 2, Some(web.digest));
    let (newer, _) = publish(&registry(path), path, "web", &[1, 4], 3, None);
    // Another process finds it.
    let registry = registry(path);
    assert_eq!(registry.by_key(&web.key).await.unwrap(), Some(web.clone()));
    assert_eq!(registry.by_key(&Digest::of(b"no such key")).await.unwrap(), None);
    assert_eq!(registry.by_digest(&large.digest).await.unwrap(), Some(large.clone()));
    assert_eq!(registry.map(&web.map).await.unwrap(), map);
    assert_eq!(registry.plan(&web).await.unwrap(), Some(plan("web", "web 1")));
    assert_eq!(registry.layer(&web.sealed_key).await.unwrap(), Some(map));
    assert_eq!(registry.lineage(&large).await.unwrap(), vec![web.clone()]);
    let all = registry.versions(None).await.unwrap();
    assert_eq!(all, [web.clone(), large.clone(), newer.clone()]);
    assert_eq!(registry.versions(Some(&"web".parse().unwrap())).await.unwrap().len(), 3);
    let images: Vec<String> = registry.records().images().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(images, ["web", "web/large"]);

    for (reference, expect) in [
        ("web".to_owned(), &newer),
        ("web/large".to_owned(), &large),
        (format!("web@{}", &web.digest.hex()[..10]), &web),
        (format!("web/large@{}", large.digest), &large),
        (large.digest.to_string(), &large),
        (format!("sha256:{}", newer.digest.short().to_uppercase()), &newer),
    ] {
        assert_eq!(registry.resolve(&reference).await.unwrap(), *expect, "{reference}");
    }
    for (reference, expect) in [
        ("wbe", "no version of `wbe` is registered; did you mean `web`?"),
        ("web/lagre", "no version of `web/lagre` is registered; did you mean `web/large`?"),
        ("wbe@1234", "no version of `wbe` is registered; did you mean `web`?"),
        ("sha256:000000", "no version `sha256:000000` is registered"),
        ("Web!", "`Web!` names no version: write `web`, `web/large`, `web@DIGEST` or `sha256:DIGEST`"),
    ] {
        assert_eq!(registry.resolve(reference).await.unwrap_err().to_string(), expect);
    }
}

#[test]
fn a_start_that_several_versions_share_is_ambiguous() {
    let Scratch { path, .. } = &scratch();
    let registry = registry(path);
    publish(&registry, path, "web", &[1], 1, None);
    let at = path.join("registry/v1/versions/web/-");
    let digits = ["abcd1".to_owned() + &"0".repeat(59), "abcd2".to_owned() + &"0".repeat(59)];
    for digits in &digits {
        fs::write(at.join(format!("{digits}.json")), "{}").unwrap();
    }
    let error = registry.records().resolve("web@abcd").unwrap_err();
    let expect = "`web@abcd` is the start of several versions' digests: web@abcd10000000, web@abcd20000000";
    assert_eq!(error.to_string(), expect);
    assert!(matches!(registry.records().resolve("web@abcd1"), Err(RegistryError::Torn { .. })));
}

#[test]
fn a_torn_or_edited_record_is_named() {
    let Scratch { path, .. } = &scratch();
    let (version, _) = publish(&registry(path), path, "web", &[1], 1, None);
    let record = path.join(format!("registry/v1/versions/web/-/{}.json", version.digest.hex()));
    let whole = fs::read_to_string(&record).unwrap();
    let edited = whole.replace("\"component\":\"caddy\"", "\"component\":\"nginx\"");
    assert_ne!(edited, whole);
    for damaged in [&whole[..whole.len() / 2], "", &edited] {
        fs::write(&record, damaged).unwrap();
        let error = registry(path).records().by_key(&version.key).unwrap_err();
        let RegistryError::Torn { object, .. } = &error else { panic!("{error:?}") };
        assert_eq!(object, record.as_str());
        assert!(error.to_string().ends_with("remove it and bake again"), "{error}");
        assert!(gc::plan(registry(path).records(), &cache(path), &GcOptions::default()).is_err());
    }
    // Doing as it says helps: the key has no version any more.
    fs::remove_file(&record).unwrap();
    assert_eq!(registry(path).records().by_key(&version.key).unwrap(), None);
    // The same text gives the same version.
    fs::write(&record, &whole).unwrap();
    assert_eq!(registry(path).records().by_key(&version.key).unwrap(), Some(version.clone()));

    let map = path.join(format!("registry/v1/maps/{}.json.zst", version.map.hex()));
    fs::write(&map, b"torn").unwrap();
    let error = registry(path).records().map(&version.map).unwrap_err();
    assert!(matches!(&error, RegistryError::Torn { object, .. } if object == map.as_str()), "{error:?}");
}

#[test]
fn a_record_of_a_later_olbake_is_refused_clearly() {
    let Scratch { path, .. } = &scratch();
    let (version, _) = publish(&registry(path), path, "web", &[1], 1, None);
    let pointer = path.join(format!("registry/v1/keys/{}.json", version.key.hex()));
    let later = fs::read_to_string(&pointer).unwrap().replace("\"schema\":1", "\"schema\":2");
    fs::write(&pointer, later).unwrap();
    let error = registry(path).records().by_key(&version.key).unwrap_err();
    assert!(error.to_string().ends_with("has form 2, this olbake knows 1: use a newer one"), "{error}");
}

#[test]
fn the_newest_version_stays_the_head_whoever_comes_last() {
    let Scratch { path, .. } = &scratch();
    let registry = registry(path);
    std::thread::scope(|scope| {
        for second in 1..=8 {
            let registry = &registry;
            scope.spawn(move || publish(registry, path, "web", &[1, second as u8], second, None));
        }
    });
    let head = registry.records().head(&"web".parse().unwrap()).unwrap().unwrap();
    assert_eq!(head.created, "2026-01-01T00:00:08Z");
    assert_eq!(registry.records().versions(None).unwrap().len(), 8);
}

#[test]
fn other_urls_are_refused() {
    let Scratch { path, .. } = &scratch();
    for url in ["s3://bucket/x", "file://", "registry"] {
        assert!(matches!(Registry::open(url, path), Err(RegistryError::BadUrl { .. })), "{url}");
    }
}

fn cache(path: &camino::Utf8Path) -> Cache {
    Cache::open(path.join("cache"), None).unwrap()
}

fn old_too(keep: Option<usize>) -> GcOptions {
    GcOptions { keep, younger: Duration::ZERO, ..GcOptions::default() }
}

#[derive(Clone, Debug)]
struct Baked {
    image: usize,
    seeds: Vec<u8>,
    on_last: bool,
}

fn bakes() -> impl Strategy<Value = Vec<Baked>> {
    let bake = (0_usize..3, prop::collection::vec(0_u8..12, 1..5), any::<bool>())
        .prop_map(|(image, seeds, on_last)| Baked { image, seeds, on_last });
    prop::collection::vec(bake, 1..9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn what_is_kept_keeps_its_blocks_and_the_rest_goes(bakes in bakes(), keep in prop::option::of(1_usize..3)) {
        let Scratch { path, .. } = &scratch();
        let images = ["base", "web", "web/large"];
        let mut all: Vec<(olbake_engine::registry::Version, olbake_core::blockmap::BlockMap)> = Vec::new();
        {
            let registry = registry(path);
            for (second, bake) in bakes.iter().enumerate() {
                let parent = all.last().filter(|_| bake.on_last).map(|(version, _)| version.digest);
                all.push(publish(&registry, path, images[bake.image], &bake.seeds, second, parent));
            }
            // A layer of a bake that failed.
            disk_of(&path.join("disk"), &[30, 31]);
            let (map, _) = registry.records().write_disk(&path.join("disk"), &|_| {}).unwrap();
            registry.records().put_layer(&Digest::of(b"failed"), &map).unwrap();
            prop_assert!(matches!(
                gc::apply(common::registry(path).records(), &cache(path), &old_too(keep)),
                Err(RegistryError::Busy { .. })
            ), "collected under a bake");
        }

        let registry = registry(path);
        let expected = gc::plan(registry.records(), &cache(path), &old_too(keep)).unwrap();
        let done = gc::apply(registry.records(), &cache(path), &old_too(keep)).unwrap();
        prop_assert_eq!(&done, &expected);

        let left: BTreeSet<Digest> = registry.records().versions(None).unwrap().iter().map(|v| v.digest).collect();
        let mut newest: BTreeMap<String, usize> = BTreeMap::new();
        for (version, map) in all.iter().rev() {
            let rank = newest.entry(version.image_ref().to_string()).or_default();
            *rank += 1;
            if keep.is_none_or(|keep| *rank <= keep) {
                prop_assert!(left.contains(&version.digest));
            }
            let found = registry.records().by_key(&version.key).unwrap();
            prop_assert_eq!(found.is_some(), left.contains(&version.digest));
            if let Some(found) = found {
                registry.records().blocks().verify(map, &|_| {}).unwrap();
                prop_assert_eq!(&registry.records().map(&found.map).unwrap(), map);
                if let Some(parent) = version.parent {
                    prop_assert!(left.contains(&parent), "a parent went");
                }
            }
            if *rank == 1 {
                prop_assert!(registry.records().layer(&version.sealed_key).unwrap().is_some());
                let head = registry.records().head(&version.image_ref()).unwrap().unwrap();
                prop_assert_eq!(head.digest, version.digest);
            }
        }
        prop_assert_eq!(registry.records().layer(&Digest::of(b"failed")).unwrap(), None);

        // What is left is what is needed, except for packs that are more than half needed.
        drop(registry);
        let registry = common::registry(path);
        let again = gc::plan(registry.records(), &cache(path), &old_too(keep)).unwrap();
        prop_assert_eq!(again.garbage, vec![]);
    }
}

#[test]
fn young_layers_stay_for_the_next_bake() {
    let Scratch { path, .. } = &scratch();
    disk_of(&path.join("disk"), &[1, 2]);
    let map = registry(path).records().write_disk(&path.join("disk"), &|_| {}).unwrap().0;
    registry(path).records().put_layer(&Digest::of(b"failed"), &map).unwrap();
    let registry = registry(path);
    let done = gc::apply(registry.records(), &cache(path), &GcOptions::default()).unwrap();
    assert_eq!(done.garbage, []);
    let done = gc::apply(registry.records(), &cache(path), &old_too(None)).unwrap();
    let kinds: Vec<Kind> = done.garbage.iter().map(|garbage| garbage.kind).collect();
    assert_eq!(kinds, [Kind::Layer, Kind::Map, Kind::Pack]);
    assert!(done.bytes() > 1000);
    assert_eq!(packs(&path.join("registry")).len(), 0);
}

#[test]
fn repair_gives_up_what_is_corrupt_so_that_it_is_baked_again() {
    use std::os::unix::fs::FileExt;
    let Scratch { path, .. } = &scratch();
    let (web, web_map) = publish(&registry(path), path, "web", &[1, 2, 3], 1, None);
    let (base, base_map) = publish(&registry(path), path, "base", &[2, 3, 4], 2, None);
    let bad = web_map.blocks[&0];
    for pack in packs(&path.join("registry")) {
        // The first frame of the pack that web's first block is in.
        if !fs::read(&pack).unwrap().windows(32).any(|window| window == bad.as_bytes()) {
            continue;
        }
        fs::File::options().write(true).open(&pack).unwrap().write_all_at(b"\xff\xff\xff\xff", 3000).unwrap();
    }
    assert!(matches!(
        registry(path).records().blocks().verify(&web_map, &|_| {}),
        Err(StoreError::CorruptBlock { block, .. }) if block == bad
    ));
    let options = GcOptions { repair: true, ..GcOptions::default() };
    let registry = registry(path);
    let done = gc::apply(registry.records(), &cache(path), &options).unwrap();
    assert!(done.garbage.iter().any(|garbage| garbage.reason.contains(&bad.to_string())), "{done:?}");
    assert_eq!(registry.records().by_key(&web.key).unwrap(), None);
    assert_eq!(registry.records().layer(&web.sealed_key).unwrap(), None);
    // The version's record is history and stays; what is sound stays in use.
    assert!(registry.records().by_digest(&web.digest).unwrap().is_some());
    assert_eq!(registry.records().by_key(&base.key).unwrap(), Some(base));
    registry.records().blocks().verify(&base_map, &|_| {}).unwrap();
    // Baked again, it is whole again.
    publish(&registry, path, "web", &[1, 2, 3], 1, None);
    assert_eq!(registry.records().by_key(&web.key).unwrap(), Some(web));
    registry.records().blocks().verify(&web_map, &|_| {}).unwrap();
}

#[test]
fn lost_blocks_are_noticed_without_looking_for_them() {
    let Scratch { path, .. } = &scratch();
    let (web, _) = publish(&registry(path), path, "web", &[1, 2, 3], 1, None);
    fs::remove_file(&packs(&path.join("registry"))[0]).unwrap();
    let registry = registry(path);
    assert_eq!(registry.records().by_key(&web.key).unwrap(), None);
    assert_eq!(registry.records().layer(&web.sealed_key).unwrap(), None);
}

#[test]
fn where_a_version_is_is_written_down_once_and_is_forgotten_on_request() {
    let Scratch { path, .. } = &scratch();
    let registry = registry(path);
    let records = registry.records();
    let (version, _) = publish(&registry, path, "web", &[1], 1, None);
    let place = |region: &str, id: &str| Place {
        schema: PLACE_SCHEMA,
        version: version.digest,
        image: version.image_ref(),
        kind: EC2.to_owned(),
        region: region.to_owned(),
        owner: None,
        id: id.to_owned(),
        name: "olbake/web".to_owned(),
        snapshot: "snap-1".to_owned(),
        created: olbake_core::time::Timestamp::from_seconds(1),
    };
    let first = place("eu-west-1", "ami-1");
    assert_eq!(records.put_place(&first).unwrap(), first);
    assert_eq!(records.put_place(&place("eu-west-1", "ami-2")).unwrap(), first, "the first one stands");
    let other = records.put_place(&place("us-east-1", "ami-3")).unwrap();
    assert_eq!(records.places(&version.digest).unwrap(), [first.clone(), other.clone()]);
    assert_eq!(records.place(&version.digest, EC2, "eu-west-1").unwrap(), Some(first.clone()));
    assert_eq!(records.place(&version.digest, EC2, "eu-west-2").unwrap(), None);
    assert!(records.remove_place(&first).unwrap() && !records.remove_place(&first).unwrap());
    assert_eq!(records.all_places().unwrap(), [other]);
    // What was copied to another's name is not believed.
    let at = |region| path.join(format!("registry/v1/places/{}/ec2/{region}.json", version.digest.hex()));
    fs::copy(at("us-east-1"), at("eu-west-1")).unwrap();
    let error = records.place(&version.digest, EC2, "eu-west-1").unwrap_err();
    assert!(matches!(error, RegistryError::TornPlace { .. }), "{error:?}");
}
