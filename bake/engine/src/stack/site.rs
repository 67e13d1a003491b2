//! The surroundings of a change: providers, secrets, images, the clock. Main type: [`Site`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use olbake_core::Digest;
use olbake_core::rollout::{Availability, Time, Wish};
use olbake_core::secret::SecretId;
use olbake_core::stack::{Catalog, ResourceName, ResourceType, StackName};
use zeroize::Zeroizing;

use super::error::StackError;
use super::event::StackEvent;
use super::provider::Provider;
use crate::cancel::Cancel;
use crate::state::{Clock, SystemClock};

/// Where secrets' values come from.
pub type SecretValues = Arc<dyn Fn(&SecretId) -> Result<Zeroizing<String>, String> + Send + Sync>;

/// Who hears what happens.
pub type Listener = Arc<dyn Fn(StackEvent) + Send + Sync>;

/// What operators wish of rollouts that are under way.
pub type Wishes = Arc<dyn Fn(&StackName, &ResourceName) -> Wish + Send + Sync>;

/// A command that an image wants run on an instance that is about to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCommand {
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// How long it may take.
    pub limit: Duration,
}

/// What rollouts need to know of images.
#[async_trait]
pub trait Images: Send + Sync {
    /// Whether instances of an image can be launched.
    async fn availability(&self, image: &Digest) -> Result<Availability, StackError>;

    /// The commands of the components' `upgrade` functions, in order: run on an instance before it is drained.
    async fn upgrade_hooks(&self, image: &Digest) -> Result<Vec<HookCommand>, StackError>;
}

/// Everything around a change of a stack.
#[derive(Clone)]
pub struct Site {
    /// By name.
    pub providers: BTreeMap<String, Arc<dyn Provider>>,
    /// The providers' types.
    pub catalog: Arc<Catalog>,
    /// Where secrets' values come from.
    pub secrets: SecretValues,
    /// What rollouts need to know of images.
    pub images: Arc<dyn Images>,
    /// Who hears what happens.
    pub listener: Listener,
    /// What operators wish of rollouts that are under way.
    pub wishes: Wishes,
    /// What time it is: by it rollouts wait and give up.
    pub clock: Arc<dyn Clock>,
    /// Whether to stop.
    pub cancel: Cancel,
    /// How many actions run at the same time.
    pub jobs: usize,
}

impl Site {
    /// A place with providers, for looking and planning: it has no secrets and nobody listens.
    pub fn new(providers: Vec<Arc<dyn Provider>>, images: Arc<dyn Images>) -> Self {
        let catalog = providers.iter().fold(Catalog::default(), |all, provider| all.and(provider.catalog()));
        Self {
            providers: providers.into_iter().map(|provider| (provider.name().to_owned(), provider)).collect(),
            catalog: Arc::new(catalog),
            secrets: Arc::new(|_| Err("there are no secrets here".to_owned())),
            images,
            listener: Arc::new(|_| {}),
            wishes: Arc::new(|_, _| Wish::Go),
            clock: Arc::new(SystemClock),
            cancel: Cancel::never(),
            jobs: 8,
        }
    }

    /// The provider of a type.
    pub fn provider(&self, ty: &ResourceType) -> Result<&Arc<dyn Provider>, StackError> {
        self.providers.get(ty.provider()).ok_or_else(|| StackError::NoProvider(ty.clone()))
    }

    /// The time in milliseconds since the Unix epoch.
    pub(super) fn now(&self) -> Time {
        Time(self.clock.now().0)
    }

    /// Seconds since a moment of [`Clock::steady`].
    pub(super) fn seconds_since(&self, started: Duration) -> f64 {
        self.clock.steady().saturating_sub(started).as_secs_f64()
    }

    pub(super) fn say(&self, event: StackEvent) {
        (self.listener)(event);
    }
}
