//! Archives that try to leave their directory: refused by name, with nothing written anywhere.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use olbake_core::operation::{Action, ArchiveFormat};
use olbake_core::report::Outcome;
use support::Machine;
use support::driver::How;
use support::plan::Plan;

/// A tar of raw names, which no library would write.
fn tar(members: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, kind, target) in members {
        let body = if *kind == b'0' { target.as_bytes() } else { b"" };
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(format!("{:011o}", body.len()).as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[148..156].copy_from_slice(b"        ");
        header[156] = *kind;
        if *kind != b'0' {
            header[157..157 + target.len()].copy_from_slice(target.as_bytes());
        }
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A zip of one stored member.
fn zip(name: &str) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(b"evil");
    let sum = crc.sum().to_le_bytes();
    let length = u16::try_from(name.len()).unwrap().to_le_bytes();
    let mut bytes = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0".to_vec();
    let sizes = [&sum[..], &4_u32.to_le_bytes(), &4_u32.to_le_bytes(), &length].concat();
    bytes.extend([&sizes[..], &[0, 0], name.as_bytes(), b"evil"].concat());
    let directory = u32::try_from(bytes.len()).unwrap();
    bytes.extend(b"PK\x01\x02\x14\x03\x14\0\0\0\0\0\0\0\0\0");
    bytes.extend([&sizes[..], &[0; 16], name.as_bytes()].concat());
    let size = u32::try_from(bytes.len()).unwrap() - directory;
    bytes.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    bytes.extend([&size.to_le_bytes()[..], &directory.to_le_bytes(), &[0, 0]].concat());
    bytes
}

fn unpack(bytes: Vec<u8>, format: ArchiveFormat) -> Plan {
    let mut plan = Plan::default();
    let content = plan.content(bytes);
    plan.add(Action::FileArchive {
        path: "/opt/x/y".into(),
        content,
        format,
        strip: 0,
        members: Vec::new(),
        owner: None,
        group: None,
    });
    plan
}

#[test]
fn no_member_leaves_the_directory() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    let ok = ("fine", b'0', "body");
    let cases: Vec<(&str, Vec<u8>, ArchiveFormat)> = vec![
        ("../../evil", tar(&[ok, ("../../evil", b'0', "evil")]), ArchiveFormat::Tar),
        ("a/../../evil", tar(&[ok, ("a/../../evil", b'0', "evil")]), ArchiveFormat::Tar),
        ("/evil", tar(&[ok, ("/evil", b'0', "evil")]), ArchiveFormat::Tar),
        ("out", tar(&[ok, ("out", b'2', "../../../etc"), ("out/evil", b'0', "evil")]), ArchiveFormat::Tar),
        ("out", tar(&[ok, ("out", b'2', "/etc"), ("out/evil", b'0', "evil")]), ArchiveFormat::Tar),
        (
            "in/evil",
            tar(&[ok, ("d/", b'5', ""), ("in", b'2', "d"), ("in/evil", b'0', "evil")]),
            ArchiveFormat::Tar,
        ),
        ("hard", tar(&[ok, ("hard", b'1', "../../../etc/passwd")]), ArchiveFormat::Tar),
        ("hard", tar(&[ok, ("hard", b'1', "/etc/passwd")]), ArchiveFormat::Tar),
        ("device", tar(&[ok, ("device", b'3', "")]), ArchiveFormat::Tar),
        ("../evil", zip("../evil"), ArchiveFormat::Zip),
        ("/evil", zip("/evil"), ArchiveFormat::Zip),
    ];
    let before = machine.tree();
    for (number, (member, bytes, format)) in cases.into_iter().enumerate() {
        let plan = unpack(bytes, format);
        let predicted = machine.agent(&plan, &How::check());
        let told = machine.apply(&plan, &number.to_string());
        assert_eq!(told.only().outcome, Outcome::Failed, "{member}");
        assert!(told.failure().contains(&format!("`{member}`")), "{member}: {}", told.failure());
        assert_eq!(predicted.failure(), told.failure());
        support::assert_same_tree(&before, &machine.tree(), member);
    }
}

#[test]
fn a_link_on_the_disk_leads_no_member_away() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    machine.sh("mkdir -p /opt/x/y /srv/away; ln -s /srv/away /opt/x/y/sub");
    let before = machine.tree();
    let told = machine.apply(&unpack(tar(&[("sub/evil", b'0', "evil")]), ArchiveFormat::Tar), "run");
    assert!(told.failure().contains("`sub/evil` lies behind `sub`, which is a link"), "{}", told.failure());
    support::assert_same_tree(&before, &machine.tree(), "a link on the disk");
}

#[test]
fn damaged_archives_are_refused() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    let whole = tar(&[("a", b'0', "body")]);
    for (number, (bytes, format)) in [
        (b"not an archive at all, only text".to_vec(), ArchiveFormat::TarGz),
        (b"not an archive at all, only text".to_vec(), ArchiveFormat::TarXz),
        (b"not an archive at all, only text".to_vec(), ArchiveFormat::TarZst),
        (b"not an archive at all, only text".to_vec(), ArchiveFormat::Zip),
        (whole[..514].to_vec(), ArchiveFormat::Tar),
    ]
    .into_iter()
    .enumerate()
    {
        let told = machine.apply(&unpack(bytes, format), &number.to_string());
        assert_eq!(told.only().outcome, Outcome::Failed, "{format:?}");
        assert!(!machine.holds("test -e /opt/x/y/a"));
    }
}
