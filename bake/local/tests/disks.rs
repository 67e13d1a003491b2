//! Disks: their layout, what makes them boot, and their way in and out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to end")]

mod common;

use std::fs;

use camino::Utf8Path;
use common::{Place, assert_clean, base_disk, can_run, host};
use olbake_core::Digest;
use olbake_core::plan::Base;
use olbake_engine::machine::{Builder, MachineError, Snapshot, Substrate};
use olbake_local::{LocalBuilder, export_qcow2, export_tar};

const ESP: std::ops::Range<usize> = 1 << 20..257 << 20;

fn disk_base() -> Base {
    Base::Disk { file: "disk".into(), sha256: Digest::of(b"checked by the caller") }
}

async fn import(place: &Place, file: &Utf8Path) -> Result<Snapshot, MachineError> {
    let (disk, work) = (place.path.join("imported.raw"), place.folder("import"));
    LocalBuilder::new().base(&disk_base(), Some(file), &disk, &work, None, &|_| {}).await
}

fn esp(disk: &Utf8Path) -> Digest {
    Digest::of(&fs::read(disk).unwrap()[ESP])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_base_disk_is_what_firmware_and_kernel_expect() {
    if !can_run(Substrate::Container) {
        return;
    }
    let base = base_disk().await;
    let (ok, report) = host("sgdisk", &["--verify", base.disk.as_str()]);
    assert!(ok && report.contains("No problems found"), "{report}");
    let (_, table) = host("sgdisk", &["--print", base.disk.as_str()]);
    assert!(table.contains("EF00  esp") && table.contains("8304  root"), "{table}");
    assert_clean(&base.disk);
    let image = format!("{}@@1M", base.disk);
    let (ok, entry) = host("mtype", &["-i", &image, "::/loader/entries/olbake.conf"]);
    assert!(ok && entry.contains("root=PARTUUID="), "{entry}");
    let allocated = std::os::unix::fs::MetadataExt::blocks(&base.disk.metadata().unwrap()) * 512;
    assert!(allocated < 700 << 20, "the disk takes {allocated} bytes: it has lost its holes");
}

#[tokio::test(flavor = "multi_thread")]
async fn finishing_is_repeatable_to_the_byte() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (builder, place) = (LocalBuilder::new(), Place::new());
    let disk = builder.copy(&base_disk().await, &place.path.join("disk.raw")).await.unwrap();
    let before = esp(&disk.disk);
    builder.finish(&disk, &place.folder("again")).await.unwrap();
    assert_eq!(esp(&disk.disk), before, "a second time changed something");
    let image = format!("{}@@1M", disk.disk);
    assert!(host("mdel", &["-i", &image, "::/olbake/initrd.img"]).0);
    assert_ne!(esp(&disk.disk), before);
    builder.finish(&disk, &place.folder("anew")).await.unwrap();
    assert_eq!(esp(&disk.disk), before, "made anew, it is another");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_goes_out_and_comes_in_again() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (place, base) = (Place::new(), base_disk().await);
    let file = place.path.join("disk.qcow2");
    export_qcow2(&base.disk, &file).unwrap();
    let imported = import(&place, &file).await.unwrap();
    let same = host("cmp", &[base.disk.as_str(), imported.disk.as_str()]);
    assert!(same.0, "{}", same.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_has_files_and_owners() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (place, base) = (Place::new(), base_disk().await);
    let file = place.path.join("root.tar.zst");
    export_tar(&base.disk, &place.path.join("mounted"), &file).unwrap();
    let (ok, list) = host("tar", &["--zstd", "--numeric-owner", "-tvf", file.as_str()]);
    let shadow = list.lines().find(|line| line.ends_with(" ./etc/shadow"));
    assert!(ok && shadow.is_some_and(|line| line.starts_with("-rw-r----- 0/42 ")), "{shadow:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_disk_is_refused() {
    if !can_run(Substrate::Container) {
        return;
    }
    let place = Place::new();
    let file = place.path.join("not-a-disk");
    fs::write(&file, "no disk at all").unwrap();
    let error = import(&place, &file).await.unwrap_err();
    let MachineError::Disk { path, problem } = &error else { panic!("{error}") };
    assert_eq!(path, &file);
    assert!(problem.contains("GPT"), "{problem}");
    assert!(!place.path.join("imported.raw").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_with_its_path() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (place, base) = (Place::new(), base_disk().await);
    let small = place.folder("small");
    assert!(host("mount", &["-t", "tmpfs", "-o", "size=16M", "tmpfs", small.as_str()]).0);
    let to = small.join("disk.raw");
    let result = LocalBuilder::new().copy(&base, &to).await;
    let left = to.exists();
    assert!(host("umount", &[small.as_str()]).0);
    let error = result.unwrap_err();
    let MachineError::Io { action, path, source } = &error else { panic!("{error}") };
    assert_eq!(
        (action.as_str(), path, source.kind()),
        ("cannot write", &to, std::io::ErrorKind::StorageFull)
    );
    assert!(!left, "half a copy was left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_that_does_not_exist_is_named() {
    if !can_run(Substrate::Container) {
        return;
    }
    let (place, cache) = (Place::new(), common::cache());
    let Base::Debian { suite, mirror, disk_size, .. } = common::base() else { unreachable!() };
    let base = Base::Debian { suite, mirror, disk_size, packages: vec!["olbake-no-such-package".to_owned()] };
    let (disk, work) = (place.path.join("disk.raw"), place.folder("work"));
    let made = LocalBuilder::new().base(&base, None, &disk, &work, Some(&cache), &|_| {}).await;
    let error = made.unwrap_err();
    let MachineError::Command { output, .. } = &error else { panic!("{error}") };
    assert!(output.contains("Unable to locate package olbake-no-such-package"), "{output}");
}
