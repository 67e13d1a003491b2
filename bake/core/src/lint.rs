//! Lints on plans: what is allowed and yet most likely not wanted. Each is a warning at the call in the recipe.
//!
//! | code | what |
//! |---|---|
//! | `fhs` | an archive, tree, clone or configuration in a place that the Filesystem Hierarchy Standard keeps for something else |
//! | `plain-http` | a download over HTTP without TLS; package sources are signed, so not they |
//! | `unpinned-package` | a package in whatever version is newest on the day; a command that installs packages of which the plan does not know |
//! | `unpinned-download` | a command that downloads what nothing checks, or runs it |
//! | `service-start` | a command that starts a service during the bake |
//! | `shell` | a command through a shell that has no need of one |
//! | `world-writable` | a file or directory that every user may change |
//!
//! What concerns declarations and not plans (settings never read or without a text, components without checks) is found
//! by `bake/lang`, which sees the recipes.

mod commands;

use camino::{Utf8Path, Utf8PathBuf};

use self::commands::Finding;
use crate::Digest;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::operation::{Action, Operation, PackageState};
use crate::plan::{Layer, Payload, Plan};

/// Everything worth a warning in a plan, in the order of its operations. `bases` are the plans of what it starts from; `text` answers with the bytes of a digest, where
/// they are text and somebody has them.
pub fn plan(plan: &Plan, bases: &[&Plan], text: &dyn Fn(&Digest) -> Option<String>) -> Diagnostics {
    let mut found = Diagnostics::default();
    let homes: Vec<Utf8PathBuf> = bases.iter().copied().chain([plan]).flat_map(homes).collect();
    for (layer, operation) in
        plan.layers.iter().flat_map(|layer| layer.operations.iter().map(move |one| (layer, one)))
    {
        let mut warn = |code: &str, message: String, help: &str| {
            found.push(Diagnostic::warning(code, message).at(operation.spans.first().cloned()).help(help));
        };
        places(operation, &homes, &mut warn);
        downloads(plan, operation, &mut warn);
        packages(operation, &mut warn);
        commands(layer, operation, text, &mut warn);
        shells(operation, &mut warn);
        modes(operation, &mut warn);
    }
    found
}

type Warn<'a> = dyn FnMut(&str, String, &str) + 'a;

/// Where what is not packaged belongs.
const OWN_SOFTWARE: [&str; 5] = ["/opt", "/usr/local", "/srv", "/var/lib", "/usr/share"];
/// Where only packages write.
const PACKAGED: [&str; 8] =
    ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/bin", "/sbin", "/lib", "/usr/include"];
/// Where nothing stays.
const FLEETING: [&str; 7] = ["/tmp", "/var/tmp", "/run", "/var/run", "/proc", "/sys", "/dev"];
/// What configuration files end in.
const CONFIGURATION: [&str; 8] = ["conf", "cfg", "ini", "toml", "yaml", "yml", "json", "service"];

