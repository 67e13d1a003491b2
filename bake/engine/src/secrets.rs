//! Reads secrets where settings say they are, and tells their versions apart. Main type: [`SecretReader`].
//!
//! A plan holds no value but its version: an HMAC-SHA-256 under a key that never leaves this workspace's cache.
//! Whoever sees plans or layer keys can tell that a secret changed and can guess nothing about it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::OnceLock;

use camino::{Utf8Path, Utf8PathBuf};
use hmac::{Hmac, KeyInit, Mac};
use olbake_core::Digest;
use olbake_core::plan::Plan;
use olbake_core::redact::Redactor;
use olbake_core::secret::Secret;
use olbake_core::settings::nearest;
use sha2::Sha256;
use zeroize::Zeroizing;

/// A secret has at most so many bytes: a larger file is a mistake.
const LARGEST: u64 = 1024 * 1024;
const KEY_FILE: &str = "secret.key";

/// Why a secret could not be read. None of these has a value in it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The text is no source.
    #[error("`{0}` is no source of a secret: write `env:NAME` or `file:PATH`")]
    Source(String),
    /// The variable is not set.
    #[error("the environment has no variable `{name}`{}", suggestion.as_ref().map(|s| format!("; did you mean `{s}`?")).unwrap_or_default())]
    Variable {
        /// Its name.
        name: String,
        /// One that is set and has a name like it.
        suggestion: Option<String>,
    },
    /// The file could not be read.
    #[error("cannot read the secret in `{path}`")]
    File {
        /// The file.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The value cannot be used.
    #[error("the secret from `{source_name}` {problem}")]
    Value {
        /// The source.
        source_name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The workspace's key could not be read or made.
    #[error("cannot use the workspace's key `{path}`")]
    Key {
        /// The key's file.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Reads secrets.
pub struct SecretReader {
    environment: BTreeMap<String, String>,
    workspace: Utf8PathBuf,
    key_path: Utf8PathBuf,
    key: OnceLock<Zeroizing<[u8; 32]>>,
}

/// Says where it reads, and no value.
impl std::fmt::Debug for SecretReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretReader").field("workspace", &self.workspace).finish_non_exhaustive()
    }
}

impl SecretReader {
    /// Reads variables from `environment`, files relative to `workspace`, and keeps its key in the directory
    /// `cache`.
    pub fn new(environment: BTreeMap<String, String>, workspace: &Utf8Path, cache: &Utf8Path) -> Self {
        Self {
            environment,
            workspace: workspace.to_owned(),
            key_path: cache.join(KEY_FILE),
            key: OnceLock::new(),
        }
    }

    /// The value at a source. Of a file, one newline at the end does not count.
    pub fn value(&self, source: &str) -> Result<Zeroizing<String>, SecretError> {
        let value = match source.split_once(':') {
            Some(("env", name)) if !name.is_empty() => self.variable(name)?,
            Some(("file", path)) if !path.is_empty() => self.file(source, path)?,
            _ => return Err(SecretError::Source(source.to_owned())),
        };
        let problem = match value.as_str() {
            "" => "is empty",
            text if text.contains('\0') => "has a NUL in it",
            _ => return Ok(value),
        };
        Err(SecretError::Value { source_name: source.to_owned(), problem })
    }

    /// Tells the versions of a secret apart: the HMAC of its value under the workspace's key, which is made when it
    /// is first needed.
    pub fn version(&self, source: &str) -> Result<Digest, SecretError> {
        let value = self.value(source)?;
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key()?[..]).expect("HMAC takes keys of any length");
        mac.update(value.as_bytes());
        Ok(Digest::from_bytes(mac.finalize().into_bytes().into()))
    }

    /// What the secrets of these plans look like in output.
    pub fn redactor<'a>(&self, plans: impl IntoIterator<Item = &'a Plan>) -> Result<Redactor, SecretError> {
        let secrets = plans.into_iter().flat_map(|plan| plan.secrets.values());
        let values: Vec<Zeroizing<String>> =
            secrets.map(|Secret { source, .. }| self.value(source)).collect::<Result<_, _>>()?;
        Ok(Redactor::new(values.iter().map(|value| value.as_str())))
    }

    fn variable(&self, name: &str) -> Result<Zeroizing<String>, SecretError> {
        match self.environment.get(name) {
            Some(value) => Ok(Zeroizing::new(value.clone())),
            None => {
                let known = self.environment.keys().map(String::as_str);
                let suggestion = nearest(name, known).map(str::to_owned);
                Err(SecretError::Variable { name: name.to_owned(), suggestion })
            }
        }
    }

    fn file(&self, source: &str, path: &str) -> Result<Zeroizing<String>, SecretError> {
        let path = self.workspace.join(path);
        let failed = |source| SecretError::File { path: path.clone(), source };
        let unusable = |problem| SecretError::Value { source_name: source.to_owned(), problem };
        let file = File::open(&path).map_err(failed)?;
        // Enough room from the start, so that growing leaves no copies of the value behind.
        let length = file.metadata().map_err(failed)?.len().min(LARGEST);
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 4096));
        file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > LARGEST {
            return Err(unusable("is larger than a mebibyte"));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| unusable("is not UTF-8"))?;
        let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
        Ok(Zeroizing::new(text.to_owned()))
    }

    fn key(&self) -> Result<&Zeroizing<[u8; 32]>, SecretError> {
        if let Some(key) = self.key.get() {
            return Ok(key);
        }
        let failed = |source| SecretError::Key { path: self.key_path.clone(), source };
        let key = match read_key(&self.key_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(&self.key_path),
            read => read,
        };
        let key = key.map_err(failed)?;
        Ok(self.key.get_or_init(|| key))
    }
}

