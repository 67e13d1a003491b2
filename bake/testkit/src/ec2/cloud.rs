//! The test cloud itself: [`TestCloud`].

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::balancer::HostBalancers;
use super::base;
use super::body::{Bodies, HostBodies};
use super::calls::{Aim, Calls, Counts, When};
use super::error::{CloudError, io_error};
use super::faults::{Behaviour, Fault, Faults};
use super::machines::Machines;
use super::moto::{self, Moto};
use super::proxy;
use super::shared::{Shared, follow};
use super::snapshots::{Snapshots, Stage};
use super::tokens::Tokens;
use super::upstream::Upstream;
use super::visibility::Visibility;

/// What a test cloud is made of.
pub struct Config {
    /// Where it keeps disks and snapshots. One cloud at a time uses it; what an older one left in it is removed.
    pub root: Utf8PathBuf,
    /// Where it listens on the loopback; 0: wherever there is room.
    pub port: u16,
    /// What makes instances run; without it they are records only.
    pub bodies: Option<Arc<dyn Bodies>>,
    /// What makes load balancers work; without it targets are healthy when their instances run.
    pub balancers: Option<HostBalancers>,
    /// The images that are there from the beginning, of other accounts. If there are none, moto has some of its
    /// own, which no disk belongs to.
    pub images: Vec<StockImage>,
    /// Where: `us-east-1`.
    pub region: String,
}

/// An image that is there from the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockImage {
    /// The account that it belongs to.
    pub owner: String,
    /// Its name.
    pub name: String,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// Its disk, raw, which is copied; without one its instances have no body.
    pub disk: Option<Utf8PathBuf>,
}

/// Where an image is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// `ami-0123…`.
    pub image: String,
    /// `snap-0123…`.
    pub snapshot: String,
}

impl Config {
    /// One without bodies, on any port.
    pub fn new(root: impl Into<Utf8PathBuf>) -> Self {
        Self {
            root: root.into(),
            port: 0,
            bodies: None,
            balancers: None,
            images: Vec::new(),
            region: "us-east-1".to_owned(),
        }
    }

    /// One whose instances boot and whose load balancers work; `cache` keeps the public image that they start from,
    /// which takes some minutes to make.
    pub async fn with_bodies(
        root: impl Into<Utf8PathBuf>,
        cache: &Utf8Path,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Self, CloudError> {
        let config = Self::new(root);
        let image = StockImage::from(base::base(cache, progress).await?);
        let bodies = Arc::new(HostBodies::open(&config.root.join("bodies"))?);
        let balancers = HostBalancers::open(&config.root.join("balancers"))?;
        Ok(Self { bodies: Some(bodies), balancers: Some(balancers), images: vec![image], ..config })
    }
}

/// A cloud of one's own on the loopback. It and all its instances end when it is dropped.
pub struct TestCloud {
    address: SocketAddr,
    region: String,
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
    _moto: Moto,
    _lock: File,
}

impl TestCloud {
    /// Starts one; returns when it answers.
    pub async fn start(config: Config) -> Result<Self, CloudError> {
        let Config { root, port, bodies, balancers, images, region } = config;
        std::fs::create_dir_all(&root).map_err(io_error("cannot make", &root))?;
        let root = root.canonicalize_utf8().map_err(io_error("cannot find", &root))?;
        let lock = lock(&root)?;
        let moto = Moto::start(&root, &environment(bodies.is_some(), images.is_empty())).await?;
        let shared = Arc::new(Shared {
            moto: Upstream::new(moto.port),
            calls: Calls::default(),
            faults: Faults::default(),
            tokens: Tokens::default(),
            visibility: Visibility::default(),
            snapshots: Arc::new(Snapshots::new(empty(root.join("snapshots"))?)),
            machines: Machines::new(bodies, empty(root.join("volumes"))?),
            balancers,
            root: root.clone(),
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.map_err(io_error("cannot listen for", &root))?;
        let address = listener.local_addr().map_err(io_error("cannot listen for", &root))?;
        for image in images {
            add(&shared, &region, image).await?;
        }
        let tasks =
            [tokio::spawn(serve(listener, Arc::clone(&shared))), tokio::spawn(follow(Arc::clone(&shared)))];
        Ok(Self { address, region, shared, tasks, _moto: moto, _lock: lock })
    }

    /// A Python interpreter that has boto3, an independent client of AWS.
    pub async fn python() -> Result<Utf8PathBuf, CloudError> {
        moto::installed().await
    }

    /// Ends everything in it, in order.
    pub async fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.machines.end_all().await;
    }

    /// Adds an image of another account.
    pub async fn add_image(&self, image: StockImage) -> Result<Registered, CloudError> {
        add(&self.shared, &self.region, image).await
    }

    /// Has the next launches of an Auto Scaling group fail for lack of capacity.
    pub async fn no_capacity_for_group(&self, group: &str, times: u32) -> Result<(), CloudError> {
        let told = json!({ "group": group, "times": times });
        self.shared.moto.record("no_capacity", &told).await.map(drop)
    }

    /// Has a target of load balancers be in a state (`unhealthy`), whatever its service answers; `None`: its service
    /// counts again.
    pub async fn say_health(&self, target: &str, state: Option<&str>) -> Result<(), CloudError> {
        let told = json!({ "target": target, "state": state });
        self.shared.moto.record("say_health", &told).await.map(drop)
    }

    /// Takes an instance away as EC2 takes spot instances away.
    pub async fn interrupt(&self, instance: &str) -> Result<(), CloudError> {
        interrupt(&self.shared, &self.region, instance).await
    }

    /// Where it answers: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where a load balancer listens; its name is answered by nobody.
    pub fn balancer_address(&self, arn: &str) -> Option<Ipv4Addr> {
        self.shared.balancers.as_ref().map(|balancers| balancers.address(arn))
    }

    /// What a client's environment must say, so that it talks to this cloud and to no other.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        [
            ("AWS_ENDPOINT_URL", self.endpoint().as_str()),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", &self.region),
            ("AWS_DEFAULT_REGION", &self.region),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
        .into()
    }

