//! Takes a stack: the next epoch, the seals of those before it, and the state they lead to. Main function: [`hold`].

use std::sync::Arc;
use std::time::Duration;

use olbake_core::stack::StackName;
use olbake_core::{Digest, canonical};

use super::format::{self, Base, Ending, Head, HistoryEntry, Keys, Kind, Mark, STATE_SCHEMA, Slot};
use super::held::Held;
use super::holder::{Lease, Writer};
use super::objects::{Objects, put_surely};
use super::replay::{self, End, Found, Replay};
use super::{Fold, HoldOptions, Result, StateError, Takeover};
use crate::store::object::{Put, PutOutcome};

/// How long a waiting command sleeps between looks at a stack that another holds.
const LOOK: Duration = Duration::from_millis(500);
/// So long a log is never folded into a snapshot: there is nothing to win.
const SHORT_LOG: u64 = 64 * 1024;
/// A log is folded when it has so many times the bytes of the snapshot it follows.
const LONG_LOG: u64 = 4;

/// A stack's `HEAD`, as a holder knows and changes it.
#[derive(Debug)]
pub(super) struct HeadCell {
    pub(super) objects: Arc<dyn Objects>,
    pub(super) stack: StackName,
    pub(super) keys: Keys,
    pub(super) writer: Writer,
    pub(super) found: Found,
}

impl HeadCell {
    /// Replaces `HEAD`; false where it is no longer the one we know.
    pub(super) async fn swap(&mut self, change: impl FnOnce(&mut Head)) -> Result<bool> {
        let mut head = self.found.head.clone();
        change(&mut head);
        head.previous = Some(self.found.digest);
        let condition = Put::IfMatch(self.found.etag.clone());
        let swapped = write_head(&*self.objects, &self.keys, &self.writer, head, condition).await?;
        Ok(swapped.map(|found| self.found = found).is_some())
    }

    /// The error of a holder whose `HEAD` or slot another has written.
    pub(super) async fn lost(&self) -> StateError {
        // For people: where it cannot be read, the hold is lost all the same.
        let now = replay::head(&*self.objects, &self.stack).await.ok().flatten();
        let lease = now.and_then(|now| now.head.lease.filter(|_| now.head.epoch > self.found.head.epoch));
        StateError::Lost { stack: self.stack.clone(), by: lease.map(|lease| Box::new(lease.holder)) }
    }

    /// Puts the newest entry of the history where histories are listed, if it is not there.
    pub(super) async fn publish_history(&self) -> Result<()> {
        let Some(last) = &self.found.head.last else { return Ok(()) };
        let json = serde_json::to_vec(last).map_err(|source| express(&self.stack, source))?;
        // Whoever writes it writes the same.
        put_surely(&*self.objects, &self.keys.history(last.serial), &json, Put::IfAbsent).await?;
        Ok(())
    }
}

async fn write_head(
    objects: &dyn Objects,
    keys: &Keys,
    writer: &Writer,
    head: Head,
    condition: Put,
) -> Result<Option<Found>> {
    let head = Head { writer: writer.clone(), ..head };
    let (bytes, digest) = format::frame(&head).map_err(|source| express(&head.stack, source))?;
    Ok(match put_surely(objects, &keys.head(), &bytes, condition).await? {
        PutOutcome::Stored(etag) => Some(Found { head, etag, digest }),
        PutOutcome::Refused => None,
    })
}

pub(super) fn express(stack: &StackName, source: serde_json::Error) -> StateError {
    StateError::Express { stack: stack.clone(), source }
}

/// Takes a stack.
pub(super) async fn hold<F: Fold>(
    objects: Arc<dyn Objects>,
    stack: &StackName,
    options: HoldOptions,
) -> Result<Held<F>> {
    let keys = Keys::new(stack);
    let (mut cell, before, deadline) = take(objects, stack, keys, &options).await?;
    match recover::<F>(&mut cell, before, &options).await {
        Ok((state, mark, log)) => Ok(Held::start(cell, options, state, mark, log, deadline)),
        Err(error) => {
            // Whoever comes next need not wait for a command that only found damage. Where even this fails, the
            // lease runs out.
            drop(cell.swap(|head| head.lease = None).await);
            Err(error)
        }
    }
}

