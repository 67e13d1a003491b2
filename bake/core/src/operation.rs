//! Operations: typed, idempotent steps, as data.
//!
//! What a recipe calls (`systemd.timer(…)`) is wider than what a machine must know: `bake/lang` lowers each call
//! to the few actions below (two files and an enabled unit). An [`Action`] holds everything that its result
//! depends on and nothing else; texts and files are [`Content`], named by digest. The agent carries actions out
//! as inspect → diff → apply → verify; [`crate::effects`] says which of them may run at the same time.

use std::collections::BTreeMap;
use std::fmt;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::names::OperationId;
use crate::secret::SecretId;
use crate::span::Span;

/// The phases of a component, in the order they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Packages, users, binaries.
    Install,
    /// Files under `/etc`.
    Configure,
    /// Units, timers, watches.
    Units,
    /// Timers and tasks that live in the image: clean-up, backup.
    Maintenance,
    /// Removal of what identifies the build; added by olbake, once for an image.
    Seal,
    /// Checks on a fresh boot.
    Verify,
    /// What a running instance does before another takes its place.
    Upgrade,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Install => "install",
            Self::Configure => "configure",
            Self::Units => "units",
            Self::Maintenance => "maintenance",
            Self::Seal => "seal",
            Self::Verify => "verify",
            Self::Upgrade => "upgrade",
        })
    }
}

/// One step of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Operation {
    /// Its identity in the layer.
    pub id: OperationId,
    /// The phase it belongs to.
    pub phase: Phase,
    /// What people read: `files.template /etc/caddy/Caddyfile`.
    pub title: String,
    /// The calls in the recipe that asked for it; coalesced package operations have several.
    pub spans: Vec<Span>,
    /// What to do.
    pub action: Action,
    /// Run only if one of these changed something in this run; empty: always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub when_changed: Vec<OperationId>,
    /// Operations that must end first, beyond what effects imply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<OperationId>,
}

/// Bytes by digest. Where they are is the plan's list of payloads to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Content {
    /// Digest of the bytes as the plan knows them: with markers where secrets go.
    pub digest: Digest,
    /// Secrets whose markers are in the bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretId>,
}

/// Owner and mode of a path. What is absent is left as it is, or as the system creates it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ownership {
    /// A user's name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// A group's name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Permission bits, `0o7777` at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// A command without a shell: the program and its arguments.
