//! The block store: what goes in comes out, whatever happens on the way.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use camino::Utf8Path;
use common::{Piece, Scratch, Tmpfs, blocks, bytes, disk_of, packs, process, scratch, write_pieces};
use olbake_core::blockmap::BLOCK_SIZE;
use olbake_engine::store::StoreError;
use olbake_engine::store::blocks::Seed;
use olbake_engine::store::file::FileStore;
use olbake_engine::store::object::{Etag, ObjectKey, ObjectStore, Put};
use proptest::prelude::*;

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = (0..24 * BLOCK_SIZE, 1_usize..1_200_000, 0_u8..6).prop_map(|(at, length, seed)| Piece {
        at,
        length,
        seed,
    });
    prop::collection::vec(piece, 0..6)
}

fn same(a: &Utf8Path, b: &Utf8Path) -> bool {
    fs::read(a).unwrap() == fs::read(b).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_disk_comes_back_as_it_was(pieces in pieces(), changes in pieces(), size in 1_u64..24) {
        let Scratch { path, .. } = &scratch();
        let (disk, copy, fresh) = (path.join("disk"), path.join("copy"), path.join("fresh"));
        write_pieces(&disk, size, &pieces);
        let store = blocks(&path.join("store"));
        let (map, stats) = store.write_disk(&disk, &|_| {}).unwrap();
        prop_assert_eq!(stats.blocks, map.blocks.len() as u64);
        store.read_disk(&map, &copy, None, &|_| {}).unwrap();
        prop_assert!(same(&disk, &copy));
        let allocated = fs::metadata(&copy).unwrap().blocks() * 512;
        prop_assert!(allocated <= (map.blocks.len() as u64 + 1) * BLOCK_SIZE, "{} is not sparse", allocated);

        // What changed is stored as a difference, and is the same as if it had been stored alone.
        write_pieces(&disk, size, &changes);
        let before = Seed { map: &map, disk: &copy };
        let (changed, stats) = store.write_disk_like(&disk, Some(before), &|_| {}).unwrap();
        prop_assert!(stats.new_blocks <= changed.changed_since(&map).len() as u64);
        let (alone, _) = blocks(&path.join("alone")).write_disk(&disk, &|_| {}).unwrap();
        prop_assert_eq!(&changed, &alone);
        let read = store.read_disk(&changed, &fresh, Some(before), &|_| {}).unwrap();
        prop_assert!(same(&disk, &fresh));
        let shared = changed.blocks.iter().filter(|(n, d)| map.blocks.get(n) == Some(d)).count();
        prop_assert_eq!(read.from_seed, shared as u64);
        prop_assert_eq!(store.write_disk(&disk, &|_| {}).unwrap().1.new_blocks, 0);
    }
}

