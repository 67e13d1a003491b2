//! Calls of AWS that it takes to look at many resources, counted by the test cloud.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use super::{Figure, Target};
use crate::build::{self, Built};

pub(super) const FIGURES: [&str; 1] = ["refresh.1k.calls"];

const MANY: usize = 1_000;
/// How long the test cloud may take to come up.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn measure(_: &Built) -> Result<Vec<Figure>> {
    let looker = build::example("olbake-aws", "refresh_many")?;
    let cloud = build::test_cloud()?;
    let folder =
        Utf8PathBuf::try_from(std::env::temp_dir())?.join(format!("olbake-refresh-{}", std::process::id()));
    std::fs::create_dir(&folder).with_context(|| format!("cannot make `{folder}`"))?;
    let measured = look(&cloud, &looker, &folder);
    // What cannot be removed is in the folder for temporary things.
    drop(std::fs::remove_dir_all(&folder));
    let (calls, seconds) = measured?;
    Ok(vec![Figure {
        name: FIGURES[0],
        value: calls,
        unit: "calls",
        against: format!("{MANY} resources of 10 types looked at in {seconds:.1} s on the test cloud"),
        target: Target::AtMost(40.0),
    }])
}

/// The calls that looking takes, and the seconds.
fn look(cloud: &Utf8Path, looker: &Utf8Path, folder: &Utf8Path) -> Result<(f64, f64)> {
    let cloud = Cloud::start(cloud, &folder.join("cloud"))?;
    let endpoint = format!("http://127.0.0.1:{}", cloud.port);
    let mut looker = Command::new(looker)
        .args([endpoint.as_str(), folder.as_str(), &MANY.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(looker.stdout.take().context("its output is a pipe")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    ensure!(line.trim() == "made", "the resources could not be made");
    cloud.ask("DELETE")?;
    looker.stdin.take().context("its input is a pipe")?.write_all(b"look\n")?;
    let mut rest = String::new();
    said.read_to_string(&mut rest)?;
    ensure!(looker.wait()?.success(), "the resources could not be looked at");
    let said: Value = serde_json::from_str(&rest)?;
    let calls = cloud.ask("GET")?["total"].as_f64().context("the test cloud counts no calls")?;
    Ok((calls, said["seconds"].as_f64().context("no `seconds`")?))
}

/// A test cloud that ends with this.
struct Cloud {
    process: Child,
    port: u16,
}

impl Cloud {
    fn start(executable: &Utf8Path, folder: &Utf8Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = Command::new(executable)
            .args(["--root", folder.as_str(), "--port", &port.to_string(), "--records-only"])
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

    /// What it counted, or that it is to count anew.
    fn ask(&self, method: &str) -> Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(stream, "{method} /_calls HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")?;
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
