//! The leak scan: a search of the whole root file system for what an image must not hold.
//!
//! | what | found by |
//! |---|---|
//! | a secret of the bake | its value, plain, in base64 or hexadecimal digits, URL-encoded, or escaped for JSON or a shell, in a file, a file's name or a link |
//! | a private key | a PEM header and base64 after it, or an age identity; not in a file that is as its package brought it: everybody has that key already |
//! | an SSH host key, a machine-id, a random seed | its path |
//! | what a builder leaves behind | cloud-init's instance, histories, keys of olbake's own, temporary files |
//!
//! Where the files of a disk of the same descent are at hand, which was searched before, a file is read only if it is
//! another there: by inode, size, and the times of change of its content and of its inode.
//!
//! Secrets of fewer than six bytes are not searched for: they are everywhere. A password's hash in `/etc/shadow` is
//! where it belongs. What a recipe allows, with its reason, is passed over.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use camino::{Utf8Path, Utf8PathBuf};
use md5::{Digest as _, Md5};

use super::seal::{SEEDS, device, histories, mount_points};
use super::{Decision, apt};
use crate::context::Context;
use crate::dpkg;
use crate::edit::TEMPORARY;
use crate::error::{At, OpError, Result};
use crate::search::{Hit, Needles};
use olbake_core::redact::forms;

/// Shorter secrets are not searched for.
const SHORTEST_SECRET: usize = 6;
/// Directories that are not the image's.
const OUTSIDE: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];
/// Bytes of a key's text that are looked at.
const KEY_WINDOW: usize = 4096;
/// Base64 characters that make a key: an Ed25519 key in PKCS #8 has 64.
const KEY_LENGTH: usize = 60;

/// What a needle is.
enum What {
    Secret { id: String, form: &'static str, is_hash: bool },
    Pem,
    Age,
}

/// [`olbake_core::operation::Action::LeakScan`].
pub(crate) fn scan<'a>(
    context: &Context<'_>,
    allow: &[Utf8PathBuf],
    searched: Option<&Utf8Path>,
) -> Result<Decision<'a>> {
    if context.is_check() && context.world().is_predicted() {
        return Ok(Decision::Skip("earlier operations would change the machine first".to_owned()));
    }
    let mut found = by_path(context)?;
    found.extend(by_content(context, searched)?);
    let allowed = |path: &str| allow.iter().any(|prefix| Path::new(path).starts_with(prefix.as_std_path()));
    found.retain(|(path, _)| !allowed(path));
    if found.is_empty() {
        return Ok(Decision::Fine);
    }
    let files: HashSet<&String> = found.iter().map(|(path, _)| path).collect();
    let message = match files.len() {
        1 => "a file holds what must not be in an image".to_owned(),
        count => format!("{count} files hold what must not be in an image"),
    };
    let lines = found.into_iter().map(|(path, what)| format!("{path}: {what}")).collect();
    Err(OpError::Found { message, lines })
}

type Findings = BTreeSet<(String, String)>;

/// What is told by its path alone.
fn by_path(context: &Context<'_>) -> Result<Findings> {
    let mut found = Findings::new();
    let mut add = |path: &str, what: &str| found.insert((path.to_owned(), what.to_owned()));
    for path in ["/etc/machine-id", "/var/lib/dbus/machine-id"] {
        let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
        let text = fs::read_to_string(path).unwrap_or_default();
        if is_file && !matches!(text.trim(), "" | "uninitialized") {
            add(path, "the machine-id of the build");
        }
    }
    for name in context.world().list(Utf8Path::new("/etc/ssh"))? {
        if name.starts_with("ssh_host_") && !name.ends_with(".pub") {
            add(&format!("/etc/ssh/{name}"), "an SSH host key");
        }
    }
    for path in ["/var/lib/cloud/instance", "/var/lib/cloud/instances", "/var/lib/cloud/data"] {
        if fs::symlink_metadata(path).is_ok()
            && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
        {
            add(path, "cloud-init's state of the build");
        }
    }
    for path in SEEDS.into_iter().filter(|path| Path::new(path).exists()) {
        add(path, "a seed of random numbers");
    }
    for path in histories(context)? {
        if fs::symlink_metadata(&path).is_ok_and(|found| found.len() > 0) {
            add(path.as_str(), "a history");
        }
    }
    for user in &context.world().accounts().users {
        let path = format!("{}/.ssh/authorized_keys", user.home);
        if fs::read_to_string(&path)
            .is_ok_and(|text| text.lines().any(|line| line.ends_with(" olbake-builder")))
        {
            add(&path, "a key of the builder");
        }
    }
    Ok(found)
}