pub type Argv = Vec<String>;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// Install, upgrade or remove packages in one transaction.
    AptPackages {
        /// The packages; sorted by name, one entry a name.
        packages: Vec<PackageRequest>,
        /// Install what is recommended too.
        recommends: bool,
        /// Let the packages start their services.
        start_services: bool,
    },
    /// A package source: a deb822 file in `/etc/apt/sources.list.d` and its keyring in `/etc/apt/keyrings`.
    AptRepo {
        /// Names the files.
        name: String,
        /// The deb822 text without `Signed-By`, which the agent need not add: the text is complete.
        sources: Content,
        /// The keyring, in armoured or binary OpenPGP form, and the path it goes to.
        #[cfg_attr(feature = "schema", schemars(with = "Option<(String, Content)>"))]
        keyring: Option<(Utf8PathBuf, Content)>,
    },
    /// Upgrade what is installed.
    AptUpgrade {
        /// Allow removals and new packages (`dist-upgrade`).
        full: bool,
    },
    /// Keep packages at their version, or let them go again.
    AptHold {
        /// The packages.
        packages: Vec<String>,
        /// Whether they are held.
        held: bool,
    },
    /// An answer for debconf.
    AptDebconf {
        /// The package that asks.
        package: String,
        /// The question: `postfix/main_mailer_type`.
        question: String,
        /// Its type: `select`, `string`, `boolean`, …
        kind: String,
        /// The answer.
        value: String,
    },
    /// A file with this content. Missing parent directories are made, mode 0755, owned by root.
    FilePut {
        /// Where.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
        /// What.
        content: Content,
        /// Whose. A new file without a mode gets 0644.
        #[serde(flatten)]
        ownership: Ownership,
        /// A command that must succeed on the temporary file (`%s`) before it takes its place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        validate: Option<Argv>,
        /// Write it only where there is none yet.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        only_if_absent: bool,
    },
    /// A directory.
    FileDirectory {
        /// Where.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
        /// Whose. A new directory without a mode gets 0755.
        #[serde(flatten)]
        ownership: Ownership,
        /// Apply owner and group to everything below (and the mode, with `x` only where a directory has it).
        recursive: bool,
    },
    /// A symbolic link.
    FileLink {
        /// Where the link is.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
        /// What it holds, as written.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        target: Utf8PathBuf,
        /// Replace a file that stands there.
        force: bool,
    },
    /// Nothing at this path; a directory goes with what is in it.
    FileAbsent {
        /// Where.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
    },
    /// One line of a file.
    FileLine {
        /// The file.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
        /// The line, without its end.
        line: String,
        /// Replaces the last line that matches this expression; without one, equal lines count.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        matching: Option<String>,
        /// Whether the line is to be there. Absent lines go, all that match.
        present: bool,
        /// Where a new line goes.
        place: LinePlace,
        /// As for files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        validate: Option<Argv>,
        /// Create the file when there is none.
        create: bool,
        /// Secrets whose markers are in `line`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        secrets: Vec<SecretId>,
    },
    /// A block of lines between two marker lines.
    FileBlock {
        /// The file.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
        /// The first marker line; the block's own lines follow.
        begin: String,
        /// The last marker line.
        end: String,
        /// The lines; absent: no block.
        content: Option<Content>,
        /// Where a new block goes.
        place: LinePlace,
        /// As for files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        validate: Option<Argv>,
        /// Create the file when there is none.
        create: bool,
    },
    /// One key of an INI file.
    FileIni {
        /// The file.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
        /// The section; empty: the keys before the first section.
        section: String,
        /// The key.
        key: String,
        /// Its value; absent: no such key.
        value: Option<String>,
        /// As for files.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        validate: Option<Argv>,
    },
    /// An archive's members in a directory. Members that would leave the directory fail the operation.
    FileArchive {
        /// The directory.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
        /// The archive.
        content: Content,
        /// Its format.
        format: ArchiveFormat,
        /// Leading path components to drop.
        strip: u32,
        /// Only members that equal one of these paths or lie below one (after stripping); empty: all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
        members: Vec<Utf8PathBuf>,
        /// Owner and group of everything unpacked; modes come from the archive.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        /// See `owner`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
    },
    /// A directory with everything below it.
    FileTree {
        /// The directory.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
        /// What is below, by relative path, parents before children.
        entries: Vec<TreeEntry>,
        /// Remove what is not among the entries.
        delete: bool,
        /// Owner of everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        /// Group of everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<String>,
    },
    /// A file that a command makes on the machine, once: a key, a certificate, a database of a tool.
    FileGenerated {
        /// The file that must exist afterwards.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
        /// The command; `%s` is the path.
        argv: Argv,
        /// Take the command's output as the content.
        from_stdout: bool,
        /// Whose.
        #[serde(flatten)]
        ownership: Ownership,
    },
    /// Owner, mode, access control list, extended attributes and flags of what is already there.
    FileAttributes {
        /// Where.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
        /// Whose.
        #[serde(flatten)]
        ownership: Ownership,
        /// Entries as `setfacl -m` takes them; needs the package `acl` on the machine.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        acl: Vec<String>,
        /// File capabilities as `setcap` takes them; needs the package `libcap2-bin` on the machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        capabilities: Option<String>,
        /// The immutable flag of ext4 (`chattr +i`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        immutable: Option<bool>,
        /// Everything below too.
        recursive: bool,
    },
    /// A user account.
    User {
        /// The name.
        name: String,
        /// The account; absent: no such user.
        account: Option<UserAccount>,
    },
    /// A group.
    Group {
        /// The name.
        name: String,
        /// Whether it is to be there.
        present: bool,
        /// Its number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gid: Option<u32>,
        /// Allocate the number from the system's range.
        system: bool,
    },
    /// A user's supplementary groups; others it has stay.
    Membership {
        /// The user.
        user: String,
        /// The groups.
        groups: Vec<String>,
    },
    /// Public keys that may log in as a user.
    AuthorizedKeys {
        /// The user.
        user: String,
        /// The keys, a line each.
        keys: Vec<String>,
        /// Remove other keys.
        exclusive: bool,
    },
    /// A unit's state. Absent means: leave it.
    Service {
        /// The unit with its suffix: `caddy.service`.
        unit: String,
        /// Start at boot.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        enabled: Option<bool>,
        /// Cannot be started at all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        masked: Option<bool>,
        /// Running now; without a running systemd this is skipped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        running: Option<bool>,
        /// Restart when one of these changed and the unit is running.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        restart_on: Vec<OperationId>,
        /// Reload (or restart, where it cannot reload) when one of these changed and the unit is running.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        reload_on: Vec<OperationId>,
    },
    /// The machine's name: `/etc/hostname`, and the kernel's where there is a running systemd.
    Hostname {
        /// The name.
        name: String,
    },
    /// The time zone: the link `/etc/localtime`, and `/etc/timezone`.
    Timezone {
        /// A name of the tz database: `Europe/Berlin`.
        zone: String,
    },
    /// A kernel parameter: a file in `/etc/sysctl.d`, and the kernel's own value where the machine is booted.
    Sysctl {
        /// The parameter: `net.core.somaxconn`.
        key: String,
        /// Its value.
        value: String,
        /// The file.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
    },
    /// Names of an address in `/etc/hosts`.
    Hosts {
        /// The address.
        address: String,
        /// Its names; empty: no entry for the address.
        names: Vec<String>,
    },
    /// The machine boots again, and the run goes on afterwards. Where machines are built without a boot, or one is
    /// booted only to be built, this is skipped: their next boot is on its way.
    Reboot {
        /// Only where `/run/reboot-required` says that something waits for it.
        required: bool,
    },
    /// A command.
    Run(Box<Run>),
    /// A check: changes nothing, succeeds or fails.
    Check(Check),
    /// Remove what identifies the build: the parts of an image's end, see [`SealStep`].
    Seal {
        /// What to remove.
        step: SealStep,
    },
    /// Search the machine's files for secrets used in the bake, private keys and builder identity.
    LeakScan {
        /// Paths that may hold private keys: the recipe said why.
        #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
        allow: Vec<Utf8PathBuf>,
        /// Where on the machine the files of a disk of the same descent are, which was searched before: a file that is
        /// the same there is not read again. No plan says this; whoever runs the search knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
        searched: Option<Utf8PathBuf>,
    },
}

