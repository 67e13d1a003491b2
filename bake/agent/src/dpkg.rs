//! What dpkg knows, read from its own files: which packages are installed, which are held, and what their files'
//! digests are.

use std::collections::HashMap;
use std::fs;

use camino::{Utf8Path, Utf8PathBuf};

use crate::error::{At, Result};

const STATUS: &str = "/var/lib/dpkg/status";

/// A package that dpkg knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Package {
    version: String,
    installed: bool,
    half: bool,
    held: bool,
}

/// The state of all packages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    /// By name, and by `name:architecture`.
    packages: HashMap<String, Package>,
}

impl Status {
    /// The machine's.
    pub(crate) fn read() -> Result<Self> {
        let path = Utf8Path::new(STATUS);
        match fs::read(path) {
            Ok(bytes) => Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if crate::world::is_absence(&error) => Ok(Self::default()),
            Err(error) => Err(error).at("read", path),
        }
    }

    fn parse(text: &str) -> Self {
        let mut packages = HashMap::new();
        for stanza in text.split("\n\n") {
            let field = |name: &str| {
                stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default()
            };
            let name = field("Package:");
            let words: Vec<&str> = field("Status:").split_whitespace().collect();
            let [want, _, state] = words[..] else { continue };
            let package = Package {
                version: field("Version:").to_owned(),
                installed: state == "installed",
                half: !matches!(state, "installed" | "config-files" | "not-installed"),
                held: want == "hold",
            };
            packages.insert(format!("{name}:{}", field("Architecture:")), package.clone());
            // Of two architectures, the one that is installed counts.
            let plain = packages.entry(name.to_owned()).or_insert_with(|| package.clone());
            if package.installed && !plain.installed {
                *plain = package;
            }
        }
        Self { packages }
    }

    /// The version of an installed package.
    pub(crate) fn version(&self, name: &str) -> Option<&str> {
        self.packages.get(name).filter(|package| package.installed).map(|package| package.version.as_str())
    }

    /// Whether a package is held.
    pub(crate) fn held(&self, name: &str) -> bool {
        self.packages.get(name).is_some_and(|package| package.held)
    }

    /// The installed packages, in order of name.
    pub(crate) fn installed(&self) -> Vec<olbake_core::report::Package> {
        let mut packages: Vec<_> = self
            .packages
            .iter()
            .filter(|(_, package)| package.installed)
            .filter_map(|(name, package)| {
                let (name, architecture) = name.split_once(':')?;
                let (name, architecture) = (name.to_owned(), architecture.to_owned());
                Some(olbake_core::report::Package { name, version: package.version.clone(), architecture })
            })
            .collect();
        packages.sort_unstable();
        packages
    }

    /// Whether a transaction was interrupted.
    pub(crate) fn is_interrupted(&self) -> bool {
        let journal = fs::read_dir("/var/lib/dpkg/updates").map_or(0, |entries| entries.flatten().count());
        journal > 0 || self.packages.values().any(|package| package.half)
    }
}

/// Whether a file is exactly as its package brought it.
pub(crate) fn is_pristine(path: &Utf8Path, md5: &str) -> bool {
    let relative = path.as_str().trim_start_matches('/');
    // Debian's files below /usr are listed under the names they had before /usr was merged.
    let moved = relative.strip_prefix("usr/").unwrap_or(relative);
    let Ok(entries) = fs::read_dir("/var/lib/dpkg/info") else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        let lists = path.extension().is_some_and(|extension| extension == "md5sums");
        lists && fs::read_to_string(&path).is_ok_and(|text| lists_file(&text, md5, relative, moved))
    })
}

fn lists_file(text: &str, md5: &str, relative: &str, moved: &str) -> bool {
    let fits = |line: &str| {
        line.split_once("  ").is_some_and(|(sum, name)| sum == md5 && (name == relative || name == moved))
    };
    text.lines().any(fits)
}

/// The answers that debconf has, by question.
pub(crate) fn debconf_answer(question: &str) -> Option<String> {
    let texts = ["config.dat", "passwords.dat"].map(|name| {
        let path = Utf8PathBuf::from(format!("/var/cache/debconf/{name}"));
        fs::read_to_string(path).unwrap_or_default()
    });
    texts.iter().find_map(|text| answer(text, question))
}

/// The value of a question that was seen, so that its package will not ask again.
fn answer(text: &str, question: &str) -> Option<String> {
    let stanza = text.split("\n\n").find(|stanza| {
        stanza.lines().find_map(|line| line.strip_prefix("Name:")).is_some_and(|name| name.trim() == question)
    })?;
    let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let seen = field("Flags:").is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "seen"));
    seen.then(|| field("Value:").unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.2-3\nDescription: x\n y\n\n\
                        Package: b\nStatus: hold ok installed\nArchitecture: all\nVersion: 2\n\n\
                        Package: c\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 3\n";

    #[test]
    fn installed_and_held() {
        let status = Status::parse(TEXT);
        assert_eq!(status.version("a"), Some("1.2-3"));
        assert_eq!(status.version("a:amd64"), Some("1.2-3"));
        assert_eq!(status.version("c"), None);
        assert!(status.held("b") && !status.held("a"));
    }

    #[test]
    fn files_of_packages_are_known_by_digest_and_name() {
        let text = "d41d8cd98f00b204e9800998ecf8427e  usr/share/doc/a/key.pem\n";
        let is = |name: &str| lists_file(text, "d41d8cd98f00b204e9800998ecf8427e", name, name);
        assert!(is("usr/share/doc/a/key.pem"));
        assert!(!is("usr/share/doc/b/key.pem"));
    }

    #[test]
    fn answers_count_once_seen() {
        let text = "Name: p/q\nTemplate: p/q\nValue: yes\nOwners: p\nFlags: seen\n\nName: p/r\nValue: no\n";
        assert_eq!(answer(text, "p/q").as_deref(), Some("yes"));
        assert_eq!(answer(text, "p/r"), None);
    }
}
