//! The test cloud as a process: the example `testcloud` of olbake-testkit, which `cargo xtask test` builds.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    unreachable_pub,
    reason = "tests fail where something is amiss"
)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use camino::Utf8Path;
use serde_json::{Value, json};

/// How long it may take to come up.
const PATIENCE: Duration = Duration::from_secs(120);

/// A test cloud of one's own; it ends when it is dropped.
pub struct TestCloud {
    pub endpoint: String,
    port: u16,
    process: Child,
}

/// The executable: what `OLBAKE_TESTCLOUD` names, or the example that was built beside these tests.
fn executable() -> Option<PathBuf> {
    let named = std::env::var_os("OLBAKE_TESTCLOUD").map(PathBuf::from);
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("examples/testcloud"));
    named.or_else(beside).filter(|path| path.exists())
}

impl TestCloud {
    /// Starts one; none, and a line, where there is none to start.
    pub fn start(folder: &Utf8Path) -> Option<Self> {
        let Some(executable) = executable() else {
            let how = "`cargo build -p olbake-testkit --features ec2 --example testcloud` makes it";
            assert!(std::env::var_os("OLBAKE_TEST_REQUIRE").is_none(), "there is no test cloud: {how}");
            eprintln!("skipped: there is no test cloud; {how}");
            return None;
        };
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(folder.join("cloud.log")).unwrap();
        let mut command = Command::new(executable);
        command.args([
            "--root",
            folder.join("cloud").as_str(),
            "--port",
            &port.to_string(),
            "--records-only",
        ]);
        let process = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut cloud = Self { endpoint: format!("http://127.0.0.1:{port}"), port, process };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = cloud.process.try_wait().unwrap();
            let said = || std::fs::read_to_string(folder.join("cloud.log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < until, "the test cloud does not come up: {}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(cloud)
    }

    /// Something that goes wrong with the next call of an action, and nothing else.
    pub fn fault(&self, action: &str, kind: &str) {
        self.ask("DELETE", "/_faults", &json!({}));
        self.ask("POST", "/_faults", &json!({"action": action, "kind": kind}));
    }

    /// What has not gone wrong yet.
    pub fn faults_left(&self) -> Value {
        self.ask("GET", "/_faults", &json!({}))
    }

    /// Asks the cloud itself.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{method} {path}: {answer}");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

impl Drop for TestCloud {
    fn drop(&mut self) {
        // It ends what it started when it is asked to end.
        let pid = self.process.id().to_string();
        drop(Command::new("kill").args(["-TERM", &pid]).status());
        drop(self.process.wait());
    }
}
