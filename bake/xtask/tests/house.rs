//! Keeps the house in order: which crate may know which, what bake/core may touch, and who may draw.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Who may depend on whom, outside of tests. A crate that is not here is an error: decide where it belongs.
const ARROWS: [(&str, &[&str]); 11] = [
    ("olbake-core", &[]),
    ("olbake-agent", &["olbake-core"]),
    ("olbake-lang", &["olbake-core"]),
    ("olbake-engine", &["olbake-core"]),
    ("olbake-local", &["olbake-core", "olbake-engine"]),
    ("olbake-postgresql", &["olbake-core", "olbake-engine"]),
    ("olbake-ssh", &["olbake-core", "olbake-engine"]),
    ("olbake-aws", &["olbake-core", "olbake-engine", "olbake-ssh"]),
    ("olbake-testkit", &["olbake-core", "olbake-engine", "olbake-lang", "olbake-local"]),
    (
        "olbake-cli",
        &[
            "olbake-core",
            "olbake-engine",
            "olbake-lang",
            "olbake-local",
            "olbake-postgresql",
            "olbake-ssh",
            "olbake-aws",
        ],
    ),
    ("olbake-xtask", &["olbake-core", "olbake-engine", "olbake-lang", "olbake-local", "olbake-testkit"]),
];

/// Crates that stay behind one wall: the crate and who may have it.
const WALLS: [(&str, &str); 8] = [
    ("starlark", "olbake-lang"),
    ("indicatif", "olbake-cli"),
    ("clap_complete", "olbake-cli"),
    ("tokio-postgres", "olbake-postgresql"),
    ("openssh", "olbake-ssh"),
    ("aws-config", "olbake-aws"),
    ("aws-sdk-ec2", "olbake-aws"),
    ("aws-sdk-s3", "olbake-aws"),
];

/// What a pure crate does not name: the outside world, in all its spellings.
const IMPURE: [&str; 13] = [
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::thread",
    "SystemTime",
    "Instant",
    "std::os",
    "std::path",
    "tokio",
    "rand::",
    "println!",
    "unsafe",
];

/// Crates that bake/core may be made of.
const PURE_CRATES: [&str; 9] =
    ["camino", "indexmap", "regex-lite", "schemars", "serde", "serde_json", "sha2", "strsim", "thiserror"];

fn root() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).ancestors().nth(2).unwrap().to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).exec().unwrap()
}

fn ours(metadata: &Metadata) -> BTreeMap<String, &Package> {
    metadata.workspace_packages().into_iter().map(|package| (package.name.to_string(), package)).collect()
}

fn dependencies(package: &Package, kinds: &[DependencyKind]) -> BTreeSet<String> {
    package
        .dependencies
        .iter()
        .filter(|dependency| kinds.contains(&dependency.kind))
        .map(|dependency| dependency.name.clone())
        .collect()
}

#[test]
fn arrows_between_crates_point_one_way() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let ours = ours(&metadata);
    for (name, package) in &ours {
        let allowed = allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no place in ARROWS"));
        for dependency in dependencies(package, &[DependencyKind::Normal, DependencyKind::Build]) {
            let stranger = !ours.contains_key(&dependency);
            assert!(stranger || allowed.contains(&dependency.as_str()), "{name} must not know {dependency}");
        }
    }
}

#[test]
fn walls_stand() {
    let metadata = metadata();
    for (name, package) in ours(&metadata) {
        for dependency in dependencies(package, &[DependencyKind::Normal, DependencyKind::Build]) {
            for (walled, home) in WALLS {
                assert!(
                    dependency != walled || name == home,
                    "{name} must not know {walled}: only {home} may"
                );
            }
        }
    }
}

#[test]
fn a_build_without_the_feature_aws_sees_no_aws_crate() {
    let metadata = MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .features(cargo_metadata::CargoOpt::NoDefaultFeatures)
        .exec()
        .unwrap();
    let reached = reached_without_aws(&metadata);
    let found: Vec<&String> = reached.iter().filter(|name| name.starts_with("aws-")).collect();
    assert!(found.is_empty(), "{found:?}");
}

/// The crates in the resolved graph.
fn reached_without_aws(metadata: &Metadata) -> BTreeSet<String> {
    let names: BTreeMap<_, _> =
        metadata.packages.iter().map(|package| (&package.id, package.name.to_string())).collect();
    let resolve = metadata.resolve.as_ref().unwrap();
    resolve.nodes.iter().filter_map(|node| names.get(&node.id).cloned()).collect()
}

#[test]
fn the_core_is_pure() {
    let metadata = metadata();
    let core = ours(&metadata)["olbake-core"];
    for dependency in dependencies(core, &[DependencyKind::Normal, DependencyKind::Build]) {
        assert!(PURE_CRATES.contains(&dependency.as_str()), "bake/core must not depend on {dependency}");
    }
    for (path, text) in sources(&root().join("bake/core/src")) {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate() {
            for word in IMPURE {
                assert!(
                    !line.contains(word),
                    "{} names `{word}` (line {} of code)",
                    path.display(),
                    number + 1
                );
            }
        }
    }
}

#[test]
fn only_the_ui_draws() {
    // The agent has no terminal: what it says of itself, before it serves, is plain text of its own.
    for folder in ["core", "engine", "lang", "local", "postgresql", "ssh", "aws", "cli"] {
        for (path, text) in sources(&root().join("bake").join(folder).join("src")) {
            if path.components().any(|part| part.as_os_str() == "ui") {
                continue;
            }
            for word in ["println!", "eprintln!", "indicatif", "\\x1b[", "\\u{1b}["] {
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                let used =
                    code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word));
                assert!(!used, "{} draws with `{word}`: only bake/cli/src/ui may", path.display());
            }
        }
    }
}

#[test]
fn every_code_of_a_diagnostic_is_documented() {
    let page = std::fs::read_to_string(root().join("docs/events.md")).unwrap();
    let (_, documented) = page.split_once("## Diagnostics").unwrap();
    let (mut codes, mut missing) = (0, BTreeSet::new());
    for (path, text) in ["core", "lang", "engine", "cli"]
        .iter()
        .flat_map(|of| sources(&root().join("bake").join(of).join("src")))
    {
        let code = text.split("#[cfg(test)]").next().unwrap();
        for before in ["Diagnostic::error(", "Diagnostic::warning(", "code: ", " warn("] {
            for rest in code.split(before).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"')) {
                let (name, _) = rest.split_once('"').unwrap();
                codes += 1;
                if !documented.contains(&format!("`{name}`")) {
                    missing.insert(format!("{name} in {}", path.display()));
                }
            }
        }
    }
    assert!(codes > 80, "{codes} codes were found: the search does not fit the code any more");
    assert!(missing.is_empty(), "docs/events.md lacks {missing:?}");
}

/// The Rust files below a folder.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no sources under {}", folder.display());
    found
}