/// Wins the next epoch. Says also who had the one before without closing it, and until when the lease holds by the
/// steady clock.
async fn take(
    objects: Arc<dyn Objects>,
    stack: &StackName,
    keys: Keys,
    options: &HoldOptions,
) -> Result<(HeadCell, Option<Lease>, Duration)> {
    let started = options.clock.steady();
    loop {
        let found = replay::head(&*objects, stack).await?;
        if let Some(lease) = found.as_ref().and_then(|found| found.head.lease.as_ref())
            && lease.is_live(options.clock.now())
        {
            match options.takeover {
                Takeover::Force => {}
                Takeover::Wait(patience) if options.clock.steady().saturating_sub(started) < patience => {
                    tokio::time::sleep(LOOK.min(patience)).await;
                    continue;
                }
                Takeover::Refuse | Takeover::Wait(_) => {
                    let holder = Box::new(lease.holder.clone());
                    return Err(StateError::Busy { stack: stack.clone(), holder, until: lease.until });
                }
            }
        }
        let (head, condition) = match &found {
            Some(found) => (found.head.clone(), Put::IfMatch(found.etag.clone())),
            None => (first_head(&*objects, stack, &keys, &options.writer).await?, Put::IfAbsent),
        };
        let (before, previous) = (head.lease.clone(), found.map(|found| found.digest));
        let deadline = options.clock.steady() + options.ttl;
        let lease = Lease::new(options.holder.clone(), options.clock.now(), options.ttl);
        let head = Head { epoch: head.epoch + 1, lease: Some(lease), previous, ..head };
        if let Some(found) = write_head(&*objects, &keys, &options.writer, head, condition).await? {
            let (stack, writer) = (stack.clone(), options.writer.clone());
            return Ok((HeadCell { objects, stack, keys, writer, found }, before, deadline));
        }
    }
}

/// The `HEAD` of a stack that never was. One whose other objects are there has lost its own.
async fn first_head(objects: &dyn Objects, stack: &StackName, keys: &Keys, writer: &Writer) -> Result<Head> {
    let others = objects.list(keys.prefix(), None).await?;
    if let Some(other) = others.iter().find(|key| **key != keys.head()) {
        // Unless another holder came first, after we had looked.
        if objects.get(&keys.head()).await?.is_none() {
            let because = format!("`{}` is there", objects.place(other));
            return Err(StateError::Missing { object: objects.place(&keys.head()), because });
        }
    }
    let mark = Mark { epoch: 0, slots: 0, tip: format::genesis(stack) };
    Ok(Head {
        schema: STATE_SCHEMA,
        stack: stack.clone(),
        serial: 0,
        epoch: 0,
        base: None,
        folded: mark.clone(),
        sealed: mark,
        lease: None,
        last: None,
        writer: writer.clone(),
        previous: None,
    })
}

/// Seals the epochs before ours and folds them. Says also how many bytes of slots follow the snapshot.
async fn recover<F: Fold>(
    cell: &mut HeadCell,
    before: Option<Lease>,
    options: &HoldOptions,
) -> Result<(F, Mark, u64)> {
    let head = cell.found.head.clone();
    let (objects, stack) = (cell.objects.clone(), cell.stack.clone());
    let mut replay = Replay::<F>::begin(&*objects, &stack, &head).await?;
    while replay.mark.epoch + 1 < head.epoch {
        let mut end = replay.epoch().await?;
        replay.check(&head, &end)?;
        while let End::Open { next, torn } = end {
            seal(cell, &replay.mark, next, torn).await?;
            // Whether the seal is ours, another's, or a record came first: what is there now tells.
            end = replay.advance().await?;
        }
    }
    let Replay { state, mark, log, .. } = replay;
    let mut unfolded = log;
    if mark != head.sealed {
        let base = if is_long(log, &head) { compact(cell, &state).await?.ok() } else { None };
        let last = (mark.tip != head.sealed.tip).then(|| HistoryEntry {
            serial: head.serial + 1,
            epoch: mark.epoch,
            holder: before.map(|lease| lease.holder),
            summary: "interrupted".to_owned(),
            ending: Ending::Interrupted,
            version: mark.tip,
            at: options.clock.now(),
        });
        if base.is_some() {
            unfolded = 0;
        }
        if !cell.swap(|head| settle(head, &mark, base, last)).await? {
            return Err(cell.lost().await);
        }
    }
    cell.publish_history().await?;
    Ok((state, mark, unfolded))
}

