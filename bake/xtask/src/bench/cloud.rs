//! The test cloud, as what benches talk to.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use camino::Utf8Path;
use serde_json::Value;

/// How long it may take to come up: its first image is made then.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whether instances run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instances {
    /// They do.
    Run,
    /// They are records.
    Records,
}

/// A test cloud that ends with this.
pub(super) struct Cloud {
    process: Child,
    port: u16,
}

impl Cloud {
    pub(super) fn start(executable: &Utf8Path, folder: &Utf8Path, instances: Instances) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let records: &[&str] = if instances == Instances::Records { &["--records-only"] } else { &[] };
        let process = Command::new(executable)
            .args(["--root", folder.as_str(), "--port", &port.to_string()])
            .args(records)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut cloud = Self { process, port };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = cloud.process.try_wait()?.is_some();
            ensure!(!ended && Instant::now() < until, "the test cloud does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(cloud)
    }

    /// Where it answers.
    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What a client's environment must say.
    pub(super) fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// Asks the cloud itself: what it counted, how it is to behave.
    pub(super) fn ask(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("the test cloud does not answer")?;
        Ok(serde_json::from_str(body)?)
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // It ends what it started when it is asked to end.
        drop(Command::new("kill").args(["-TERM", &self.process.id().to_string()]).status());
        drop(self.process.wait());
    }
}
