//! Reads a stack: its `HEAD`, the snapshot that names, and the records since. Main type: [`Replay`].

use olbake_core::Digest;
use olbake_core::stack::StackName;

use super::format::{self, Framed, HistoryEntry, Keys, Kind, Mark, STATE_SCHEMA, Slot};
use super::objects::Objects;
use super::{Clock, Fold, Result, StateError, Viewed};
use crate::store::object::{Etag, Object, ObjectKey};

/// How often a reader begins again because a writer moved on.
const ATTEMPTS: u32 = 10;

/// A `HEAD` as it was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) head: format::Head,
    pub(super) etag: Etag,
    pub(super) digest: Digest,
}

/// Reads a stack's `HEAD`.
pub(super) async fn head(objects: &dyn Objects, stack: &StackName) -> Result<Option<Found>> {
    let key = Keys::new(stack).head();
    let Some(object) = objects.get(&key).await? else { return Ok(None) };
    let (head, digest) = format::read::<format::Head>(&object, || objects.place(&key))?;
    let problem = match &head {
        head if head.schema != STATE_SCHEMA => "its form is not the one it says",
        head if head.stack != *stack => "it is of another stack",
        head if head.folded.epoch > head.sealed.epoch || head.sealed.epoch > head.epoch => {
            "its epochs do not ascend"
        }
        _ => return Ok(Some(Found { head, etag: object.etag, digest })),
    };
    Err(StateError::Damaged { object: objects.place(&key), problem: problem.to_owned() })
}

/// Reads a stack's state without holding it.
pub(super) async fn read<F: Fold>(
    objects: &dyn Objects,
    stack: &StackName,
    clock: &dyn Clock,
) -> Result<Option<Viewed<F>>> {
    let mut attempt = 1;
    loop {
        let Some(found) = head(objects, stack).await? else { return Ok(None) };
        match view(objects, stack, &found, clock).await {
            Ok(viewed) => return Ok(Some(viewed)),
            // What is wrong may be that a writer moved on meanwhile.
            Err(error) => match head(objects, stack).await? {
                Some(now) if now.etag != found.etag && attempt < ATTEMPTS => attempt += 1,
                _ => return Err(error),
            },
        }
    }
}

async fn view<F: Fold>(
    objects: &dyn Objects,
    stack: &StackName,
    found: &Found,
    clock: &dyn Clock,
) -> Result<Viewed<F>> {
    let head = &found.head;
    let mut replay = Replay::<F>::begin(objects, stack, head).await?;
    while replay.mark.epoch < head.epoch {
        let end = replay.epoch().await?;
        replay.check(head, &end)?;
    }
    let (holder, interrupted) = match &head.lease {
        Some(lease) if lease.is_live(clock.now()) => (Some(lease.holder.clone()), None),
        Some(lease) => (None, Some(lease.holder.clone())),
        None => (None, None),
    };
    Ok(Viewed { state: replay.state, version: replay.mark.tip, serial: head.serial, holder, interrupted })
}

/// Reads a stack's history.
pub(super) async fn history(objects: &dyn Objects, stack: &StackName) -> Result<Vec<HistoryEntry>> {
    let keys = Keys::new(stack);
    let mut entries: Vec<HistoryEntry> = Vec::new();
    for key in objects.list(&keys.histories(), None).await? {
        if let Some(object) = objects.get(&key).await? {
            entries.push(format::parse(&object.bytes, &|| objects.place(&key))?);
        }
    }
    let last = head(objects, stack).await?.and_then(|found| found.head.last);
    // Its holder may have been killed before it wrote the entry's own object.
    entries.extend(last.filter(|last| entries.last().is_none_or(|entry| entry.serial < last.serial)));
    Ok(entries)
}

/// Where an epoch's log ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With its seal.
    Sealed,
    /// Nobody sealed it: the slot that a seal goes into, and what was cut short before it.
    Open { next: u64, torn: Option<Digest> },
}

/// A state while records are folded into it.
#[derive(Debug)]
pub(super) struct Replay<'a, F> {
    objects: &'a dyn Objects,
    stack: &'a StackName,
    keys: Keys,
    pub(super) state: F,
    /// How far it is: in this epoch, so many slots, at this version.
    pub(super) mark: Mark,
    /// Bytes of slots read.
    pub(super) log: u64,
}

impl<'a, F: Fold> Replay<'a, F> {
    /// Starts from the snapshot that `HEAD` names.
    pub(super) async fn begin(
        objects: &'a dyn Objects,
        stack: &'a StackName,
        head: &format::Head,
    ) -> Result<Self> {
        let keys = Keys::new(stack);
        let state = match &head.base {
            Some(base) => snapshot(objects, &keys.snapshot(&base.digest), &base.digest).await?,
            None => F::default(),
        };
        Ok(Self { objects, stack, keys, state, mark: head.folded.clone(), log: 0 })
    }

    /// Goes on to the next epoch and reads what is there of it.
    pub(super) async fn epoch(&mut self) -> Result<End> {
        self.mark = Mark { epoch: self.mark.epoch + 1, slots: 0, tip: self.mark.tip };
        self.advance().await
    }

