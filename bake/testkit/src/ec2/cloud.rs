//! The test cloud itself: [`TestCloud`].

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::body::Bodies;
use super::calls::{Aim, Calls, Counts, When};
use super::error::{CloudError, io_error};
use super::faults::{Behaviour, Fault, Faults};
use super::moto::Moto;
use super::proxy;
use super::shared::Shared;
use super::upstream::Upstream;

/// What a test cloud is made of.
pub struct Config {
    /// Where it keeps disks and snapshots. One cloud at a time uses it; what an older one left in it is removed.
    pub root: Utf8PathBuf,
    /// Where it listens on the loopback; 0: wherever there is room.
    pub port: u16,
    /// What makes instances run; without it they are records only.
    pub bodies: Option<Arc<dyn Bodies>>,
}

impl Config {
    /// One without bodies, on any port.
    pub fn new(root: impl Into<Utf8PathBuf>) -> Self {
        Self { root: root.into(), port: 0, bodies: None }
    }
}

/// A cloud of one's own on the loopback. It and all its instances end when it is dropped.
pub struct TestCloud {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
    _moto: Moto,
    _lock: File,
}

impl TestCloud {
    /// Starts one; returns when it answers.
    pub async fn start(config: Config) -> Result<Self, CloudError> {
        let Config { root, port, bodies: _ } = config;
        std::fs::create_dir_all(&root).map_err(io_error("cannot make", &root))?;
        let lock = lock(&root)?;
        let moto = Moto::start(&root, &MOTO).await?;
        let shared =
            Shared { moto: Upstream::new(moto.port), calls: Calls::default(), faults: Faults::default() };
        let shared = Arc::new(shared);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = listener.map_err(io_error("cannot listen for", &root))?;
        let address = listener.local_addr().map_err(io_error("cannot listen for", &root))?;
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, serving, _moto: moto, _lock: lock })
    }

    /// Where it answers: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a client's environment must say, so that it talks to this cloud and to no other.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        [
            ("AWS_ENDPOINT_URL", self.endpoint().as_str()),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
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

    /// Calls a function at the n-th call from now on (from 1), before or after the call has its effect; the
    /// client's connection is then cut.
    pub fn at_call(&self, number: u64, when: When, act: impl FnOnce() + Send + 'static) {
        self.shared.calls.at(number, when, Box::new(|| tokio::task::spawn_blocking(act)));
    }
}

impl Drop for TestCloud {
    fn drop(&mut self) {
        self.serving.abort();
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
