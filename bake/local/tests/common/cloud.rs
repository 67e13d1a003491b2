//! A cloud of a test's own, a service in its instances, and somebody who uses that service all the time.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test binary uses its part, and a test that cannot go on is to end"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_engine::machine::{Snapshot, Substrate};
use olbake_local::cloud::{
    BalancerSpec, Cloud, Health, HealthCheck, Id, InstanceSpec, InstanceView, Limits, ListenOn, Listener,
    Member, Mode, NetworkSpec, NetworkView, State,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Place, host};

pub const BOOT: Duration = Duration::from_secs(120);
pub const GRACE: Duration = Duration::from_secs(60);
pub const PORT: u16 = 8000;

/// Answers every request with the host name, one connection each, after the seconds it is given.
const SERVICE: &str = r#"
use IO::Socket::INET;
$SIG{CHLD} = "IGNORE";
my $name = `hostname`;
my $listener = IO::Socket::INET->new(LocalPort => 8000, Listen => 512, ReuseAddr => 1) or die;
while (1) {
    my $client = $listener->accept or next;
    if (fork) { close $client; next }
    while (my $line = <$client>) { last if $line eq "\r\n" }
    sleep $ARGV[0];
    print $client "HTTP/1.1 200 OK\r\nContent-Length: ", length $name, "\r\nConnection: close\r\n\r\n$name";
    close $client;
    exit;
}
"#;

/// Whether the test can run here; says so where it cannot, and fails where it must.
pub fn can_run() -> bool {
    let Err(errors) = Cloud::preflight() else { return true };
    let reasons: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let required = std::env::var("OLBAKE_TEST_REQUIRE").is_ok_and(|value| value == "1");
    assert!(!required, "this test must run here, but: {}", reasons.join("; "));
    eprintln!("SKIPPED, not tested: {}", reasons.join("; "));
    false
}

pub fn id(text: &str) -> Id {
    text.parse().unwrap()
}

/// A cloud with a network, removed at the end of the test even if that fails.
pub struct TestCloud {
    pub cloud: Cloud,
    pub folder: Utf8PathBuf,
    pub network: NetworkView,
    pub disk: Snapshot,
    before: Vec<String>,
    number: u8,
    _place: Place,
}

impl TestCloud {
    /// Networks of tests that run at the same time have other numbers.
    pub async fn new(number: u8, disk: Snapshot) -> Self {
        let place = Place::new();
        let folder = place.path.join("cloud");
        let before = traces(&folder, number);
        let cloud = Cloud::open(&folder).unwrap();
        let cidr = cidr(number);
        let spec = NetworkSpec { id: id("net"), cidr: cidr.parse().unwrap() };
        let network = cloud.ensure_network(spec).await.unwrap().view;
        Self { cloud, folder, network, disk, before, number, _place: place }
    }

    pub fn spec(&self, name: &str) -> InstanceSpec {
        let digest = Digest::of(b"the base disk of the tests");
        InstanceSpec {
            id: id(name),
            name: name.to_owned(),
            network: self.network.id.clone(),
            digest,
            disk: self.disk.disk.clone(),
            identity: format!("{{\"image\": \"base\", \"variant\": null, \"digest\": \"{digest}\"}}\n"),
            user_data: None,
            volumes: vec![],
            substrate: Substrate::Container,
            limits: Limits::default(),
        }
    }

    /// Launches an instance and waits for its boot.
    pub async fn launch(&self, name: &str) -> InstanceView {
        self.cloud.ensure_instance(self.spec(name)).await.unwrap();
        self.booted(name).await
    }

    pub async fn booted(&self, name: &str) -> InstanceView {
        let view = self.cloud.await_boot(&id(name), BOOT).await.unwrap().unwrap();
        let console = self.cloud.console(&id(name)).await.unwrap();
        assert_eq!(view.state, State::Running, "{console}");
        view
    }

    pub async fn shell(&self, name: &str, script: &str) -> String {
        let argv = ["sh", "-ec", script].map(str::to_owned).to_vec();
        let done = self.cloud.exec(&id(name), argv, BOOT).await.unwrap();
        assert!(done.succeeded(), "{done:?}");
        done.stdout
    }

    /// Launches an instance that serves.
    pub async fn serving(&self, name: &str) -> Ipv4Addr {
        self.serving_after(name, Duration::ZERO).await
    }

    /// Launches an instance that serves, each answer after a time.
    pub async fn serving_after(&self, name: &str, late: Duration) -> Ipv4Addr {
        let view = self.launch(name).await;
        let late = late.as_secs().to_string();
        let argv = ["systemd-run", "--quiet", "--unit=service", "perl", "-e", SERVICE, &late];
        let done = self.cloud.exec(&id(name), argv.map(str::to_owned).to_vec(), BOOT).await.unwrap();
        assert!(done.succeeded(), "{done:?}");
        view.address.unwrap()
    }

