//! Disks, plans and versions for the tests of store and registry.
#![allow(dead_code, reason = "each test file uses a part")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::blockmap::{BLOCK_SIZE, BlockMap};
use olbake_core::plan::{Architecture, Base, PLAN_SCHEMA, Plan};
use olbake_engine::event::{CheckResult, LayerOutcome, LayerResult};
use olbake_engine::registry::{Registry, Version};
use olbake_engine::store::blocks::BlockStore;
use olbake_engine::store::file::FileStore;

/// A directory that is removed at the end.
pub(crate) struct Scratch {
    _guard: tempfile::TempDir,
    pub(crate) path: Utf8PathBuf,
}

pub(crate) fn scratch() -> Scratch {
    let guard = tempfile::Builder::new().prefix("store-test-").tempdir_in("/var/tmp").unwrap();
    let path = Utf8PathBuf::from_path_buf(guard.path().to_owned()).unwrap();
    Scratch { _guard: guard, path }
}

pub(crate) fn blocks(root: &Utf8Path) -> BlockStore {
    BlockStore::new(Arc::new(FileStore::open(root).unwrap()))
}

pub(crate) fn registry(root: &Utf8Path) -> Registry {
    Registry::open("file://registry", root).unwrap()
}

/// A process that a test starts: an example, which cargo builds with the tests.
pub(crate) fn process(example: &str) -> Command {
    let folder = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples");
    let program = folder.join(example);
    assert!(program.exists(), "`{}` is built with the tests: cargo test -p olbake-engine", program.display());
    Command::new(program)
}

/// Bytes at a place of a disk.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) at: u64,
    pub(crate) length: usize,
    pub(crate) seed: u8,
}

/// Bytes that compress somewhat, and differ between seeds; seed 0 is zeros.
pub(crate) fn bytes(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 59) as u8).wrapping_mul(7)
    };
    if seed == 0 { vec![0; length] } else { (0..length).map(|_| next()).collect() }
}

/// Makes a sparse disk of whole blocks, or writes over one.
pub(crate) fn write_pieces(disk: &Utf8Path, blocks: u64, pieces: &[Piece]) {
    let file = File::options().create(true).truncate(false).write(true).open(disk).unwrap();
    file.set_len(blocks * BLOCK_SIZE).unwrap();
    for Piece { at, length, seed } in pieces {
        let at = at % (blocks * BLOCK_SIZE);
        let length = (*length).min((blocks * BLOCK_SIZE - at) as usize);
        file.write_all_at(&bytes(*seed, length), at).unwrap();
    }
}

/// A disk with one block of each of these seeds.
pub(crate) fn disk_of(path: &Utf8Path, seeds: &[u8]) {
    let piece = |(number, seed): (usize, &u8)| Piece {
        at: number as u64 * BLOCK_SIZE,
        length: BLOCK_SIZE as usize,
        seed: *seed,
    };
    let pieces: Vec<Piece> = seeds.iter().enumerate().map(piece).filter(|piece| piece.seed != 0).collect();
    write_pieces(path, seeds.len() as u64, &pieces);
}

pub(crate) fn plan(image: &str, key: &str) -> Plan {
    Plan {
        schema: PLAN_SCHEMA,
        image: image.parse().unwrap(),
        architecture: Architecture::Amd64,
        base: Base::Disk { file: "base.raw".into(), sha256: Digest::of(b"base") },
        layers: Vec::new(),
        seal: Vec::new(),
        checks: Vec::new(),
        upgrade: Vec::new(),
        payloads: Default::default(),
        secrets: Default::default(),
        key: Digest::of(key.as_bytes()),
    }
}

/// Registers a version with a disk of these blocks, made at a second of a minute.
pub(crate) fn publish(
    registry: &Registry,
    at: &Utf8Path,
    image: &str,
    seeds: &[u8],
    second: usize,
    parent: Option<Digest>,
) -> (Version, BlockMap) {
    publish_checked(registry, at, image, seeds, second, parent, Vec::new())
}

/// The same, with the ends of its checks.
pub(crate) fn publish_checked(
    registry: &Registry,
    at: &Utf8Path,
    image: &str,
    seeds: &[u8],
    second: usize,
    parent: Option<Digest>,
    checks: Vec<CheckResult>,
) -> (Version, BlockMap) {
    let disk = at.join(format!("disk-{}-{second}", image.replace('/', "-")));
    disk_of(&disk, seeds);
    let (map, _) = registry.records().write_disk(&disk, &|_| {}).unwrap();
    let plan = plan(image, &format!("{image} {second}"));
    let sealed = Digest::of(format!("sealed {image} {second}").as_bytes());
    let layer = LayerResult {
        component: "caddy".into(),
        key: sealed,
        outcome: LayerOutcome::Run,
        seconds: 0.1 + second as f64 / 3.0,
    };
    let now = format!("2026-01-01T00:00:{second:02}Z");
    let version = Version::new(&plan, sealed, parent, &map).with_evidence(&[layer], checks, &now);
    registry.records().put_layer(&sealed, &map).unwrap();
    registry.records().publish(&version, &map, &plan).unwrap();
    std::fs::remove_file(disk).unwrap();
    (version, map)
}

/// The packs of a store.
pub(crate) fn packs(root: &Utf8Path) -> Vec<Utf8PathBuf> {
    let Ok(entries) = root.join("v1/packs").read_dir_utf8() else { return Vec::new() };
    let mut found: Vec<Utf8PathBuf> = entries.map(|entry| entry.unwrap().into_path()).collect();
    found.sort();
    found
}

/// A small file system of its own.
pub(crate) struct Tmpfs(Utf8PathBuf);

impl Tmpfs {
    pub(crate) fn mount(at: &Utf8Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        let mounted = rustix::mount::mount(
            "tmpfs",
            at.as_std_path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            options.as_c_str(),
        );
        match mounted {
            Ok(()) => Some(Self(at.to_owned())),
            Err(error) if std::env::var("OLBAKE_TEST_REQUIRE").is_ok_and(|value| value == "1") => {
                panic!("cannot mount a tmpfs: {error}")
            }
            Err(error) => {
                eprintln!("SKIPPED: cannot mount a tmpfs: {error}; run it as root");
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.as_std_path(), rustix::mount::UnmountFlags::empty()).unwrap();
    }
}