    /// How many calls there were.
    pub fn counts(&self) -> Counts {
        self.shared.calls.counts()
    }

    /// Starts to count anew.
    pub fn reset_counts(&self) {
        self.shared.calls.reset();
    }

    /// Has something go wrong with calls to come.
    pub fn fault(&self, fault: Fault) {
        self.shared.faults.add(fault);
    }

    /// Has nothing more go wrong.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// How it behaves from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.faults.behave(behaviour);
    }

    /// Kills a process at the n-th call from now on (from 1), before or after the call has its effect. The process
    /// is named afterwards: the call waits for it.
    pub fn kill_at_call(&self, number: u64, when: When) -> Aim {
        self.shared.calls.kill_at(number, when)
    }

    /// Kills a process at the n-th call of an action (`ec2:RunInstances`) from now on (from 1), before or after the call
    /// has its effect.
    pub fn kill_at_action(&self, action: &str, number: u64, when: When) -> Aim {
        self.shared.calls.kill_at_action(action, number, when)
    }

    /// Kills a process at the next call that changes something, before or after it has its effect. A call at which one
    /// was killed already is passed by when it is made again.
    pub fn kill_at_change(&self, when: When) -> Aim {
        self.shared.calls.kill_at_change(when)
    }

    /// Forgets kills and functions of calls that have not come.
    pub fn forget_stops(&self) {
        self.shared.calls.forget();
    }

    /// Calls a function at the n-th call from now on (from 1), before or after the call has its effect; the
    /// client's connection is then cut.
    pub fn at_call(&self, number: u64, when: When, act: impl FnOnce() + Send + 'static) {
        self.shared.calls.at(number, when, Box::new(|| tokio::task::spawn_blocking(act)));
    }
}

impl Drop for TestCloud {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What moto is told to do that it does not by itself.
const MOTO: [(&str, &str); 5] = [
    ("MOTO_ENABLE_AMI_VALIDATION", "true"),
    ("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "true"),
    ("MOTO_IAM_LOAD_MANAGED_POLICIES", "true"),
    ("MOTO_ACM_VALIDATION_WAIT", "1"),
    ("MOTO_DISABLE_GLOBAL_CORS", "true"),
];

fn environment(bodies: bool, images: bool) -> Vec<(&'static str, &'static str)> {
    let of = |yes: bool, name, (one, other)| (name, if yes { one } else { other });
    let mut all = MOTO.to_vec();
    all.push(of(bodies, "OLBAKE_BODIES", ("1", "0")));
    all.push(of(images, "MOTO_EC2_LOAD_DEFAULT_AMIS", ("true", "false")));
    all
}

/// A folder without what an older cloud left in it.
fn empty(folder: Utf8PathBuf) -> Result<Utf8PathBuf, CloudError> {
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(io_error("cannot remove", &folder))?;
    }
    std::fs::create_dir_all(&folder).map_err(io_error("cannot make", &folder))?;
    Ok(folder)
}

async fn add(shared: &Arc<Shared>, region: &str, image: StockImage) -> Result<Registered, CloudError> {
    let StockImage { owner, name, architecture, disk } = image;
    let length = match &disk {
        Some(disk) => disk.metadata().map_err(io_error("cannot read", disk))?.len(),
        None => 8 << 30,
    };
    let asked = json!({
        "region": region, "name": name, "owner": owner, "architecture": architecture,
        "size": length.div_ceil(1 << 30),
    });
    let made = shared.moto.record("add_image", &asked).await?;
    let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
    let made = Registered { image: text("image"), snapshot: text("snapshot") };
    if let Some(disk) = disk {
        let (snapshots, id, region, from) =
            (Arc::clone(&shared.snapshots), made.snapshot.clone(), region.to_owned(), disk.clone());
        let taken = tokio::task::spawn_blocking(move || snapshots.take(&id, &region, &from, None)).await;
        taken.expect("copying does not panic").map_err(io_error("cannot copy", &disk))?;
        shared.snapshots.advance(&made.snapshot, Stage::Completed);
    }
    Ok(made)
}

pub(super) async fn interrupt(shared: &Shared, region: &str, instance: &str) -> Result<(), CloudError> {
    let reason = "Server.SpotInstanceTermination";
    let ended = json!({ "region": region, "id": instance, "state": "terminated", "reason": reason });
    shared.moto.record("set_instance", &ended).await?;
    shared.machines.bell.notify_one();
    Ok(())
}

fn lock(root: &Utf8Path) -> Result<File, CloudError> {
    let path = root.join("lock");
    let file = File::create(&path).map_err(io_error("cannot make", &path))?;
    file.try_lock().map_err(|_| CloudError::InUse(root.to_owned()))?;
    Ok(file)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        stream.set_nodelay(true).ok();
        let shared = Arc::clone(&shared);
        let answer = service_fn(move |request| proxy::serve(Arc::clone(&shared), request));
        let connection =
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
        // A connection that ends early is the client's doing, or a fault that was asked for.
        tokio::spawn(async move { drop(connection.await) });
    }
}
