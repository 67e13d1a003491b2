//! Bad input and a bad day: a clear error that points at the cause, and nothing lost or left.

use std::process::Command;

use super::bakes::{FIRST, tiny};
use super::support::{Ended, Traces, World, files};

const IMAGE: &str =
    r#"image(name = "one", base = debian("bookworm"), components = [use("//components/one")])"#;

/// A workspace of one image with one component of this body.
pub(crate) fn one(body: &str) -> Vec<(&'static str, String)> {
    let verify = if body.contains("def verify") {
        String::new()
    } else {
        "\ndef verify(s, m):\n    check.file(\"/etc/os-release\")\n".to_owned()
    };
    let mut named = Vec::new();
    for phase in ["install", "configure", "units", "verify"] {
        if body.contains(&format!("def {phase}")) || (phase == "verify" && !verify.is_empty()) {
            named.push(format!("{phase} = {phase}"));
        }
    }
    let component = format!("{body}{verify}\ncomponent(name = \"one\", {})\n", named.join(", "));
    vec![("components/one/component.star", component), ("images/one/image.star", IMAGE.to_owned())]
}

/// Bakes it, expects a failure that says these words, and that nothing is left.
fn fails(body: &str, words: &[&str]) {
    let files = one(body);
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let Some(world) = World::new(&files) else { return };
    world.failing_bake(&["one"]).says(words);
    assert_eq!(Traces::settled(), Traces::none());
}

#[test]
fn a_package_that_is_not_found_is_named() {
    fails(
        "def install(s, m):\n    apt.packages([\"no-such-package-anywhere\"])\n",
        &["no-such-package-anywhere", "components/one/component.star:2"],
    );
}

#[test]
fn a_failing_command_shows_itself_its_status_and_its_output() {
    fails(
        "def configure(s, m):\n    run.command([\"sh\", \"-c\", \"echo so it goes >&2; exit 7\"])\n",
        &["components/one/component.star:2", "exit 7", "exit status 7", "so it goes"],
    );
}

#[test]
fn a_file_that_does_not_validate_fails_the_bake() {
    fails(
        "def configure(s, m):\n    files.content(\"/etc/one.conf\", \"x\\n\", validate = [\"grep\", \"-q\", \"y\", \"%s\"])\n",
        &["components/one/component.star:2", "/etc/one.conf", "grep -q y"],
    );
}

#[test]
fn a_check_that_does_not_hold_on_the_fresh_boot_leaves_no_version() {
    fails(
        "def configure(s, m):\n    files.content(\"/etc/one.conf\", \"x\\n\")\n\ndef verify(s, m):\n    check.file(\"/etc/one.conf\", contains = \"y\")\n",
        &["check.file", "/etc/one.conf", "fresh boot"],
    );
}

#[test]
fn a_download_with_another_checksum_is_refused() {
    let Some(world) = World::new(&[]) else { return };
    // A server of one answer, on this machine.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in server.incoming().take(5).flatten() {
            use std::io::{Read as _, Write as _};
            let mut stream = stream;
            drop(stream.read(&mut [0; 4096]));
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nnot that";
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    let body = format!(
        "def install(s, m):\n    files.download(\"/opt/thing\", url = \"http://127.0.0.1:{port}/thing.bin\", sha256 = \"{}\")\n",
        "0".repeat(64)
    );
    for (path, text) in one(&body) {
        world.write(path, &text);
    }
    world.failing_bake(&["one"]).says(&["thing.bin", &"0".repeat(64)]);
    assert_eq!(Traces::settled(), Traces::none());
}

#[test]
fn archives_do_not_escape() {
    let Some(world) = World::new(&[]) else { return };
    let evil = [
        (
            "dots",
            "import tarfile,io\nt=tarfile.open('evil.tar','w')\ni=tarfile.TarInfo('../../etc/evil')\ni.size=1\nt.addfile(i,io.BytesIO(b'x'))\nt.close()",
        ),
        (
            "absolute",
            "import tarfile,io\nt=tarfile.open('evil.tar','w')\ni=tarfile.TarInfo('/etc/evil')\ni.size=1\nt.addfile(i,io.BytesIO(b'x'))\nt.close()",
        ),
        (
            "link",
            "import tarfile,io\nt=tarfile.open('evil.tar','w')\ni=tarfile.TarInfo('out')\ni.type=tarfile.SYMTYPE\ni.linkname='/etc'\nt.addfile(i)\nj=tarfile.TarInfo('out/evil')\nj.size=1\nt.addfile(j,io.BytesIO(b'x'))\nt.close()",
        ),
    ];
    for (kind, program) in evil {
        let made = Command::new("python3")
            .args(["-c", program])
            .current_dir(world.dir.join("components/one").tap(|dir| std::fs::create_dir_all(dir).unwrap()))
            .status();
        assert!(made.unwrap().success());
        for (path, text) in one("def install(s, m):\n    files.archive(\"/opt/one\", src = \"evil.tar\")\n") {
            world.write(path, &text);
        }
        let ended = world.failing_bake(&["one"]);
        ended.says(&["components/one/component.star:2"]);
        assert!(ended.said().contains("evil"), "{kind}: {}", ended.said());
    }
}

