//! What gives instances of the test cloud a body: the trait [`Bodies`].

mod host;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use async_trait::async_trait;
use camino::Utf8PathBuf;

pub use host::HostBodies;

/// What an instance is to be. The proxy knows it from moto's record; it is the same at every start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Its id: `i-0123…`.
    pub instance: String,
    /// Its private address.
    pub address: Ipv4Addr,
    /// The length of its subnet's prefix; the subnet's first address is the gateway.
    pub prefix: u8,
    /// Its root volume: a raw GPT disk that it reads and writes. The proxy made it, and reads it after a stop.
    pub disk: Utf8PathBuf,
    /// What cloud-init gets from the metadata service, decoded; empty: none.
    pub user_data: Vec<u8>,
    /// What the metadata service answers below `/latest/meta-data/`, by path: `instance-id`, `local-ipv4`,
    /// `placement/region`, `tags/instance/Name`. Further paths are added from the fields above. A key is at
    /// `public-keys/0=NAME/openssh-key`, and what is below `network/interfaces/macs/ANY/` is below the hardware
    /// address that the body has.
    pub metadata: BTreeMap<String, String>,
}

/// Where a body is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyState {
    /// It is not there.
    Absent,
    /// It boots or runs.
    Running,
    /// It stopped: it was asked to, or it shut itself down.
    Stopped,
}

/// Why a body could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BodyError {
    /// What, a lower-case fragment.
    pub message: String,
    /// Why.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl BodyError {
    /// One without a cause.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// One with a cause.
    pub fn because<E: std::error::Error + Send + Sync + 'static>(
        message: impl Into<String>,
    ) -> impl FnOnce(E) -> Self {
        let message = message.into();
        move |source| Self { message, source: Some(Box::new(source)) }
    }
}

/// What makes instances run. Every call can be repeated.
#[async_trait]
pub trait Bodies: Send + Sync {
    /// Starts one, or starts it again; returns once its first process runs, not once it is up.
    async fn start(&self, body: &Body) -> Result<(), BodyError>;

    /// Stops one in order; its disk is at rest, clean and written through when this returns.
    async fn stop(&self, instance: &str) -> Result<(), BodyError>;

    /// Has one boot again, with another boot id.
    async fn reboot(&self, instance: &str) -> Result<(), BodyError>;

    /// Ends one at once and removes what was its own but its disk.
    async fn end(&self, instance: &str) -> Result<(), BodyError>;

    /// Where it is in its life.
    async fn state(&self, instance: &str) -> BodyState;

    /// The end of what it wrote to its console.
    async fn console(&self, instance: &str) -> String;
}