/// A package and the state it is to have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PackageRequest {
    /// The name, with `:architecture` if foreign.
    pub name: String,
    /// The state.
    pub state: PackageState,
}

/// The state of a package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PackageState {
    /// Installed in any version.
    Present,
    /// Installed in this version.
    Version(String),
    /// Installed in the newest version that the sources offer.
    Latest,
    /// Not installed; its configuration may stay.
    Absent,
}

/// Where a new line or block goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LinePlace {
    /// At the end.
    End,
    /// At the start.
    Start,
    /// After the last line that matches; at the end where none does.
    After(String),
    /// Before the first line that matches; at the end where none does.
    Before(String),
}

/// The formats of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ArchiveFormat {
    /// tar.
    Tar,
    /// tar, gzip.
    TarGz,
    /// tar, Zstandard.
    TarZst,
    /// tar, xz.
    TarXz,
    /// zip.
    Zip,
}

/// One entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TreeEntry {
    /// Path below the tree's directory.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub path: Utf8PathBuf,
    /// What it is.
    #[serde(flatten)]
    pub kind: TreeEntryKind,
}

/// What an entry of a tree is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TreeEntryKind {
    /// A file.
    File {
        /// Its bytes.
        content: Content,
        /// Its mode.
        mode: u32,
    },
    /// A directory.
    Directory {
        /// Its mode.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// What it holds.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        target: Utf8PathBuf,
    },
}

/// A user account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UserAccount {
    /// Its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The primary group's name; absent: a group of the user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Supplementary groups; absent: leave them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// The home directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub home: Option<Utf8PathBuf>,
    /// Make the home directory.
    pub create_home: bool,
    /// The login shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub shell: Option<Utf8PathBuf>,
    /// The full name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Allocate the number from the system's range.
    pub system: bool,
    /// The password's hash, as `crypt(3)` writes it; a marker only. Absent: locked when new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<SecretId>,
}

/// A command to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Run {
    /// The program and its arguments. With a script, the arguments of the script.
    pub argv: Argv,
    /// A script to run instead: written to a temporary file, made executable, run by its `#!` line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<Content>,
    /// `argv` is one shell text, run by `/bin/sh -c`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shell: bool,
    /// The environment, besides `PATH`, `HOME`, `LANG=C.UTF-8` and `DEBIAN_FRONTEND`. Values may carry markers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Secrets whose markers are in `env`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretId>,
    /// The working directory; absent: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub cwd: Option<Utf8PathBuf>,
    /// Run as this user; absent: root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The standard input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<Content>,
    /// Skip when this path exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub creates: Option<Utf8PathBuf>,
    /// Skip when this command succeeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless: Option<Argv>,
    /// Skip when this command fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_if: Option<Argv>,
    /// Exit codes that mean success; empty: 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ok_codes: Vec<i32>,
    /// Exit codes that mean that something changed; empty: all that mean success.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed_codes: Vec<i32>,
    /// Stop it after so many seconds; absent: an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Try again so many times, a second apart, doubling.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// Paths that it reads and writes, when the recipe declares them: otherwise it runs alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effects: Option<DeclaredEffects>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a command touches, as its recipe declares it; paths stand for everything below them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeclaredEffects {
    /// Paths it reads.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub reads: Vec<Utf8PathBuf>,
    /// Paths it writes.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub writes: Vec<Utf8PathBuf>,
}