#[test]
fn without_root_the_error_says_so() {
    let Some(world) = World::new(&tiny()) else { return };
    let everyone = || std::os::unix::fs::PermissionsExt::from_mode(0o755);
    // Where everyone may go: the command itself may lie where only root does.
    let place = tempfile::Builder::new().prefix("olbake-nobody-").tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(place.path(), everyone()).unwrap();
    std::fs::set_permissions(&world.dir, everyone()).unwrap();
    let copy = |from: &std::ffi::OsStr, name: &str| {
        let to = place.path().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, everyone()).unwrap();
        to
    };
    let as_nobody = |arguments: &[&str]| -> Ended {
        let ours = world.command(arguments);
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        command.arg(copy(ours.get_program(), "olbake")).args(ours.get_args());
        command.current_dir(&world.dir).env_clear();
        for (name, value) in ours.get_envs().filter_map(|(name, value)| Some((name, value?))) {
            let value =
                if name == "OLBAKE_AGENT" { copy(value, "olbake-agent").into() } else { value.to_owned() };
            command.env(name, value);
        }
        command.env("OLBAKE_CACHE", place.path().join("cache"));
        command.output().unwrap().into()
    };
    // What changes a machine needs root, and says so before anything is begun; there is nothing to write into either.
    for (command, code) in [(&["bake", "tiny"][..], 5), (&["shell", "tiny"], 3)] {
        let ended = as_nobody(command);
        assert_eq!(ended.code, code, "{}", ended.said());
        assert!(!ended.said().contains("Permission denied"), "{}", ended.said());
    }
    as_nobody(&["bake", "tiny"]).says(&["root"]);
    // What only reads does not, in a workspace where nothing was ever baked and nothing may be written.
    for command in [&["check"][..], &["plan", "tiny"], &["images"], &["status"], &["stack", "list"]] {
        let ended = as_nobody(command);
        assert_eq!(ended.code, 0, "{command:?}: {}", ended.said());
    }
    world.bake(&["tiny"]);
    for command in [&["images"][..], &["show", "tiny"], &["why", "tiny"]] {
        let ended = as_nobody(command);
        assert_eq!(ended.code, 0, "{command:?}: {}", ended.said());
    }
    let again = as_nobody(&["bake", "tiny"]);
    assert!(!again.said().contains("baking"), "{}", again.said());
}

#[test]
fn a_missing_host_tool_is_named_with_its_package() {
    let Some(world) = World::new(&tiny()) else { return };
    // In a mount namespace of its own, nothing that can be run stands in the tool's place.
    let bake = world.command(&["bake", "tiny"]);
    let hide = "mount --bind /dev/null \"$(command -v systemd-nspawn)\" && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", hide, "sh"]).arg(bake.get_program()).args(bake.get_args());
    command.current_dir(&world.dir).env_clear();
    command.envs(bake.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ended: Ended = command.output().unwrap().into();
    assert_eq!(ended.code, 5, "{}", ended.said());
    ended.says(&["systemd-nspawn", "systemd-container"]);
}

#[test]
fn tools_are_found_without_a_path() {
    let Some(world) = World::new(&tiny()) else { return };
    let ended: Ended = world.command(&["bake", "tiny"]).env("PATH", "/nonexistent").output().unwrap().into();
    assert_eq!(ended.code, 0, "{}", ended.said());
}

#[test]
fn a_corrupt_block_and_a_torn_manifest_are_noticed() {
    let Some(world) = World::new(&tiny()) else { return };
    world.bake(&["tiny"]);
    let largest = files(&world.registry())
        .into_iter()
        .max_by_key(|path| std::fs::metadata(path).map_or(0, |data| data.len()))
        .unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    for byte in bytes.iter_mut().skip(100).step_by(5000) {
        *byte ^= 0x55;
    }
    std::fs::write(&largest, bytes).unwrap();
    let mut command = world.command(&["export", "tiny", "--format", "raw", "--output", "a.raw"]);
    let ended: Ended = command.env("OLBAKE_CACHE", world.dir.join("fresh")).output().unwrap().into();
    assert_eq!(ended.code, 5, "{}", ended.said());
    ended.says(&["corrupt", largest.file_name().unwrap().to_str().unwrap()]);
    assert!(!world.dir.join("a.raw").exists());

    let version = super::support::versions(&world.registry()).pop().unwrap();
    let text = std::fs::read_to_string(&version).unwrap();
    std::fs::write(&version, &text[..text.len() / 2]).unwrap();
    let ended = world.run(&["show", "tiny"]);
    assert_eq!(ended.code, 5, "{}", ended.said());
    ended.says(&[version.file_name().unwrap().to_str().unwrap()]);
}