    pub fn balancer(&self) -> BalancerSpec {
        BalancerSpec {
            id: id("lb"),
            network: self.network.id.clone(),
            listeners: vec![Listener {
                port: PORT,
                on: ListenOn::Gateway,
                backend: id("web"),
                mode: Mode::Http,
            }],
            health: HealthCheck {
                path: Some("/".into()),
                interval: Duration::from_millis(200),
                timeout: Duration::from_secs(5),
                rise: 2,
                fall: 2,
            },
            drain_timeout: Duration::from_secs(10),
        }
    }

    /// Makes a serving instance a member and waits until the balancer finds it healthy.
    pub async fn join(&self, name: &str, address: Ipv4Addr) {
        let member = Member { instance: id(name), address, port: PORT, weight: 100 };
        self.cloud.put_member(&id("lb"), &id("web"), member).await.unwrap();
        self.healthy(name).await;
    }

    pub async fn healthy(&self, name: &str) {
        let mut last = None;
        for _ in 0..600 {
            last = self.cloud.member(&id("lb"), &id("web"), &id(name)).await.unwrap();
            if last.as_ref().is_some_and(|view| view.health == Health::Up) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not healthy: {last:?}");
    }

    /// Ends the cloud and asserts that nothing of it is left.
    pub async fn end(self) {
        self.cloud.destroy_all().await.unwrap();
        assert_eq!(traces(&self.folder, self.number), self.before);
        let left: Vec<_> =
            self.folder.read_dir_utf8().unwrap().map(|entry| entry.unwrap().into_path()).collect();
        assert_eq!(left, Vec::<Utf8PathBuf>::new());
    }
}

impl Drop for TestCloud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let cloud = self.cloud.clone();
            let runtime = move || tokio::runtime::Runtime::new().unwrap().block_on(cloud.destroy_all());
            std::thread::spawn(runtime).join().unwrap().unwrap();
        }
    }
}

fn cidr(number: u8) -> String {
    format!("10.{}.{number}.0/24", 64 + std::process::id() % 128)
}

/// What the host has of a test's cloud, a line each.
pub fn traces(folder: &Utf8Path, number: u8) -> Vec<String> {
    let mut traces = Vec::new();
    let of_folder = |text: &str| text.contains(folder.as_str());
    let mut keep = |kind: &str, lines: &str, wanted: &dyn Fn(&str) -> bool| {
        traces.extend(lines.lines().filter(|line| wanted(line)).map(|line| format!("{kind}: {line}")));
    };
    keep("mount", &std::fs::read_to_string("/proc/self/mountinfo").unwrap(), &of_folder);
    // One device serves all tests that run at the same time, under the name of the first: their disks are one file.
    let own = |line: &str| of_folder(line) && !line.contains("(deleted)");
    keep("loop", &host("losetup", &["--list", "--noheadings"]).1, &own);
    keep("process", &host("ps", &["-eo", "pid,args"]).1, &of_folder);
    keep("link", &host("ip", &["-oneline", "link", "show"]).1, &of_folder);
    let gateway = format!(" {} ", cidr(number).replace(".0/", ".1/"));
    keep("address", &host("ip", &["-oneline", "-4", "address"]).1, &|line| line.contains(&gateway));
    keep("namespace", &host("ip", &["netns", "list"]).1, &|_| true);
    traces.sort();
    traces
}

/// Somebody who asks all the time, with several questions at once.
pub struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    failures: Arc<std::sync::Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    pub fn on(address: SocketAddr) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let failures = Arc::new(std::sync::Mutex::new(Vec::new()));
        let tasks = (0..8)
            .map(|_| {
                let (stop, asked, failures) = (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&failures));
                tokio::spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        if let Err(failure) = ask(address).await {
                            failures.lock().unwrap().push(failure);
                        }
                        asked.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                })
            })
            .collect();
        Self { stop, asked, failures, tasks }
    }

    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Waits until some more were answered.
    pub async fn go_on(&self, more: u64) {
        let until = self.asked() + more;
        while self.asked() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends; how many were asked, and what went wrong.
    pub async fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let failures = self.failures.lock().unwrap().clone();
        (self.asked.load(Ordering::Relaxed), failures)
    }
}

/// Asks once, and returns who answered.
pub async fn ask(address: SocketAddr) -> Result<String, String> {
    let talk = async {
        let mut stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
        let request = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.map_err(|error| format!("write: {error}"))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(|error| format!("read: {error}"))?;
        if !answer.starts_with("HTTP/1.1 200") {
            return Err(format!("answer: {answer}"));
        }
        Ok(answer.rsplit("\r\n\r\n").next().unwrap_or_default().trim().to_owned())
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, talk).await.unwrap_or_else(|_| Err("no answer in 30 s".to_owned()))
}