/// What is to be searched for, beside texts of private keys.
fn needles(context: &Context<'_>) -> (Needles, Vec<What>) {
    let mut texts: Vec<Vec<u8>> = Vec::new();
    let mut whats = Vec::new();
    for (id, value) in context.run.secrets.iter() {
        // Files end with a line end that a value need not have.
        let value = value.trim_end_matches('\n');
        if value.len() < SHORTEST_SECRET {
            context.say(format!(
                "the secret `{}` is shorter than {SHORTEST_SECRET} bytes: not searched for",
                id.0
            ));
            continue;
        }
        for form in forms(value).into_iter().filter(|form| form.text.len() >= SHORTEST_SECRET) {
            texts.push(form.text.into_bytes());
            whats.push(What::Secret { id: id.0.clone(), form: form.name, is_hash: value.starts_with('$') });
        }
    }
    for text in ["PRIVATE KEY-----", "PRIVATE KEY BLOCK-----"] {
        texts.push(text.as_bytes().to_vec());
        whats.push(What::Pem);
    }
    // In two parts, so that this executable does not hold what it searches for.
    texts.push(["AGE-SECRET-", "KEY-1"].concat().into_bytes());
    whats.push(What::Age);
    (Needles::new(texts), whats)
}

fn by_content(context: &Context<'_>, searched: Option<&Utf8Path>) -> Result<Findings> {
    let (needles, whats) = needles(context);
    let walked = walk(context)?;
    let scan = Scan { needles, whats, found: Mutex::default() };
    for path in &walked.names {
        scan.search_name(path);
    }
    for path in &walked.links {
        scan.search_link(path);
    }
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut buffer = Vec::new();
        while let Some(path) = walked.files.get(next.fetch_add(1, Ordering::Relaxed)) {
            context.go_on()?;
            if !searched.is_some_and(|before| is_unchanged(path, before)) {
                scan.search_file(path, &mut buffer)?;
            }
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let first = work();
        others.into_iter().fold(first, |result, other| {
            result.and(other.join().unwrap_or_else(|_| Err(OpError::wrong("a searching thread ended early"))))
        })
    })?;
    Ok(scan.found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Whether a file is the one of the same path below another folder, and as it was there. A program can set the time
/// that it says its content changed, and no other.
fn is_unchanged(path: &Path, before: &Utf8Path) -> bool {
    let Ok(inside) = path.strip_prefix("/") else { return false };
    let look = |path: &Path| {
        let found = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file)?;
        let changed = (found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec());
        Some((found.ino(), found.size(), changed))
    };
    look(&before.as_std_path().join(inside)).is_some_and(|was| look(path) == Some(was))
}

/// What there is to search.
#[derive(Default)]
struct Walked {
    files: Vec<PathBuf>,
    /// Links: their targets are texts too.
    links: Vec<PathBuf>,
    /// All of them, and all directories.
    names: Vec<PathBuf>,
}

/// Lists the root file system, without what is mounted in it. File names need not be UTF-8.
fn walk(context: &Context<'_>) -> Result<Walked> {
    let mounts: HashSet<PathBuf> = mount_points().into_iter().map(Utf8PathBuf::into_std_path_buf).collect();
    let root = device(Utf8Path::new("/"));
    let mut walked = Walked::default();
    let mut open = vec![PathBuf::from("/")];
    while let Some(directory) = open.pop() {
        context.go_on()?;
        let shown = Utf8PathBuf::from(directory.to_string_lossy().into_owned());
        for entry in fs::read_dir(&directory).at("list", &shown)? {
            let entry = entry.at("list", &shown)?;
            let path = entry.path();
            let kind = entry.file_type().at("look at", &shown)?;
            if kind.is_file() {
                // A file can be mounted on too.
                if !mounts.contains(&path) {
                    walked.files.push(path.clone());
                }
            } else if kind.is_symlink() {
                walked.links.push(path.clone());
            } else if kind.is_dir() {
                let outside = OUTSIDE.iter().any(|outside| path == Path::new(outside));
                let other = Utf8Path::from_path(&path).is_some_and(|path| device(path) != root);
                if !outside && !other && !mounts.contains(&path) && path != context.run.work_dir.as_std_path()
                {
                    open.push(path.clone());
                } else {
                    continue;
                }
            }
            walked.names.push(path);
        }
    }
    Ok(walked)
}

struct Scan {
    needles: Needles,
    whats: Vec<What>,
    found: Mutex<Findings>,
}

impl Scan {
    fn add(&self, path: &Path, what: String) {
        let mut found = self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        found.insert((path.to_string_lossy().into_owned(), what));
    }

    /// Searches the last part of a path.
    fn search_name(&self, path: &Path) {
        let name = path.file_name().unwrap_or_default();
        if name.to_string_lossy().starts_with(TEMPORARY) {
            self.add(path, "a temporary file of olbake's".to_owned());
        }
        self.search_text(path, name.as_bytes());
    }

    /// Searches what a link holds.
    fn search_link(&self, path: &Path) {
        if let Ok(target) = fs::read_link(path) {
            self.search_text(path, target.as_os_str().as_bytes());
        }
    }