fn below(path: &Utf8Path, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

/// The home directories of the accounts that a plan makes.
fn homes(plan: &Plan) -> Vec<Utf8PathBuf> {
    let operations = plan.layers.iter().flat_map(|layer| &layer.operations);
    let home = |operation: &Operation| match &operation.action {
        Action::User { name, account: Some(account) } => {
            Some(account.home.clone().unwrap_or_else(|| Utf8Path::new("/home").join(name)))
        }
        _ => None,
    };
    operations.filter_map(home).collect()
}

fn places(operation: &Operation, homes: &[Utf8PathBuf], warn: &mut Warn<'_>) {
    let (path, bundle) = match &operation.action {
        Action::FileArchive { path, .. } => (path, true),
        // Configuration comes as trees too.
        Action::FileTree { path, .. } => (path, !path.starts_with("/etc")),
        Action::FilePut { path, .. } | Action::FileGenerated { path, .. } => (path, false),
        Action::FileDirectory { path, .. } => (path, false),
        _ => return,
    };
    if below(path, &FLEETING) {
        warn(
            "fhs",
            format!("`{path}` does not survive into a running machine"),
            "use a place that stays: `/var/lib`, `/opt`, `/etc`",
        );
    } else if path.starts_with("/home") && path != "/home" && !homes.iter().any(|home| path.starts_with(home))
    {
        warn(
            "fhs",
            format!("`{path}` is in the home of nobody that this image makes"),
            "homes belong to people: software goes below `/opt`, data below `/var/lib` or `/srv`",
        );
    } else if bundle && !below(path, &OWN_SOFTWARE) {
        warn(
            "fhs",
            format!("`{path}` is no place for an archive or tree"),
            "unpack below `/opt`, `/usr/local` or `/srv`",
        );
    } else if below(path, &PACKAGED) && !is_unit_or_plugin(path) {
        warn("fhs", format!("`{path}` belongs to packages"), "own programs go to `/usr/local` or `/opt`");
    } else if !bundle
        && is_configuration(path)
        && below(path, &["/opt", "/usr/local", "/srv", "/root", "/home"])
    {
        warn(
            "fhs",
            format!("the configuration `{path}` is outside of `/etc`"),
            "configuration goes below `/etc`",
        );
    } else if path.ancestors().count() == 2
        && path != "/"
        && matches!(operation.action, Action::FileDirectory { .. })
        && !below(path, &STANDARD)
    {
        warn(
            "fhs",
            format!("`{path}` is a new directory at the root"),
            "data goes below `/var/lib` or `/srv`, software below `/opt`",
        );
    }
}

/// The directories at the root that the standard knows.
const STANDARD: [&str; 18] = [
    "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc", "/root",
    "/run", "/sbin", "/srv", "/sys", "/usr", "/var",
];

fn is_unit_or_plugin(path: &Utf8Path) -> bool {
    below(
        path,
        &[
            "/usr/lib/systemd",
            "/lib/systemd",
            "/usr/lib/sysusers.d",
            "/usr/lib/tmpfiles.d",
            "/usr/lib/udev",
            "/usr/lib/locale",
        ],
    )
}

fn is_configuration(path: &Utf8Path) -> bool {
    path.extension().is_some_and(|extension| CONFIGURATION.contains(&extension))
        && !path.as_str().contains("/share/")
}

fn downloads(plan: &Plan, operation: &Operation, warn: &mut Warn<'_>) {
    for content in operation.action.contents() {
        if let Some(Payload::Url { url }) = plan.payloads.get(&content.digest)
            && url.starts_with("http://")
        {
            warn(
                "plain-http",
                format!("`{url}` is downloaded without TLS"),
                "use `https://`: the checksum guards the bytes, not what is asked for",
            );
        }
    }
}

fn packages(operation: &Operation, warn: &mut Warn<'_>) {
    let Action::AptPackages { packages, .. } = &operation.action else { return };
    for request in packages.iter().filter(|request| request.state == PackageState::Latest) {
        let name = &request.name;
        warn(
            "unpinned-package",
            format!("the package `{name}` is the newest of the day: two bakes of one plan may differ"),
            "name a version: `name=version`, or drop `latest`",
        );
    }
}

/// Operations that start services, install packages or download say so in the plan; commands that do say nothing.
fn commands(
    layer: &Layer,
    operation: &Operation,
    text: &dyn Fn(&Digest) -> Option<String>,
    warn: &mut Warn<'_>,
) {
    let Action::Run(run) = &operation.action else { return };
    let script = run.script.as_ref().and_then(|script| text(&script.digest));
    for finding in commands::findings(run, script.as_deref()) {
        let (code, message, help) = match finding {
            Finding::StartsService if layer.booted.is_some() => continue,
            Finding::StartsService => (
                "service-start",
                "a command starts a service during the bake",
                "what a service writes while it runs is in every copy of the image: enable it with `systemd.service`, and \
                 it starts at boot",
            ),
            Finding::InstallsPackages => (
                "unpinned-package",
                "a command installs packages of which the plan does not know",
                "use `apt.packages`: its packages are one transaction, and a change of them is a change of the plan",
            ),
            Finding::InstallsPython => (
                "unpinned-package",
                "a command installs Python packages in the newest versions of the day: two bakes of one plan may differ",
                "name each version with `==`, or use `--require-hashes`",
            ),
            Finding::Downloads => (
                "unpinned-download",
                "a command downloads what nothing checks: two bakes of one plan may differ",
                "use `files.download` or `files.archive` with a checksum",
            ),
            Finding::RunsDownload => (
                "unpinned-download",
                "a command runs what it downloads, and nothing checks it",
                "get the script with `files.download` and a checksum, read it, and run the file",
            ),
        };
        warn(code, message.to_owned(), help);
    }
}

fn shells(operation: &Operation, warn: &mut Warn<'_>) {
    let Action::Run(run) = &operation.action else { return };
    let needless = run.shell
        && run.argv.iter().all(|text| {
            !text.contains(['|', '&', ';', '<', '>', '$', '*', '?', '`', '(', '~', '\n', '"', '\''])
        });
    if needless {
        warn(
            "shell",
            "this command needs no shell".to_owned(),
            "give it as a list: `run.command([\"program\", \"argument\"])`",
        );
    }
}

fn modes(operation: &Operation, warn: &mut Warn<'_>) {
    let (path, mode) = match &operation.action {
        Action::FilePut { path, ownership, .. }
        | Action::FileDirectory { path, ownership, .. }
        | Action::FileGenerated { path, ownership, .. }
        | Action::FileAttributes { path, ownership, .. } => (path, ownership.mode),
        _ => return,
    };
    // With the sticky bit a directory is safe to share, as `/tmp` is.
    if mode.is_some_and(|mode| mode & 0o002 != 0 && mode & 0o1000 == 0) {
        warn(
            "world-writable",
            format!("every user may change `{path}`"),
            "drop the last write bit, or give the directory mode `0o1777`",
        );
    }
}
