//! A sealed place to run `olbake` in: an empty environment, a fixed width, a workspace of its own. What it did is
//! one text of exit code, standard output and standard error, with everything that differs from run to run
//! replaced. Main type: [`Sealed`].

use std::cell::RefCell;
use std::path::Path;
use std::process::{Command, Output};

/// A workspace in a temporary directory.
pub(crate) struct Sealed {
    directory: tempfile::TempDir,
    /// Digests with the names that they have in snapshots.
    names: RefCell<Vec<(String, String)>>,
}

impl Sealed {
    /// A workspace without recipes.
    pub(crate) fn empty() -> Self {
        let sealed = Self::outside();
        sealed.write("olbake.toml", "");
        sealed
    }

    /// A directory that is no workspace.
    pub(crate) fn outside() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), names: RefCell::default() }
    }

    /// The workspace of `tests/fixture`: `base`, and `web` on it with two variants.
    pub(crate) fn fixture() -> Self {
        let sealed = Self::empty();
        sealed.copy(
            &Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/fixture"),
            Path::new(""),
        );
        sealed
    }

    /// The workspace that olbake's repository is, as far as images need it.
    pub(crate) fn examples() -> Self {
        let sealed = Self::outside();
        let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../..");
        for part in ["components", "images"] {
            sealed.copy(&root.join(part), Path::new(part));
        }
        sealed.write("olbake.toml", &std::fs::read_to_string(root.join("olbake.toml")).unwrap());
        sealed
    }

    fn copy(&self, from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                self.copy(&entry.path(), &to);
            } else {
                self.write(to.to_str().unwrap(), &std::fs::read_to_string(entry.path()).unwrap());
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Has a digest be called so in snapshots.
    pub(crate) fn name(&self, digest: &olbake_core::Digest, name: &str) {
        let mut names = self.names.borrow_mut();
        names.push((digest.hex(), format!("[{name}]")));
        names.push((digest.short(), format!("[{name}]")));
    }

    /// Writes a file.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Replaces a text that is in a file.
    pub(crate) fn replace(&self, file: &str, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.path().join(file)).unwrap();
        assert!(text.contains(old), "`{file}` does not contain `{old}`");
        self.write(file, &text.replace(old, new));
    }

    /// Runs `olbake`.
    pub(crate) fn olbake(&self, arguments: &[&str]) -> Ran {
        self.olbake_with(arguments, &[])
    }

    /// Runs `olbake` with environment variables.
    pub(crate) fn olbake_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let output = self.command(arguments, environment).output().unwrap();
        self.ran(arguments, output)
    }

    /// `olbake`, to be started.
    pub(crate) fn command(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_olbake"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env("COLUMNS", "100")
            .env("NO_COLOR", "1")
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .envs(environment.iter().copied());
        command
    }

    /// What a command did that ended so.
    pub(crate) fn ran(&self, arguments: &[&str], output: Output) -> Ran {
        Ran {
            command: arguments.join(" "),
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            directory: self.path().canonicalize().unwrap().to_str().unwrap().to_owned(),
            names: self.names.borrow().clone(),
        }
    }
}

/// What a command did.
pub(crate) struct Ran {
    command: String,
    /// Its exit code.
    pub(crate) code: Option<i32>,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its standard error.
    pub(crate) stderr: String,
    directory: String,
    names: Vec<(String, String)>,
}

impl Ran {
    /// All of it as one text.
    pub(crate) fn text(&self) -> String {
        let code = self.code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        let mut text = format!("$ olbake {}\nexit code: {code}\n", self.command);
        for (name, output) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !output.is_empty() {
                text.push_str(&format!("----- {name} -----\n{output}"));
            }
        }
        for (digest, name) in &self.names {
            text = text.replace(digest, name);
        }
        redact(&text.replace(&self.directory, "[WORKSPACE]"))
    }
}

/// Replaces digests, which change with every generation of keys.
fn redact(text: &str) -> String {
    let mut redacted = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        let hexadecimal = word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        redacted.push_str(match word.len() {
            12 if hexadecimal => "[SHORT DIGEST]",
            64 if hexadecimal => "[DIGEST]",
            _ => &word,
        });
        word.clear();
        redacted.push(c);
    }
    redacted.pop();
    redacted
}