#[test]
fn two_bakes_of_one_image_do_not_collide() {
    let Some(world) = World::new(&tiny()) else { return };
    let words = format!("first.words=two {}", std::process::id());
    let start = || {
        let mut command = world.command(&["bake", "tiny", "--json", "--set", &words]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let (first, second) = (start(), start());
    let first: Ended = first.wait_with_output().unwrap().into();
    let second: Ended = second.wait_with_output().unwrap().into();
    assert_eq!((first.code, second.code), (0, 0), "{}\n{}", first.said(), second.said());
    let digest = |ended: &Ended| ended.events().pop().unwrap()["digest"].clone();
    assert_eq!(digest(&first), digest(&second));
    assert_eq!(super::support::versions(&world.registry()).len(), 1);
    assert_eq!(Traces::settled(), Traces::none());
}

#[test]
fn a_full_disk_is_said_and_the_next_bake_succeeds() {
    let Some(world) = World::new(&[]) else { return };
    world.write("components/first/component.star", FIRST);
    world.write(
        "images/one/image.star",
        r#"image(name = "one", base = debian("bookworm"), components = [use("//components/first")])"#,
    );
    // The registry lies on a file system with hardly any room.
    let small = world.dir.join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=20m", "tmpfs", small.to_str().unwrap()])
        .status();
    assert!(mounted.unwrap().success());
    let mut command = world.command(&["bake", "one"]);
    let ended: Ended =
        command.env("OLBAKE_REGISTRY", format!("file://{}", small.display())).output().unwrap().into();
    let left = super::support::versions(&small);
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    assert_eq!(ended.code, 5, "{}", ended.said());
    ended.says(&["space"]);
    assert!(left.is_empty(), "{left:?}");
    world.bake(&["one"]);
    assert_eq!(Traces::settled(), Traces::none());
}

/// Lets a value be used in passing.
trait Tap: Sized {
    fn tap(self, look: impl FnOnce(&Self)) -> Self {
        look(&self);
        self
    }
}

impl<T> Tap for T {}

const VERIFIER: &str = r#"
project(
    config = settings(name = "shop", fields = {
        "password": setting(secret, doc = "a password"),
        "rounds": setting(int, default = 4096, doc = "rounds of hashing"),
    }),
    stack = lambda c, ctx: output("verifier", postgresql.verifier("admin", password = c.password, iterations = c.rounds).verifier),
)
"#;

#[test]
fn a_full_disk_stops_a_deploy_and_the_next_one_goes_on() {
    const STACK: &str = "applications.shop.QA";
    let Some(world) = World::new(&[("stacks/applications/shop/stack.star", VERIFIER)]) else { return };
    world.write("stacks/applications/shop/QA.toml", "");
    super::stacks::seal(&world, STACK, "password", "a password that nobody guesses");
    // The states lie on a file system of their own.
    let state = world.dir.join("states");
    std::fs::create_dir(&state).unwrap();
    let options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", state.to_str().unwrap()];
    assert!(Command::new("mount").args(options).status().unwrap().success());
    world.write("olbake.toml", &format!("[state]\nurl = \"file://{}\"\n", state.display()));
    let filler = state.join("filler");
    let fill = || drop(std::fs::write(&filler, vec![1_u8; 4 << 20]));
    let deploy = || world.run(&["deploy", "--yes", "--stack", STACK]);

    fill();
    let first = deploy();
    std::fs::remove_file(&filler).unwrap();
    let second = deploy();
    let outputs = world.run(&["outputs", "--stack", STACK, "verifier"]);
    let set = world.run(&["config", "--stack", STACK, "set", "rounds", "5000"]);
    fill();
    let third = deploy();
    let kept = world.run(&["outputs", "--stack", STACK, "verifier"]);
    std::fs::remove_file(&filler).unwrap();
    let fourth = deploy();
    let changed = world.run(&["outputs", "--stack", STACK, "verifier"]);
    assert!(Command::new("umount").arg(&state).status().unwrap().success());

    assert_eq!(first.code, 5, "{}", first.said());
    first.says(&["space"]);
    assert_eq!(second.code, 0, "{}", second.said());
    assert_eq!((outputs.code, set.code), (0, 0), "{}{}", outputs.said(), set.said());
    // What was written stays readable, and is what it was.
    assert_eq!(third.code, 5, "{}", third.said());
    third.says(&["space"]);
    assert_eq!(kept.stdout, outputs.stdout, "{}", kept.said());
    assert_eq!(fourth.code, 0, "{}", fourth.said());
    assert_ne!(changed.stdout, outputs.stdout, "{}", changed.said());
}
