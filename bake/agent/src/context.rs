//! What an operation has around it while it runs: the machine, the run's secrets and blobs, and a way to talk.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::OperationId;
use olbake_core::operation::Content;
use olbake_core::protocol::{FromAgent, Mode, Reboots};

use crate::blobs::Blobs;
use crate::error::{At, OpError, Result};
use crate::outbox::Outbox;
use crate::process::{Command, Sink};
use crate::secrets::Secrets;
use crate::world::{Source, World};

/// What all operations of a run share.
pub(crate) struct Run {
    /// Apply or check.
    pub(crate) mode: Mode,
    /// Names the run.
    pub(crate) key: olbake_core::Digest,
    /// Where the agent keeps its own files.
    pub(crate) work_dir: Utf8PathBuf,
    /// Where blobs are.
    pub(crate) blobs: Utf8PathBuf,
    /// The secrets.
    pub(crate) secrets: Arc<Secrets>,
    /// The way out.
    pub(crate) outbox: Arc<Outbox>,
    /// Set when the run is to end.
    pub(crate) cancelled: Arc<AtomicBool>,
    /// The machine.
    pub(crate) world: World,
    /// systemd runs as the first process.
    pub(crate) booted: bool,
    /// What changed so far, in this run or before it was interrupted.
    pub(crate) changed: Mutex<HashSet<OperationId>>,
    /// What becomes of operations that ask for a reboot.
    pub(crate) reboots: Reboots,
    /// An operation asked for a reboot.
    pub(crate) reboot: AtomicBool,
    /// What changed of units since systemd last read them.
    pub(crate) units_stale: Mutex<Stale>,
}

/// What systemd does not know yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stale {
    /// Nothing.
    #[default]
    Nothing,
    /// Which units start which others: it need not know before it starts a unit that it is told to.
    Wants,
    /// Units themselves.
    Units,
}

impl Run {
    /// Makes systemd read its files again if at least so much changed. It takes as long as some ten small operations.
    pub(crate) fn refresh_units(&self, least: Stale) -> Result<()> {
        let mut stale = self.units_stale.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *stale < least {
            return Ok(());
        }
        if *stale > Stale::Nothing && self.booted {
            Command::new(["systemctl", "daemon-reload"], &self.cancelled).run()?.ok()?;
        }
        *stale = Stale::Nothing;
        Ok(())
    }
}

/// What one operation has.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The run.
    pub(crate) run: &'a Run,
    /// The operation.
    pub(crate) id: &'a OperationId,
    /// The operation was carried out and is looked at again.
    pub(crate) verifying: bool,
    /// The states of units that were asked for together.
    pub(crate) states: &'a [(&'a str, String)],
}

/// A content on the machine.
pub(crate) struct Bytes {
    /// The bytes, with secrets in place of markers.
    pub(crate) source: Source,
    /// Where there are secrets in it: what to show instead.
    pub(crate) label: Option<String>,
}

impl<'a> Context<'a> {
    /// The machine.
    pub(crate) fn world(&self) -> &'a World {
        &self.run.world
    }

    /// Whether this run only looks.
    pub(crate) fn is_check(&self) -> bool {
        self.run.mode == Mode::Check
    }

    /// Fails when the run was cancelled.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.run.cancelled.load(Ordering::SeqCst) { Err(OpError::Cancelled) } else { Ok(()) }
    }

    /// A command that ends with the run.
    pub(crate) fn command<S: Into<String>>(&self, argv: impl IntoIterator<Item = S>) -> Command<'a> {
        Command::new(argv, &self.run.cancelled)
    }

    /// Tells the lines of a command as the operation's.
    pub(crate) fn sink(&self) -> Sink {
        let (outbox, id) = (Arc::clone(&self.run.outbox), self.id.clone());
        Arc::new(move |line| outbox.send(FromAgent::Output { id: id.clone(), line }))
    }

    /// Tells a line.
    pub(crate) fn say(&self, line: impl Into<String>) {
        self.run.outbox.send(FromAgent::Output { id: self.id.clone(), line: line.into() });
    }

    /// Whether one of these changed in this run.
    pub(crate) fn any_changed(&self, ids: &[OperationId]) -> Option<OperationId> {
        let changed = self.run.changed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ids.iter().find(|id| changed.contains(id)).cloned()
    }

    /// Where a content's bytes came to, with markers in them.
    pub(crate) fn blob(&self, content: &Content) -> Utf8PathBuf {
        Blobs::path(&self.run.blobs, &content.digest)
    }

    /// A content as it is to be on the machine.
    pub(crate) fn bytes(&self, content: &Content) -> Result<Bytes> {
        let path = self.blob(content);
        if content.secrets.is_empty() {
            return Ok(Bytes { source: Source::File(path), label: None });
        }
        let text = String::from_utf8(std::fs::read(&path).at("read", &path)?)
            .map_err(|_| OpError::wrong("a content with secrets in it is not text"))?;
        let source = Source::text(self.run.secrets.reveal(&text)?);
        Ok(Bytes { source, label: Some(format!("content with secrets, {}", content.digest)) })
    }

    /// A content as text.
    pub(crate) fn content_text(&self, content: &Content) -> Result<String> {
        let bytes = self.bytes(content)?.source.read()?;
        String::from_utf8(bytes).map_err(|_| OpError::wrong("the content is not text"))
    }

    /// A path where systemd reads from changed.
    pub(crate) fn unit_changed(&self, path: &Utf8Path) {
        let folder = path.parent().and_then(Utf8Path::extension);
        self.units_changed(match folder {
            Some("wants" | "requires") => Stale::Wants,
            _ => Stale::Units,
        });
    }

    /// Units changed.
    pub(crate) fn units_changed(&self, what: Stale) {
        let mut stale = self.run.units_stale.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *stale = what.max(*stale);
    }

    /// Makes systemd read unit files again if one changed, before it starts one.
    pub(crate) fn refresh_units(&self) -> Result<()> {
        self.run.refresh_units(Stale::Units)
    }
}