    /// Searches a name of a file, or what stands for one.
    fn search_text(&self, path: &Path, text: &[u8]) {
        let mut hits = Vec::new();
        self.needles.find(text, &mut hits);
        for hit in hits {
            if let What::Secret { id, form, .. } = &self.whats[hit.needle] {
                self.add(path, format!("the secret `{id}` ({form}) in a name"));
            }
        }
    }

    fn search_file(&self, path: &Path, buffer: &mut Vec<u8>) -> Result<()> {
        if Utf8Path::from_path(path).is_some_and(apt::is_leftover) {
            self.add(path, "a policy of olbake's for package installations".to_owned());
        }
        let shown = Utf8PathBuf::from(path.to_string_lossy().into_owned());
        let file = match File::open(path) {
            Ok(file) => file,
            // Programs of a booted machine remove files meanwhile.
            Err(error) if crate::world::is_absence(&error) => return Ok(()),
            Err(error) => return Err(error).at("open", &shown),
        };
        let hits = self.needles.find_in_file(&file, buffer).at("read", &shown)?;
        let mut by_what: BTreeMap<String, ()> = BTreeMap::new();
        for hit in hits {
            if let Some(what) = self.judge(path, &file, hit) {
                by_what.insert(what, ());
            }
        }
        for what in by_what.into_keys() {
            self.add(path, what);
        }
        Ok(())
    }

    /// What a hit means, if anything.
    fn judge(&self, path: &Path, file: &File, hit: Hit) -> Option<String> {
        match &self.whats[hit.needle] {
            What::Secret { is_hash: true, .. } if path.starts_with("/etc") && is_shadow(path) => None,
            What::Secret { id, form, .. } => Some(format!("the secret `{id}` ({form})")),
            What::Pem => {
                (is_key(file, hit.offset) && !is_packaged(path, file)).then(|| "a private key".to_owned())
            }
            What::Age => {
                let text = window(file, hit.offset);
                let length =
                    text.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-').count();
                (length >= 70 && !is_packaged(path, file)).then(|| "a private key of age".to_owned())
            }
        }
    }
}

fn is_shadow(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "shadow" || name == "shadow-")
}

fn window(file: &File, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; KEY_WINDOW];
    let count = file.read_at(&mut bytes, offset).unwrap_or(0);
    bytes.truncate(count);
    bytes
}

/// Whether a key follows these words: a program that reads keys has the words and no key after them.
fn is_key(file: &File, offset: u64) -> bool {
    let start = offset.saturating_sub(40);
    let bytes = window(file, start);
    let (head, tail) = bytes.split_at(usize::try_from(offset - start).unwrap_or(0).min(bytes.len()));
    memchr::memmem::find(head, b"-----BEGIN ").is_some() && holds_key(&String::from_utf8_lossy(tail))
}

/// Whether the text after `BEGIN …` has the base64 of a key. Line ends may be escaped, as in JSON.
fn holds_key(tail: &str) -> bool {
    let Some((_, body)) = tail.split_once("-----") else { return false };
    let body = body.replace("\\r", "").replace("\\n", "\n");
    let mut length = 0;
    for line in body.lines().map(str::trim) {
        // Old formats have headers: `Proc-Type: 4,ENCRYPTED`.
        if line.is_empty() || line.contains(": ") {
            continue;
        }
        let run =
            line.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte)).count();
        length += run;
        if run < line.len() {
            break;
        }
    }
    length >= KEY_LENGTH
}

/// Whether a file is exactly as its package brought it: then its keys are everybody's, and for tests or examples.
fn is_packaged(path: &Path, file: &File) -> bool {
    let Some(path) = Utf8Path::from_path(path) else { return false };
    let (mut hash, mut buffer, mut stream) = (Md5::new(), vec![0; 64 * 1024], file);
    if std::io::Seek::rewind(&mut stream).is_err() {
        return false;
    }
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hash.update(&buffer[..count]),
            Err(_) => return false,
        }
    }
    let sum: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    dpkg::is_pristine(path, &sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_more_than_its_first_line() {
        let body = "MC4CAQAwBQYDK2VwBCIEIGRhdGFkYXRhZGF0YWRhdGFkYXRhZGF0YWRhdGFkYXRh";
        let tail = |body: &str| format!("PRIVATE KEY-----{body}");
        assert!(holds_key(&tail(&format!("\n{body}\n-----END"))));
        assert!(holds_key(&tail(&format!("\r\nProc-Type: 4,ENCRYPTED\r\n\r\n{body}\r\n"))));
        assert!(holds_key(&tail(&format!("\\n{body}\\n"))));
        assert!(!holds_key(&tail("\0-----END PRIVATE KEY-----")));
        assert!(!holds_key(&tail("\n...\n-----END")));
        assert!(!holds_key(&tail(" blocks are read by this function")));
    }
}
