//! Objects of a bucket on S3, for registry and state. Main type: [`Bucket`].
//!
//! S3 shows every write that has returned, and writes on a condition (`If-None-Match`, `If-Match`): all that the
//! registry and the journals of stacks need. A conditional write is tried once at a time and not by the SDK: a
//! repetition would find its own first try and call it another's. Requests run on a runtime of the bucket's own, so
//! that blocking and asynchronous callers share connections.

mod calls;
mod store;
mod upload;
mod url;

use std::sync::Arc;
use std::sync::mpsc;

use camino::Utf8Path;
use olbake_engine::store::StoreError;
use tokio::runtime::Runtime;

use crate::account::Account;
use crate::error::{AwsError, AwsErrorKind};
use calls::Calls;
pub use url::{BadS3Url, S3Url};

/// What was asked for when nothing was asked of S3 yet.
const OPEN: &str = "s3:ListBucket";

/// The objects below a prefix of a bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    calls: Arc<Calls>,
    driver: Arc<Driver>,
}

impl Bucket {
    /// Opens `s3://BUCKET/PREFIX` as the environment says. `scratch` is a directory of this host for large objects on
    /// their way. Nothing is asked of S3 yet, but region and credentials must be known.
    pub fn open(url: &str, scratch: &Utf8Path) -> Result<Self, StoreError> {
        let parsed: S3Url = url.parse().map_err(|error: BadS3Url| {
            let error = AwsError::said(OPEN, AwsErrorKind::Refused, error.to_string());
            remote("open", url.to_owned(), error)
        })?;
        Self::start(parsed.clone(), scratch, async move { Account::find(parsed.region.as_deref()).await })
    }

    /// Opens the objects of an account.
    pub fn of(account: &Account, url: S3Url, scratch: &Utf8Path) -> Result<Self, StoreError> {
        let account = account.clone();
        Self::start(url, scratch, async move { account })
    }

    fn start(
        url: S3Url,
        scratch: &Utf8Path,
        account: impl Future<Output = Account> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let driver = Driver::start().map_err(|source| StoreError::Remote {
            action: "open",
            object: url.to_string(),
            help: None,
            source: Box::new(source),
        })?;
        let account = driver.wait(async move {
            let account = account.await;
            account.check(OPEN).await.map(|()| account)
        });
        let account = account.map_err(|error| remote("open", url.to_string(), error))?;
        let calls = Calls::new(&account, &url, scratch);
        Ok(Self { calls: Arc::new(calls), driver: Arc::new(driver) })
    }

    /// Gives up large objects whose upload began longer ago than so and never ended: their writers were killed.
    /// Says how many those were.
    pub fn abort_unfinished(&self, older: std::time::Duration) -> Result<usize, StoreError> {
        let calls = self.calls.clone();
        self.driver.wait(async move { calls.abort_unfinished(older).await })
    }

    async fn run<T: Send + 'static>(
        &self,
        act: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self.driver.spawn(act).await {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// An error of a call about an object.
fn remote(action: &'static str, object: String, error: AwsError) -> StoreError {
    let help = match error.code.as_deref() {
        Some("NoSuchBucket") => Some(format!("make it first: aws s3 mb {}", bucket_of(&object))),
        Some("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            Some("the bucket is in another region: write `?region=REGION` at the end of the URL".to_owned())
        }
        _ => error.help(),
    };
    match error.kind {
        AwsErrorKind::Unsure if action == "write" => StoreError::Unsure { object, source: error.into_io() },
        _ => StoreError::Remote { action, object, help, source: Box::new(error) },
    }
}

fn bucket_of(object: &str) -> String {
    object.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")
}

/// A runtime that can be waited for from any thread, also from one that belongs to another runtime.
#[derive(Debug)]
struct Driver(Option<Runtime>);

impl Driver {
    fn start() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("olbake-s3")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn spawn<T: Send + 'static>(
        &self,
        act: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.0.as_ref().expect("it is there until it is dropped").spawn(act)
    }

    fn wait<T: Send + 'static>(&self, act: impl Future<Output = T> + Send + 'static) -> T {
        let (answer, wait) = mpsc::sync_channel(1);
        let task = self.spawn(async move {
            // Whoever waited is there still: it waits below.
            drop(answer.send(act.await));
        });
        let done = wait.recv();
        drop(task);
        done.expect("a request does not panic")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Dropping a runtime waits, which is not allowed inside another one.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
