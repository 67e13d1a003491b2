//! What is known of stacks: for each a sealed journal on objects that only know get, put, delete and list.
//!
//! | object below `v1/stacks/STACK/` | what it is | written |
//! |---|---|---|
//! | `HEAD` | epoch, lease, where replaying starts | by compare-and-swap only |
//! | `snap/DIGEST.json.zst` | a state, whole, as canonical JSON | before a `HEAD` that names it |
//! | `j/EPOCH/NUMBER` | records, or the seal of the epoch | once, where nothing was |
//! | `hist/SERIAL.json` | who changed the stack | after the `HEAD` that contains it |
//!
//! **Holding.** Who wants to change a stack takes the next epoch by compare-and-swap of `HEAD`, with a lease. Then it
//! *seals* what went before: it puts a seal into the first free slot of every epoch that has none. A holder that was
//! thought dead and is not finds the slot of its next append taken, and stops. The lease only decides when a takeover
//! is tried; that it is safe rests on the slots, each of which is created once. So to force a takeover is as safe as
//! to wait for one.
//!
//! **State** is the fold of records over a snapshot. Records are appended by [`Held::append`], which returns when they
//! are durable; appends that wait are written as one slot. The *version* of a state is the digest of the slot that
//! led to it; each slot names the version before it, so the version stands for the whole past, and folding the log
//! into a new snapshot does not change it. That happens only when the log has become long beside the snapshot: what
//! an append writes does not grow with the state.
//!
//! What was cut short at the very end of an unsealed log was never promised to anyone and does not count. Everything
//! else that is not as it was written is refused, by name. Main types: [`StateStore`], [`Held`], [`Viewed`].

mod acquire;
mod format;
mod held;
mod holder;
mod objects;
mod replay;

use std::sync::Arc;
use std::time::Duration;

use camino::Utf8Path;
use olbake_core::Digest;
use olbake_core::stack::StackName;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::StoreError;

use format::Keys;
pub use format::{Ending, HistoryEntry, STATE_SCHEMA};
pub use held::{Closed, Held};
pub use holder::{Clock, Fate, Holder, Process, SystemClock, Timestamp, Writer};
pub use objects::{FileObjects, Objects};

/// A state that is made of records.
pub trait Fold: Serialize + DeserializeOwned + Default + Clone + Send + Sync + 'static {
    /// One change.
    type Record: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Makes a change, or says why it cannot follow what is there. Depends on nothing but the state and the record.
    fn apply(&mut self, record: &Self::Record) -> Result<(), String>;

    /// What cannot be right about the state. A snapshot is made only of one without such problems.
    fn lint(&self) -> Vec<String>;
}

/// Why the state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another holds the stack.
    #[error("`{stack}` is held by {holder}")]
    Busy {
        /// The stack.
        stack: StackName,
        /// Who holds it, since when, with what command.
        holder: Box<Holder>,
        /// When its lease runs out if nobody renews it.
        until: Timestamp,
    },
    /// Another took the stack over. Nothing more may be changed on its behalf.
    #[error("`{stack}` was taken over{}; nothing more is done here", by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default())]
    Lost {
        /// The stack.
        stack: StackName,
        /// By whom, where that is known.
        by: Option<Box<Holder>>,
    },
    /// The lease could not be renewed in time. The hold goes on when an append or [`Held::renew`] renews it.
    #[error("the lease of `{stack}` ran out before it was renewed")]
    Expired {
        /// The stack.
        stack: StackName,
    },
    /// An earlier write failed. What it was to say may or may not be there; the next holder finds out.
    #[error("the journal of `{stack}` can no longer be written: {problem}")]
    Broken {
        /// The stack.
        stack: StackName,
        /// What went wrong.
        problem: String,
    },
    /// The hold was closed before.
    #[error("`{stack}` is no longer held: this hold is closed")]
    Closed {
        /// The stack.
        stack: StackName,
    },
    /// A record cannot follow the ones before it. It was not written, and the hold is over: whoever appended it
    /// believes something that is not so.
    #[error("a record does not fit the state of `{stack}`: {problem}")]
    Rejected {
        /// The stack.
        stack: StackName,
        /// What [`Fold::apply`] said.
        problem: String,
    },
    /// An object is not what was written.
    #[error("`{object}` is not what was written: {problem}; nothing was changed, restore it from a copy")]
    Damaged {
        /// The file or URL.
        object: String,
        /// What was found.
        problem: String,
    },
    /// An object that must be there is not.
    #[error("`{object}` is gone, although {because}; nothing was changed, restore it from a copy")]
    Missing {
        /// The file or URL.
        object: String,
        /// How that is known.
        because: String,
    },
    /// An object is of a later olbake.
    #[error("`{object}` has form {found}, this olbake knows {known}: use a newer one")]
    Schema {
        /// The file or URL.
        object: String,
        /// Its form.
        found: u64,
        /// Ours.
        known: u32,
    },
    /// A value has no JSON form.
    #[error("cannot express a record or state of `{stack}` as JSON")]
    Express {
        /// The stack.
        stack: StackName,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The URL is of a kind that is not known.
    #[error("`{url}` is no URL for state: write `file://PATH`")]
    BadUrl {
        /// The URL.
        url: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Result<T, E = StateError> = std::result::Result<T, E>;

/// What to do about a stack that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// Say who holds it.
    Refuse,
    /// Wait so long for it, then say who holds it.
    Wait(Duration),
    /// Take it: whoever holds it is stopped at its next append.
    Force,
}

/// Who renews the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// A task beside the hold, every third of the lease's time.
    Task,
    /// Whoever calls [`Held::renew`], and appends that come after the time.
    Manual,
}

