//! The test cloud as a process: snapshots with parents, checksums, client tokens and tags, as EC2 has them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use olbake_aws::Account;

/// A test cloud that ends with this value.
pub(crate) struct TestCloud {
    child: Child,
    endpoint: String,
    _root: tempfile::TempDir,
}

impl TestCloud {
    /// Starts one; none where it is not built and need not be.
    pub(crate) fn start() -> Option<Self> {
        let beside = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/testcloud");
        let program = std::env::var_os("OLBAKE_TESTCLOUD").map_or(beside, Into::into);
        if !program.exists() {
            let message = format!(
                "`{}` is not there: cargo build -p olbake-testkit --features ec2 --example testcloud",
                program.display()
            );
            assert!(!std::env::var("OLBAKE_TEST_REQUIRE").is_ok_and(|value| value == "1"), "{message}");
            eprintln!("SKIPPED: {message}");
            return None;
        }
        let root = tempfile::Builder::new().prefix("olbake-s3ebs-cloud-").tempdir_in("/var/tmp").unwrap();
        let mut child = Command::new(program)
            .args(["--records-only".as_ref(), "--root".as_ref(), root.path().as_os_str()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let endpoint = loop {
            let line = lines.next().expect("the test cloud starts").unwrap();
            if let Some(endpoint) = line.strip_prefix("export AWS_ENDPOINT_URL=") {
                break endpoint.trim_matches('\'').to_owned();
            }
        };
        // Whoever prints must not meet a closed pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child, endpoint, _root: root })
    }

    pub(crate) async fn account(&self) -> Account {
        super::account(&self.endpoint).await
    }

    /// Asks the cloud itself: `POST /_faults`.
    pub(crate) fn tell(&self, method: &str, path: &str, body: &serde_json::Value) -> serde_json::Value {
        let address = self.endpoint.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        serde_json::from_str(body).unwrap()
    }
}

impl Drop for TestCloud {
    fn drop(&mut self) {
        drop(Command::new("kill").arg(self.child.id().to_string()).status());
        drop(self.child.wait());
    }
}