/// Writes into a `HEAD` that everything up to `mark` is sealed.
pub(super) fn settle(head: &mut Head, mark: &Mark, base: Option<Base>, last: Option<HistoryEntry>) {
    head.sealed = mark.clone();
    if let Some(base) = base {
        (head.base, head.folded) = (Some(base), mark.clone());
    }
    if let Some(last) = last {
        head.serial = last.serial;
        head.last = Some(last);
    }
}

/// Puts a seal into a slot. Says whether ours is there.
pub(super) async fn seal(cell: &HeadCell, at: &Mark, number: u64, torn: Option<Digest>) -> Result<bool> {
    let slot = Slot::<()> {
        kind: Kind::Seal,
        epoch: at.epoch,
        number,
        writer: cell.writer.clone(),
        previous: at.tip,
        torn,
        records: Vec::new(),
    };
    let (bytes, _) = format::frame(&slot).map_err(|source| express(&cell.stack, source))?;
    let key = cell.keys.slot(at.epoch, number);
    Ok(put_surely(&*cell.objects, &key, &bytes, Put::IfAbsent).await?.stored())
}

/// Whether reading the log costs so much beside the snapshot that a new one is worth its bytes.
pub(super) fn is_long(log: u64, head: &Head) -> bool {
    log > SHORT_LOG + LONG_LOG * head.base.as_ref().map_or(0, |base| base.stored)
}

/// Writes a snapshot of a state, unless there is something wrong with it: then that is said and the log stays.
pub(super) async fn compact<F: Fold>(cell: &HeadCell, state: &F) -> Result<Result<Base, Vec<String>>> {
    let (stack, state) = (cell.stack.clone(), state.clone());
    let made = tokio::task::spawn_blocking(move || checked_snapshot(&stack, &state)).await;
    let (digest, bytes) = match made {
        Ok(Ok(Ok(made))) => made,
        Ok(Ok(Err(problems))) => return Ok(Err(problems)),
        Ok(Err(error)) => return Err(error),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let key = cell.keys.snapshot(&digest);
    if !put_surely(&*cell.objects, &key, &bytes, Put::IfAbsent).await?.stored() {
        replay::snapshot::<F>(&*cell.objects, &key, &digest).await?;
    }
    Ok(Ok(Base { digest, stored: bytes.len() as u64 }))
}

type Snapshot = Result<(Digest, Vec<u8>), Vec<String>>;

/// A state as the bytes of its snapshot, after it was seen that they can be read again.
fn checked_snapshot<F: Fold>(stack: &StackName, state: &F) -> Result<Snapshot> {
    let problems = state.lint();
    if !problems.is_empty() {
        return Ok(Err(problems));
    }
    let json = canonical_json(stack, state)?;
    let again: F = serde_json::from_str(&json).map_err(|source| express(stack, source))?;
    if canonical_json(stack, &again)? != json {
        return Ok(Err(vec!["it is another state when it is read again".to_owned()]));
    }
    let bytes = zstd::encode_all(json.as_bytes(), 3).expect("memory takes what is written to it");
    Ok(Ok((Digest::of(json.as_bytes()), bytes)))
}

fn canonical_json<F: Fold>(stack: &StackName, state: &F) -> Result<String> {
    let value = serde_json::to_value(state).map_err(|source| express(stack, source))?;
    Ok(canonical::to_string(&value))
}
