//! Stores disk after disk in the registry below a folder and remembers each, until it is killed: `writer FOLDER`.
//! Started by `tests/store.rs`.
#![allow(clippy::unwrap_used, reason = "whoever started it sees that it ended")]

#[path = "../tests/common/mod.rs"]
mod common;

use camino::Utf8PathBuf;
use common::disk_of;

fn main() {
    let path = Utf8PathBuf::from(std::env::args().nth(1).unwrap());
    let registry = common::registry(&path);
    for round in 0_u8.. {
        let disk = path.join("disk");
        disk_of(&disk, &[1, 2, 0, round.wrapping_mul(3) | 1, round | 1, 4]);
        let (map, _) = registry.records().write_disk(&disk, &|_| {}).unwrap();
        registry.records().put_layer(&map.digest(), &map).unwrap();
    }
}