/// A check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "check", rename_all = "snake_case")]
pub enum Check {
    /// A command ends as expected. Tried again until the deadline.
    Command {
        /// The command.
        argv: Argv,
        /// Run as this user.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// Its exit code.
        exit_code: i32,
        /// Text that its output must contain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stdout_contains: Option<String>,
        /// Seconds to go on trying.
        within_seconds: u32,
    },
    /// A path is as expected.
    File {
        /// Where.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: Utf8PathBuf,
        /// Whether something is to be there.
        present: bool,
        /// `file`, `directory` or `link`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kind: Option<String>,
        /// Whose.
        #[serde(flatten)]
        ownership: Ownership,
        /// Text that it must contain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        contains: Option<String>,
    },
    /// A package is installed.
    Package {
        /// The name.
        name: String,
        /// In this version.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// A unit is in a state. Tried again until the deadline.
    Unit {
        /// The unit with its suffix.
        unit: String,
        /// It is active.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        active: Option<bool>,
        /// It is enabled.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        enabled: Option<bool>,
        /// Seconds to go on trying.
        within_seconds: u32,
    },
    /// Something listens on a TCP port. Tried again until the deadline.
    Port {
        /// The port.
        port: u16,
        /// The address to connect to.
        address: String,
        /// Whether something is to listen.
        open: bool,
        /// Seconds to go on trying.
        within_seconds: u32,
    },
    /// An HTTP request is answered as expected. Tried again until the deadline. Plain HTTP, on the machine itself.
    Http {
        /// The URL: `http://127.0.0.1:8080/health`.
        url: String,
        /// The status.
        status: u16,
        /// Text that the body must contain.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        contains: Option<String>,
        /// Further headers of the request.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        headers: BTreeMap<String, String>,
        /// Seconds to go on trying.
        within_seconds: u32,
    },
    /// A user exists.
    User {
        /// The name.
        name: String,
        /// It is in these groups.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        groups: Vec<String>,
        /// Its login shell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
        shell: Option<Utf8PathBuf>,
        /// Its home directory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
        home: Option<Utf8PathBuf>,
    },
}

/// What is removed at the end of an image, a step each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SealStep {
    /// `/etc/machine-id` becomes empty; the copy of D-Bus goes.
    MachineId,
    /// `/etc/ssh/ssh_host_*`.
    SshHostKeys,
    /// cloud-init's state and logs, so that a new instance is a new instance.
    CloudInit,
    /// Package lists and downloaded packages.
    AptLists,
    /// Files below `/var/log`: emptied if a program keeps them, else removed.
    Logs,
    /// Shell and tool histories of root and of users.
    Histories,
    /// Files left in `/tmp`, `/var/tmp` and `/run`, and olbake's own working files.
    Temporary,
    /// `/etc/resolv.conf` as the builder wrote it, the random seed, udev and DHCP leases.
    HostIdentity,
}

impl SealStep {
    /// Every step, in the order they run.
    pub const ALL: [Self; 8] = [
        Self::MachineId,
        Self::SshHostKeys,
        Self::CloudInit,
        Self::AptLists,
        Self::Logs,
        Self::Histories,
        Self::Temporary,
        Self::HostIdentity,
    ];
}

impl Action {
    /// The path that this action gives its content to, where there is one: two claims on one path must agree.
    pub fn claimed_path(&self) -> Option<&Utf8Path> {
        match self {
            Self::FilePut { path, .. }
            | Self::FileDirectory { path, .. }
            | Self::FileLink { path, .. }
            | Self::FileAbsent { path }
            | Self::FileGenerated { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The contents that the action needs on the machine.
    pub fn contents(&self) -> Vec<&Content> {
        match self {
            Self::FilePut { content, .. } | Self::FileArchive { content, .. } => vec![content],
            Self::AptRepo { sources, keyring, .. } => {
                std::iter::once(sources).chain(keyring.iter().map(|(_, key)| key)).collect()
            }
            Self::FileBlock { content, .. } => content.iter().collect(),
            Self::FileTree { entries, .. } => entries
                .iter()
                .filter_map(|entry| match &entry.kind {
                    TreeEntryKind::File { content, .. } => Some(content),
                    _ => None,
                })
                .collect(),
            Self::Run(run) => run.script.iter().chain(&run.stdin).collect(),
            _ => Vec::new(),
        }
    }

    /// The secrets that the action puts in, in its contents or its own texts.
    pub fn secrets(&self) -> Vec<&SecretId> {
        let own: Vec<&SecretId> = match self {
            Self::FileLine { secrets, .. } => secrets.iter().collect(),
            Self::Run(run) => run.secrets.iter().collect(),
            Self::User { account: Some(account), .. } => account.password_hash.iter().collect(),
            _ => Vec::new(),
        };
        own.into_iter().chain(self.contents().into_iter().flat_map(|content| &content.secrets)).collect()
    }
}