#[test]
fn an_odd_size_is_rounded_up_with_zeros() {
    let Scratch { path, .. } = &scratch();
    let disk = path.join("disk");
    fs::write(&disk, bytes(3, 700_001)).unwrap();
    let store = blocks(&path.join("store"));
    let (map, _) = store.write_disk(&disk, &|_| {}).unwrap();
    assert_eq!((map.size, map.blocks.len()), (2 * BLOCK_SIZE, 2));
    store.read_disk(&map, &path.join("copy"), None, &|_| {}).unwrap();
    let copy = fs::read(path.join("copy")).unwrap();
    assert_eq!(copy[..700_001], bytes(3, 700_001));
    assert!(copy[700_001..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_seed_that_is_not_what_its_map_says_is_not_believed() {
    let Scratch { path, .. } = &scratch();
    let (disk, seed) = (path.join("disk"), path.join("seed"));
    disk_of(&disk, &[1, 2, 3]);
    let store = blocks(&path.join("store"));
    let (map, _) = store.write_disk(&disk, &|_| {}).unwrap();
    disk_of(&seed, &[1, 9, 3]);
    let seed = Seed { map: &map, disk: &seed };
    let stats = store.read_disk(&map, &path.join("copy"), Some(seed), &|_| {}).unwrap();
    assert_eq!(stats.from_seed, 2);
    assert!(same(&disk, &path.join("copy")));
}

#[test]
fn progress_ends_at_the_end() {
    let Scratch { path, .. } = &scratch();
    disk_of(&path.join("disk"), &[1, 2, 0, 4]);
    let last = AtomicUsize::new(0);
    let hear = |progress: olbake_engine::store::blocks::Progress| {
        assert_eq!(progress.total, 3);
        last.fetch_max(progress.done as usize, Ordering::Relaxed);
    };
    let store = blocks(&path.join("store"));
    let (map, _) = store.write_disk(&path.join("disk"), &hear).unwrap();
    assert_eq!(last.swap(0, Ordering::Relaxed), 3);
    store.verify(&map, &hear).unwrap();
    assert_eq!(last.into_inner(), 3);
}

#[test]
fn a_corrupt_block_is_named_and_mended_by_removing_its_pack() {
    let Scratch { path, .. } = &scratch();
    let (disk, root, copy) = (path.join("disk"), path.join("store"), path.join("copy"));
    disk_of(&disk, &[1, 2, 3]);
    let (map, _) = blocks(&root).write_disk(&disk, &|_| {}).unwrap();
    let [pack] = packs(&root).try_into().unwrap();
    File::options().write(true).open(&pack).unwrap().write_all_at(b"\xff\xff\xff\xff", 3000).unwrap();

    let store = blocks(&root);
    let error = store.read_disk(&map, &copy, None, &|_| {}).unwrap_err();
    let StoreError::CorruptBlock { block, object, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*block, object.as_str()), (map.blocks[&0], pack.as_str()));
    assert!(error.to_string().contains("bake again"), "{error}");
    assert!(!copy.exists());
    assert_eq!(path.read_dir_utf8().unwrap().count(), 2, "a half-read disk was left");
    assert!(matches!(store.verify(&map, &|_| {}), Err(StoreError::CorruptBlock { .. })));

    fs::remove_file(&pack).unwrap();
    assert_eq!(store.missing(&map).unwrap().len(), 3);
    assert!(matches!(store.verify(&map, &|_| {}), Err(StoreError::MissingBlock { number: 0, .. })));
    assert_eq!(store.write_disk(&disk, &|_| {}).unwrap().1.new_blocks, 3);
    store.verify(&map, &|_| {}).unwrap();
}

#[test]
fn a_pack_that_is_cut_short_or_renamed_is_named() {
    let Scratch { path, .. } = &scratch();
    disk_of(&path.join("disk"), &[1, 2, 3]);
    for (number, damage) in ["cut", "empty", "renamed"].into_iter().enumerate() {
        let root = path.join(format!("store-{number}"));
        let (map, _) = blocks(&root).write_disk(&path.join("disk"), &|_| {}).unwrap();
        let [pack] = packs(&root).try_into().unwrap();
        let damaged = match damage {
            "renamed" => {
                let other = pack.with_file_name(format!("{}.pack", "0".repeat(64)));
                fs::rename(&pack, &other).unwrap();
                other
            }
            _ => {
                let length = if damage == "cut" { fs::metadata(&pack).unwrap().len() - 10 } else { 0 };
                File::options().write(true).open(&pack).unwrap().set_len(length).unwrap();
                pack
            }
        };
        let error = blocks(&root).verify(&map, &|_| {}).unwrap_err();
        let StoreError::CorruptPack { object, .. } = &error else { panic!("{damage}: {error:?}") };
        assert_eq!(object, damaged.as_str());
    }
}

#[test]
fn writers_of_the_same_blocks_do_not_disturb_each_other() {
    let Scratch { path, .. } = &scratch();
    let (disk, root) = (path.join("disk"), path.join("store"));
    disk_of(&disk, &[1, 2, 3, 1, 0, 5, 6, 7]);
    let maps: Vec<_> = std::thread::scope(|scope| {
        let write = || blocks(&root).write_disk(&disk, &|_| {}).unwrap().0;
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(write)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(maps.iter().all(|map| *map == maps[0]));
    blocks(&root).verify(&maps[0], &|_| {}).unwrap();
}

#[test]
fn compare_and_swap_loses_no_update() {
    let Scratch { path, .. } = &scratch();
    let key: ObjectKey = "v1/counter".parse().unwrap();
    let winners = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let store = FileStore::open(path.join("store")).unwrap();
                if store.put(&key, b"0", Put::IfAbsent).unwrap().stored() {
                    winners.fetch_add(1, Ordering::Relaxed);
                }
                for _ in 0..15 {
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
    let store = FileStore::open(path.join("store")).unwrap();
    assert_eq!(store.get(&key).unwrap().unwrap().bytes, b"90");
    assert!(!store.put(&key, b"x", Put::IfMatch(Etag::of(b"89"))).unwrap().stored());
    assert!(store.delete(&key).unwrap());
    assert!(!store.delete(&key).unwrap());
    assert!(!store.put(&key, b"x", Put::IfMatch(Etag::of(b"90"))).unwrap().stored());
}

#[test]
fn listings_have_names_that_start_so_and_no_others() {
    let Scratch { path, .. } = &scratch();
    let store = FileStore::open(path.join("store")).unwrap();
    for key in ["v1/a/b", "v1/a/c.json", "v1/ab", "v2/x"] {
        store.put(&key.parse().unwrap(), key.as_bytes(), Put::Always).unwrap();
    }
    let mut upload = store.upload().unwrap();
    upload.write_all(b"on its way").unwrap();
    let list = |prefix| -> Vec<String> {
        store.list(prefix).unwrap().iter().map(|listed| listed.key.to_string()).collect()
    };
    assert_eq!(list("v1/a"), ["v1/a/b", "v1/a/c.json", "v1/ab"]);
    assert_eq!(list("v1/a/"), ["v1/a/b", "v1/a/c.json"]);
    assert_eq!(list("").len(), 4);
    assert_eq!(list("v3/"), Vec::<String>::new());
    let range = store.get_range(&"v1/ab".parse().unwrap(), 3, 10).unwrap().unwrap();
    assert_eq!(range, b"ab");
    drop(upload);
    assert_eq!(path.join("store/.tmp").read_dir_utf8().unwrap().count(), 0);
}

#[test]
fn a_killed_writer_leaves_a_sound_store() {
    let Scratch { path, .. } = &scratch();
    let root = path.join("registry");
    let mut interrupted = 0;
    for round in 0..12_u64 {
        let mut child = process("writer").arg(path).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 + 37 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        interrupted += root.join(".tmp").read_dir_utf8().map_or(0, Iterator::count);

        let registry = common::registry(path);
        assert_eq!(root.join(".tmp").read_dir_utf8().unwrap().count(), 0, "the sweep left something");
        let store = FileStore::open(&root).unwrap();
        for layer in store.list("v1/layers/").unwrap() {
            let key =
                olbake_core::Digest::from_hex(layer.key.file_name().split('.').next().unwrap()).unwrap();
            let map = registry.records().layer(&key).unwrap().expect("a remembered layer has all its blocks");
            registry.records().blocks().verify(&map, &|_| {}).unwrap();
        }
        disk_of(&path.join("after"), &[1, 7, 4]);
        let (map, _) = registry.records().write_disk(&path.join("after"), &|_| {}).unwrap();
        registry.records().blocks().verify(&map, &|_| {}).unwrap();
    }
    println!("{interrupted} temporary files were swept");
    assert!(
        !FileStore::open(&root).unwrap().list("v1/layers/").unwrap().is_empty(),
        "no child came to write"
    );
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let Scratch { path, .. } = &scratch();
    let (disk, full) = (path.join("disk"), path.join("full"));
    let Some(_mounted) = Tmpfs::mount(&full, "2m") else { return };
    // Random enough not to be squeezed into two mebibytes.
    let mut file = File::create(&disk).unwrap();
    for seed in 1..=12_u64 {
        let mut noise = Vec::new();
        let mut digest = olbake_core::Digest::of(&seed.to_le_bytes());
        while noise.len() < BLOCK_SIZE as usize {
            noise.extend_from_slice(digest.as_bytes());
            digest = olbake_core::Digest::of(digest.as_bytes());
        }
        file.write_all(&noise).unwrap();
    }
    let store = blocks(&full.join("store"));
    let error = store.write_disk(&disk, &|_| {}).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("no space is left"), "{error}");
    assert_eq!(full.join("store/.tmp").read_dir_utf8().unwrap().count(), 0);
    assert_eq!(packs(&full.join("store")).len(), 0);

    // Where there is room again, it goes on.
    disk_of(&disk, &[1, 2]);
    let (map, _) = store.write_disk(&disk, &|_| {}).unwrap();
    store.verify(&map, &|_| {}).unwrap();

    // Reading into a full file system leaves nothing either.
    disk_of(&disk, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let elsewhere = blocks(&path.join("store"));
    let (map, _) = elsewhere.write_disk(&disk, &|_| {}).unwrap();
    let error = elsewhere.read_disk(&map, &full.join("copy"), None, &|_| {}).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(full.read_dir_utf8().unwrap().count(), 1, "a half-read disk was left");
}