/// How to hold a stack.
#[derive(Clone, Debug)]
pub struct HoldOptions {
    /// Who wants it.
    pub holder: Holder,
    /// Tells this hold from all others.
    pub writer: Writer,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How long a lease lasts when nobody renews it.
    pub ttl: Duration,
    /// Who renews it.
    pub heartbeat: Heartbeat,
    /// What if another has it.
    pub takeover: Takeover,
}

impl HoldOptions {
    /// How long a lease lasts, unless told otherwise.
    pub const TTL: Duration = Duration::from_secs(30);

    /// This process, by the host's clock, refusing where another holds the stack.
    pub fn here(who: impl Into<String>, command: impl Into<String>) -> std::io::Result<Self> {
        Ok(Self {
            holder: Holder::here(who, command, &SystemClock),
            writer: Writer::random()?,
            clock: Arc::new(SystemClock),
            ttl: Self::TTL,
            heartbeat: Heartbeat::Task,
            takeover: Takeover::Refuse,
        })
    }
}

/// A stack's state as it was read.
#[derive(Clone, Debug)]
pub struct Viewed<F> {
    /// The state.
    pub state: F,
    /// Stands for the state and its whole past.
    pub version: Digest,
    /// Counts the holds that changed it and ended.
    pub serial: u64,
    /// Who holds it, if anyone does; one whose lease ran out or whose process is gone is not counted.
    pub holder: Option<Holder>,
    /// The holder of a lease that is no longer good: that hold was interrupted.
    pub interrupted: Option<Holder>,
}

/// The states of stacks at a URL. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StateStore {
    objects: Arc<dyn Objects>,
}

impl StateStore {
    /// Opens the states at a URL; a relative `file://` is relative to the workspace.
    pub fn open(url: &str, workspace: &Utf8Path) -> Result<Self> {
        Ok(Self { objects: objects::open(url, workspace)? })
    }

    /// States on given objects.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects }
    }

    /// The objects: for what lies beside the states.
    pub(crate) fn objects(&self) -> &dyn Objects {
        &*self.objects
    }

    /// The names of the stacks that ever were held, in order.
    pub async fn stacks(&self) -> Result<Vec<StackName>> {
        let keys = self.objects.list(Keys::STACKS, None).await?;
        let name = |key: &str| key.strip_prefix(Keys::STACKS)?.strip_suffix("/HEAD")?.parse().ok();
        Ok(keys.iter().filter_map(|key| name(key.as_str())).collect())
    }

    /// A stack's state; none where nobody ever held it. Changes nothing and waits for nobody.
    pub async fn read<F: Fold>(&self, stack: &StackName, clock: &dyn Clock) -> Result<Option<Viewed<F>>> {
        replay::read(&*self.objects, stack, clock).await
    }

    /// Who changed a stack, oldest first.
    pub async fn history(&self, stack: &StackName) -> Result<Vec<HistoryEntry>> {
        replay::history(&*self.objects, stack).await
    }

    /// Takes a stack, so that it may be changed.
    pub async fn hold<F: Fold>(&self, stack: &StackName, options: HoldOptions) -> Result<Held<F>> {
        acquire::hold(self.objects.clone(), stack, options).await
    }

    /// Ends whatever hold there is. One that is still at work is stopped at its next append: the same as a takeover
    /// by a holder that then changes nothing. Says who held it.
    pub async fn unlock<F: Fold>(&self, stack: &StackName, options: HoldOptions) -> Result<Option<Holder>> {
        let Some(found) = replay::head(&*self.objects, stack).await? else { return Ok(None) };
        let Some(lease) = found.head.lease else { return Ok(None) };
        let held = self.hold::<F>(stack, HoldOptions { takeover: Takeover::Force, ..options }).await?;
        held.close("unlocked").await?;
        Ok(Some(lease.holder))
    }
}