    /// Reads what is there of this epoch beyond what was read before.
    pub(super) async fn advance(&mut self) -> Result<End> {
        loop {
            let key = self.keys.slot(self.mark.epoch, self.mark.slots);
            let Some(object) = self.get(&key).await? else {
                return Ok(End::Open { next: self.mark.slots, torn: None });
            };
            match format::unframe(&object.bytes) {
                Framed::Whole(body, digest) => {
                    if self.take(&key, self.parse(&key, body)?, digest, None)? == Kind::Seal {
                        return Ok(End::Sealed);
                    }
                    self.log += object.bytes.len() as u64;
                }
                Framed::Torn => return self.torn(&key, &object).await,
                Framed::Changed(problem) => return Err(self.damaged(&key, problem)),
            }
        }
    }

    /// An object; where there is none there may be none after it either.
    async fn get(&self, key: &ObjectKey) -> Result<Option<Object>> {
        if let Some(object) = self.objects.get(key).await? {
            return Ok(Some(object));
        }
        let Some(later) = self.objects.list(&self.keys.epoch(self.mark.epoch), Some(key)).await?.pop() else {
            return Ok(None);
        };
        // It may have come between the two looks.
        let object = self.objects.get(key).await?;
        object.map(Some).ok_or_else(|| StateError::Missing {
            object: self.objects.place(key),
            because: format!("`{}` was written after it", self.objects.place(&later)),
        })
    }

    /// A slot that was cut short: it does not count if nothing comes after it but a seal that says so.
    async fn torn(&mut self, key: &ObjectKey, object: &Object) -> Result<End> {
        let torn = Digest::of(&object.bytes);
        let after = self.keys.slot(self.mark.epoch, self.mark.slots + 1);
        let Some(seal) = self.objects.get(&after).await? else {
            return Ok(End::Open { next: self.mark.slots + 1, torn: Some(torn) });
        };
        let Framed::Whole(body, digest) = format::unframe(&seal.bytes) else {
            return Err(self.damaged(key, "it is cut short, and what follows is damaged too"));
        };
        let slot = self.parse(&after, body)?;
        if slot.kind == Kind::Records {
            return Err(self.damaged(key, "it is cut short, and others follow"));
        }
        self.mark.slots += 1;
        self.take(&after, slot, digest, Some(torn))?;
        Ok(End::Sealed)
    }

    fn parse(&self, key: &ObjectKey, body: &[u8]) -> Result<Slot<F::Record>> {
        format::parse(body, &|| self.objects.place(key))
    }

    /// Folds a slot in.
    fn take(
        &mut self,
        key: &ObjectKey,
        slot: Slot<F::Record>,
        digest: Digest,
        torn: Option<Digest>,
    ) -> Result<Kind> {
        let problem = match &slot {
            slot if (slot.epoch, slot.number) != (self.mark.epoch, self.mark.slots) => "it belongs elsewhere",
            slot if slot.previous != self.mark.tip => "it does not follow what is before it",
            slot if slot.torn != torn => "what is before it is not as its writer found it",
            _ => "",
        };
        if !problem.is_empty() {
            return Err(self.damaged(key, problem));
        }
        for record in &slot.records {
            let applied = self.state.apply(record);
            applied.map_err(|problem| self.damaged(key, &format!("a record does not fit: {problem}")))?;
        }
        self.mark.slots += 1;
        if slot.kind == Kind::Records {
            self.mark.tip = digest;
        }
        Ok(slot.kind)
    }

    /// Compares the end of an epoch with what `HEAD` knows of it.
    pub(super) fn check(&self, head: &format::Head, end: &End) -> Result<()> {
        let known = &head.sealed;
        if self.mark.epoch > known.epoch {
            return Ok(());
        }
        let next = self.keys.slot(self.mark.epoch, self.mark.slots);
        if *end != End::Sealed {
            return Err(StateError::Missing {
                object: self.objects.place(&next),
                because: format!("epoch {} of `{}` was sealed", self.mark.epoch, self.stack),
            });
        }
        if self.mark.epoch == known.epoch && self.mark != *known {
            return Err(self.damaged(&self.keys.head(), "it does not go with the journal"));
        }
        Ok(())
    }

    fn damaged(&self, key: &ObjectKey, problem: &str) -> StateError {
        StateError::Damaged { object: self.objects.place(key), problem: problem.to_owned() }
    }
}

/// Reads a snapshot and checks that it is the one of its name.
pub(super) async fn snapshot<F: Fold>(objects: &dyn Objects, key: &ObjectKey, digest: &Digest) -> Result<F> {
    let Some(object) = objects.get(key).await? else {
        let because = "the stack's `HEAD` names it".to_owned();
        return Err(StateError::Missing { object: objects.place(key), because });
    };
    let damaged = |problem: String| StateError::Damaged { object: objects.place(key), problem };
    let json = zstd::decode_all(&object.bytes[..]).map_err(|error| damaged(error.to_string()))?;
    if Digest::of(&json) != *digest {
        return Err(damaged("its digest is not the one it is named by".to_owned()));
    }
    format::parse(&json, &|| objects.place(key))
}
