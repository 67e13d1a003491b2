//! Workspaces of tests, and what they leave on the machine.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};

use serde_json::Value;

/// Bakes take turns: they share a cache, two processors, and what is looked for after them.
static TURN: Mutex<()> = Mutex::new(());

/// Where workspaces of tests lie, and how their names begin.
const WORLDS: &str = "/var/tmp";
const WORLD: &str = "olbake-e2e-";

/// A workspace with recipes, and the cache that tests share.
pub(crate) struct World {
    pub(crate) dir: PathBuf,
    cache: PathBuf,
    _turn: MutexGuard<'static, ()>,
    _machine: File,
}

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    /// A workspace of the given files; none where bakes cannot run.
    pub(crate) fn new(files: &[(&str, &str)]) -> Option<Self> {
        if let Err(lack) = able() {
            assert!(std::env::var_os("OLBAKE_TEST_REQUIRE").is_none(), "this must run here, but {lack}");
            eprintln!("SKIPPED: {lack}");
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let cache = std::env::var_os("OLBAKE_TEST_CACHE")
            .map_or_else(|| PathBuf::from("/var/tmp/olbake-test-cache"), PathBuf::from)
            .join("e2e");
        std::fs::create_dir_all(&cache).unwrap();
        // Other test processes of this machine take turns too.
        let machine = File::create(cache.join("turn")).unwrap();
        machine.lock().unwrap();
        // Whoever holds the turn is alone: what other worlds left, they left by being killed.
        end(&format!("{WORLDS}/{WORLD}"));
        for name in names(Path::new(WORLDS)).into_iter().filter(|name| name.starts_with(WORLD)) {
            drop(std::fs::remove_dir_all(Path::new(WORLDS).join(name)));
        }
        let dir = tempfile::Builder::new().prefix(WORLD).tempdir_in(WORLDS).unwrap().keep();
        let world = Self { dir, cache, _turn: turn, _machine: machine };
        world.write("olbake.toml", "[cache]\nmax_size = \"6 GiB\"\n");
        for (path, text) in files {
            world.write(path, text);
        }
        Some(world)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A command in the workspace, with the shared cache and a registry of the workspace's own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(olbake());
        command
            .args(arguments)
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("NO_COLOR", "1")
            .env("OLBAKE_PASSPHRASE", "of these tests")
            .env("OLBAKE_AGENT", agent())
            .env("OLBAKE_CACHE", self.cache.join("cache"))
            .env("OLBAKE_REGISTRY", format!("file://{}", self.registry().display()))
            .stdin(Stdio::null());
        for proxy in ["http_proxy", "https_proxy", "no_proxy"] {
            if let Some(value) = std::env::var_os(proxy) {
                command.env(proxy, value);
            }
        }
        command
    }

    pub(crate) fn registry(&self) -> PathBuf {
        self.dir.join("registry")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.cache.join("cache")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.command(arguments).output().unwrap().into()
    }

    /// Bakes and gives the result event; fails the test with what was said otherwise.
    pub(crate) fn bake(&self, arguments: &[&str]) -> Value {
        let ended = self.run(&[&["bake", "--json"], arguments].concat());
        assert_eq!(ended.code, 0, "bake {arguments:?} failed:\n{}\n{}", ended.stdout, ended.stderr);
        let last = ended.events().pop().expect("a bake says something");
        assert_eq!(last["event"], "result", "{last}");
        last
    }

    /// A bake that is to fail; all it said.
    pub(crate) fn failing_bake(&self, arguments: &[&str]) -> Ended {
        let ended = self.run(&[&["bake"], arguments].concat());
        // A mistake in a recipe, a host or a store that cannot be used, or what failed on a machine: nobody's bug.
        let code = ended.code;
        let said = format!("{}\n{}", ended.stdout, ended.stderr);
        assert!([4, 5, 7].contains(&code), "bake {arguments:?} was to fail, and ended with {code}:\n{said}");
        assert!(versions(&self.registry()).is_empty(), "a failed bake left a version");
        ended
    }

    /// Starts a bake and gives its process and the reader of its events.
    pub(crate) fn start_bake(&self, image: &str) -> (Child, impl Iterator<Item = Value> + use<>) {
        self.start_bake_with(&[image])
    }

    pub(crate) fn start_bake_with(&self, arguments: &[&str]) -> (Child, impl Iterator<Item = Value> + use<>) {
        let mut child = self
            .command(&[&["bake", "--json"], arguments].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        end(self.dir.to_str().unwrap());
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// Ends what runs, is mounted or is connected for the workspaces whose paths begin so: a test that failed or was killed
/// is not to fail those after it.
fn end(workspaces: &str) {
    let concerns = |text: &str| text.contains(workspaces);
    let run = |program: &str, arguments: &[&str]| {
        drop(Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status());
    };
    for id in command_lines().into_iter().filter(|(_, line)| concerns(line)).map(|(id, _)| id) {
        run("kill", &["-KILL", &id]);
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    for mount in mounts.lines().rev().filter(|line| concerns(line)) {
        run("umount", &["--lazy", mount.split(' ').nth(1).unwrap_or_default()]);
    }
    for link in names(Path::new("/sys/class/net")) {
        let alias = std::fs::read_to_string(format!("/sys/class/net/{link}/ifalias"));
        if alias.is_ok_and(|alias| concerns(&alias)) {
            run("ip", &["link", "delete", "dev", &link]);
        }
    }
}

impl Ended {
    pub(crate) fn events(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// Everything that was said, for looking for words.
    pub(crate) fn said(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    #[track_caller]
    pub(crate) fn says(&self, words: &[&str]) {
        let said = self.said();
        for word in words {
            assert!(said.contains(word), "nothing says {word:?}:\n{said}");
        }
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// What lies on the machine outside of files, and could be left there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    mounts: BTreeSet<String>,
    loops: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl Traces {
    /// What is there now and has to do with olbake.
    pub(crate) fn now() -> Self {
        let lines = |text: String, word: &str| {
            text.lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
        };
        Self {
            mounts: lines(std::fs::read_to_string("/proc/self/mounts").unwrap(), "olbake"),
            loops: loops(),
            namespaces: names(Path::new("/run/netns"))
                .into_iter()
                .filter(|name| name.contains("olbake"))
                .collect(),
            processes: processes(),
        }
    }

    pub(crate) fn none() -> Self {
        Self {
            mounts: BTreeSet::new(),
            loops: BTreeSet::new(),
            namespaces: BTreeSet::new(),
            processes: BTreeSet::new(),
        }
    }

    /// Waits a moment for dying processes to be gone, and says what is left.
    pub(crate) fn settled() -> Self {
        for _ in 0..50 {
            let now = Self::now();
            if now == Self::none() {
                return now;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        Self::now()
    }
}

fn loops() -> BTreeSet<String> {
    names(Path::new("/sys/block"))
        .into_iter()
        .filter_map(|name| std::fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok())
        .filter(|file| file.contains(WORLD) || file.contains("olbake-test-cache/e2e"))
        .collect()
}

/// Processes of these tests, olbake itself included.
fn processes() -> BTreeSet<String> {
    command_lines()
        .into_iter()
        .map(|(_, line)| line)
        .filter(|line| line.contains("olbake-test-cache/e2e") || line.contains(WORLD))
        .collect()
}

/// Other processes, by number: where they are and what they were called with.
fn command_lines() -> Vec<(String, String)> {
    names(Path::new("/proc"))
        .into_iter()
        .filter(|name| name.parse::<u32>().is_ok_and(|id| id != std::process::id()))
        .filter_map(|name| {
            let line = std::fs::read(format!("/proc/{name}/cmdline")).ok()?;
            let place = std::fs::read_link(format!("/proc/{name}/cwd")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            Some((name, format!("{}: {line}", place.display())))
        })
        .collect()
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The version records in a registry.
pub(crate) fn versions(registry: &Path) -> Vec<PathBuf> {
    files(&registry.join("v1/versions"))
}

/// The files below a directory.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for name in names(&directory) {
            let path = directory.join(name);
            if path.is_dir() { directories.push(path) } else { found.push(path) }
        }
    }
    found
}

fn olbake() -> PathBuf {
    std::env::var_os("OLBAKE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_olbake").into(), PathBuf::from)
}

fn agent() -> PathBuf {
    std::env::var_os("OLBAKE_AGENT").map(PathBuf::from).unwrap_or_default()
}

fn able() -> Result<(), String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    if user != Some("0") {
        return Err("only root can bake in containers".into());
    }
    if !agent().is_file() {
        return Err("OLBAKE_AGENT names no agent: run `cargo xtask test`".into());
    }
    Ok(())
}
