//! Limits of the kernel that many machines on one host run into: raised where they are lower than that takes.

use std::fs;

use camino::Utf8Path;

use super::CloudError;
use crate::host::io_error;

/// Settings, and what some hundred machines take of them. Every systemd has about ten inotify instances, and the
/// kernel gives all of root's processes together 128; each process with a keyring takes one of a few hundred.
const NEEDED: [(&str, u64); 4] = [
    ("fs/inotify/max_user_instances", 8192),
    ("fs/inotify/max_user_watches", 524_288),
    ("kernel/keys/root_maxkeys", 20_000),
    ("net/ipv4/neigh/default/gc_thresh3", 4096),
];

/// Raises them; what is higher stays.
pub(crate) fn raise() -> Result<(), CloudError> {
    for (name, needed) in NEEDED {
        let path = Utf8Path::new("/proc/sys").join(name);
        // A kernel without the setting has no such limit.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if text.trim().parse::<u64>().is_ok_and(|value| value < needed) {
            fs::write(&path, needed.to_string()).map_err(io_error("cannot raise", &path))?;
        }
    }
    Ok(())
}
