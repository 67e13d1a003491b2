//! What happens, as data: the terminal draws these, `--json` writes them a line each.
//!
//! The form is versioned by [`EVENT_SCHEMA`], which the first event carries. Fields may be added within a
//! version; a reader ignores what it does not know. Main type: [`Event`].

use std::collections::BTreeMap;

use olbake_core::report::{Change, Failure, Outcome};
use olbake_core::span::Span;
use olbake_core::{ComponentName, Digest, ImageRef, OperationId};
use serde::{Deserialize, Serialize};

use crate::stack::StackEvent;

/// The version of the events' form.
pub const EVENT_SCHEMA: u32 = 1;

/// Where a layer's or an image's result came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerOutcome {
    /// It was known; nothing ran.
    Cached,
    /// It ran.
    Run,
}

/// A layer in a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerResult {
    /// The component; the base's is its kind: `debian`, `disk`.
    pub component: String,
    /// Its key.
    pub key: Digest,
    /// Whether it ran.
    pub outcome: LayerOutcome,
    /// Seconds it took in this bake.
    pub seconds: f64,
}

/// A check in a result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// The component.
    pub component: ComponentName,
    /// What was checked: `check.port 443`.
    pub title: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Seconds it took.
    pub seconds: f64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// The end of a bake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BakeResult {
    /// The image.
    pub image: String,
    /// The variant; the plain image's is null.
    pub variant: Option<String>,
    /// The version's digest.
    pub digest: Digest,
    /// The plan's key.
    pub key: Digest,
    /// `cached`: the version was in the registry; `run`: something was done.
    pub outcome: LayerOutcome,
    /// The base and the layers, in order.
    pub layers: Vec<LayerResult>,
    /// The checks on the fresh boot.
    pub checks: Vec<CheckResult>,
    /// Seconds from start to end.
    pub seconds: f64,
}

/// A step of an image's bake that is no layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The disk that the first layer changes is made or brought back.
    Base,
    /// A layer's disk is kept for later bakes.
    Checkpoint,
    /// What identifies the build is removed, and leaks are searched for.
    Seal,
    /// The disk boots fresh and is checked.
    Verify,
    /// Operations run on a machine that was there before.
    Apply,
    /// Blocks go to the store and the version to the registry.
    Register,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first event of a command.
    Start {
        /// [`EVENT_SCHEMA`].
        schema: u32,
        /// olbake's version.
        version: String,
        /// The command: `bake`.
        command: String,
    },
    /// An image's bake began.
    ImageStarted {
        /// Which.
        image: ImageRef,
        /// Its key.
        key: Digest,
        /// Its components, in order.
        components: Vec<ComponentName>,
    },
    /// A stage began.
    StageStarted {
        /// Of which image.
        image: ImageRef,
        /// Which.
        stage: Stage,
    },
    /// A line about a stage's progress.
    StageProgress {
        /// Of which image.
        image: ImageRef,
        /// Which.
        stage: Stage,
        /// What goes on.
        message: String,
    },
    /// A stage ended.
    StageFinished {
        /// Of which image.
        image: ImageRef,
        /// Which.
        stage: Stage,
        /// Seconds it took.
        seconds: f64,
    },
    /// A layer began.
    LayerStarted {
        /// Of which image.
        image: ImageRef,
        /// Its component.
        component: ComponentName,
        /// Its operations.
        operations: usize,
    },
    /// A layer ended.
    LayerFinished {
        /// Of which image.
        image: ImageRef,
        /// Its component.
        component: ComponentName,
        /// Its key.
        key: Digest,
        /// Whether it ran.
        outcome: LayerOutcome,
        /// How its operations ended, by outcome.
        operations: BTreeMap<String, usize>,
        /// Seconds it took.
        seconds: f64,
    },
    /// An operation began.
    OperationStarted {
        /// Of which image.
        image: ImageRef,
        /// Which.
        id: OperationId,
        /// What people read.
        title: String,
    },
    /// A line that an operation's command wrote.
    OperationOutput {
        /// Of which image.
        image: ImageRef,
        /// Which.
        id: OperationId,
        /// The line.
        line: String,
    },
    /// An operation ended.
    OperationFinished {
        /// Of which image.
        image: ImageRef,
        /// Which.
        id: OperationId,
        /// What people read.
        title: String,
        /// The recipe's line.
        span: Option<Span>,
        /// How it ended.
        outcome: Outcome,
        /// What changed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        changes: Vec<Change>,
        /// Why it was skipped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
        /// Seconds it took.
        seconds: f64,
    },
    /// A shell for a person has the terminal: nothing is drawn.
    TerminalTaken,
    /// The shell ended.
    TerminalReturned,
    /// Something to know that is no failure.
    Note {
        /// Of which image, if of one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<ImageRef>,
        /// What.
        message: String,
    },
    /// Something failed; the command's exit code says of what kind.
    Error {
        /// Of which image, if of one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image: Option<ImageRef>,
        /// `user`, `recipe`, `environment`, `cloud`, `failed`, `interrupted` or `bug`.
        kind: String,
        /// What, with its causes.
        message: String,
        /// What to do about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        help: Option<String>,
    },
    /// An image's bake ended well.
    Result(Box<BakeResult>),
    /// Something that happened to a stack; it has a tag of its own.
    #[serde(untagged)]
    Stack(Box<StackEvent>),
}

/// Hears events. Cheap to clone; hearing never blocks what happens.
#[derive(Clone)]
pub struct EventSink(std::sync::Arc<dyn Fn(Event) + Send + Sync>);

impl EventSink {
    /// A sink that calls a function for each event.
    pub fn new(hear: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(std::sync::Arc::new(hear))
    }

    /// A sink that nobody listens to.
    pub fn silent() -> Self {
        Self::new(|_| {})
    }

    /// Says that something happened.
    pub fn send(&self, event: Event) {
        (self.0)(event);
    }
}