fn read_key(path: &Utf8Path) -> io::Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    let mut file = File::open(path)?;
    file.read_exact(&mut key[..])?;
    match file.read(&mut [0])? {
        0 => Ok(key),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it has more than 32 bytes")),
    }
}

/// Fills bytes from the system's randomness.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}

/// Makes a key, unless another process does so at the same time: then that one counts.
fn make_key(path: &Utf8Path) -> io::Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    random(&mut key[..])?;
    let directory = path.parent().unwrap_or(Utf8Path::new("."));
    std::fs::create_dir_all(directory)?;
    let new = tempfile::Builder::new()
        .prefix(".key-")
        .make_in(directory, |path| File::options().write(true).create_new(true).mode(0o600).open(path))?;
    new.as_file().write_all(&key[..])?;
    new.as_file().sync_all()?;
    match new.persist_noclobber(path) {
        Ok(_) => Ok(key),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => read_key(path),
        Err(error) => Err(error.error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn reader(directory: &Utf8Path, variables: &[(&str, &str)]) -> SecretReader {
        let environment =
            variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        SecretReader::new(environment, directory, &directory.join("cache"))
    }

    fn directory() -> (tempfile::TempDir, Utf8PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
        (directory, path)
    }

    #[test]
    fn values_come_from_variables_and_files() {
        let (_guard, path) = directory();
        std::fs::write(path.join("token"), "two\nlines\n\n").unwrap();
        std::fs::write(path.join("empty"), "\n").unwrap();
        std::fs::write(path.join("binary"), [0xff]).unwrap();
        let reader = reader(&path, &[("ACME_TOKEN", "hunter2\n")]);
        assert_eq!(*reader.value("env:ACME_TOKEN").unwrap(), "hunter2\n");
        assert_eq!(*reader.value("file:token").unwrap(), "two\nlines\n");
        for (source, expect) in [
            ("env:ACME_TOKE", "the environment has no variable `ACME_TOKE`; did you mean `ACME_TOKEN`?"),
            ("file:empty", "the secret from `file:empty` is empty"),
            ("file:binary", "the secret from `file:binary` is not UTF-8"),
            ("hunter2", "`hunter2` is no source of a secret: write `env:NAME` or `file:PATH`"),
        ] {
            assert_eq!(reader.value(source).unwrap_err().to_string(), expect);
        }
        assert!(matches!(reader.value("file:none"), Err(SecretError::File { .. })));
    }

    #[test]
    fn versions_tell_values_apart_under_this_workspaces_key_only() {
        let (_guard, path) = directory();
        let (one, two) = (reader(&path, &[("A", "x"), ("B", "x"), ("C", "y")]), reader(&path, &[("A", "x")]));
        let version = one.version("env:A").unwrap();
        assert_eq!(version, one.version("env:B").unwrap());
        assert_ne!(version, one.version("env:C").unwrap());
        assert_eq!(version, two.version("env:A").unwrap());
        assert_ne!(version, Digest::of(b"x"));
        let mode = std::fs::metadata(path.join("cache/secret.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let (_other_guard, elsewhere) = directory();
        assert_ne!(version, reader(&elsewhere, &[("A", "x")]).version("env:A").unwrap());
    }

    #[test]
    fn a_damaged_key_is_not_replaced_in_silence() {
        let (_guard, path) = directory();
        std::fs::create_dir(path.join("cache")).unwrap();
        for damaged in [31, 33] {
            std::fs::write(path.join("cache/secret.key"), vec![1; damaged]).unwrap();
            let error = reader(&path, &[("A", "x")]).version("env:A").unwrap_err();
            assert!(matches!(error, SecretError::Key { .. }), "{error:?}");
        }
    }

    #[test]
    fn debug_shows_no_value() {
        let (_guard, path) = directory();
        assert!(!format!("{:?}", reader(&path, &[("A", "hunter2")])).contains("hunter2"));
    }
}
