//! A stack in somebody's hands: appends, the lease, the end. Main type: [`Held`].
//!
//! One task writes. It takes what waits in its queue, folds it into the state, and writes it as one slot; nobody sees
//! the state until the slot is durable. When a slot or `HEAD` turns out to be another's, or a write fails, the hold
//! is over for good: every later call says so and writes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use olbake_core::Digest;
use olbake_core::stack::StackName;
use tokio::sync::{Mutex, RwLock, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::acquire::{self, HeadCell, express, is_long, settle};
use super::format::{self, Base, Ending, HistoryEntry, Kind, Mark, Slot};
use super::holder::Lease;
use super::objects::put_surely;
use super::{Fold, Heartbeat, HoldOptions, Holder, Result, StateError};
use crate::store::object::{Put, PutOutcome};

/// Records in a slot at most.
const GROUP: usize = 256;

/// The right to change a stack. Many tasks may share it.
#[derive(Debug)]
pub struct Held<F: Fold> {
    shared: Arc<Shared<F>>,
    queue: mpsc::Sender<Request<F>>,
    heartbeat: Option<AbortHandle>,
}

/// How a hold was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The version of the state that was left.
    pub version: Digest,
    /// The number of the history's newest entry.
    pub serial: u64,
    /// What speaks against the snapshot that was due, by [`Fold::lint`] above all. The records are kept instead.
    pub problems: Vec<String>,
}

#[derive(Debug)]
struct Shared<F> {
    stack: StackName,
    epoch: u64,
    options: HoldOptions,
    state: RwLock<F>,
    version: std::sync::Mutex<Digest>,
    cell: Mutex<HeadCell>,
    status: watch::Sender<Status>,
    /// Until when the lease holds, in milliseconds of the steady clock.
    deadline: AtomicU64,
}

#[derive(Clone, Debug)]
enum Status {
    Holding,
    Lost(Option<Box<Holder>>),
    Broken(String),
    Closed,
}

#[derive(Debug)]
enum Request<F: Fold> {
    Append(F::Record, oneshot::Sender<Result<Digest>>),
    Close(String, oneshot::Sender<Result<Closed>>),
}

impl<F: Fold> Held<F> {
    pub(super) fn start(
        cell: HeadCell,
        options: HoldOptions,
        state: F,
        mark: Mark,
        log: u64,
        deadline: Duration,
    ) -> Self {
        let epoch = cell.found.head.epoch;
        let shared = Arc::new(Shared {
            stack: cell.stack.clone(),
            epoch,
            state: RwLock::new(state),
            version: std::sync::Mutex::new(mark.tip),
            cell: Mutex::new(cell),
            status: watch::Sender::new(Status::Holding),
            deadline: AtomicU64::new(milliseconds(deadline)),
            options,
        });
        let (queue, requests) = mpsc::channel(GROUP);
        let writer = LogWriter {
            shared: shared.clone(),
            mark: Mark { epoch, slots: 0, tip: mark.tip },
            begun: mark.tip,
            log,
        };
        tokio::spawn(writer.run(requests));
        let heartbeat = match shared.options.heartbeat {
            Heartbeat::Task => Some(tokio::spawn(beat(shared.clone())).abort_handle()),
            Heartbeat::Manual => None,
        };
        Self { shared, queue, heartbeat }
    }

    /// The stack.
    pub fn stack(&self) -> &StackName {
        &self.shared.stack
    }

    /// The epoch that this hold writes: larger than that of every hold before it.
    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// Looks at the state: all that was appended and is durable, and nothing else.
    pub async fn with<R>(&self, look: impl FnOnce(&F) -> R) -> Result<R> {
        let state = self.shared.state.read().await;
        self.shared.check()?;
        Ok(look(&state))
    }

    /// A copy of the state.
    pub async fn state(&self) -> Result<F> {
        self.with(F::clone).await
    }

    /// The version of the state: the one that plans are made for.
    pub fn version(&self) -> Digest {
        *self.shared.version.lock().expect("no thread panics while it holds a digest")
    }

    /// Appends a record; it is durable when this returns, and says the version it led to. Appends by several tasks
    /// are in the order in which they were called. Dropping the future does not undo it.
    pub async fn append(&self, record: F::Record) -> Result<Digest> {
        self.shared.check()?;
        let (answer, answered) = oneshot::channel();
        // The writer goes only when the runtime does.
        let sent = self.queue.send(Request::Append(record, answer)).await;
        sent.map_err(|_| self.shared.gone())?;
        answered.await.map_err(|_| self.shared.gone())?
    }

    /// Whether something may be changed on the stack's behalf now. To be asked right before each call that does: it
    /// needs no network and ends well before the lease does.
    pub fn permit(&self) -> Result<()> {
        self.shared.check()?;
        match self.shared.lease_holds() {
            true => Ok(()),
            false => Err(StateError::Expired { stack: self.shared.stack.clone() }),
        }
    }

    /// Renews the lease. Where that fails for now, the lease holds as long as it did before.
    pub async fn renew(&self) -> Result<()> {
        self.shared.renew().await
    }

    /// Whether the hold is over: taken over, broken or closed.
    pub fn is_lost(&self) -> bool {
        self.shared.check().is_err()
    }

    /// Waits until the hold is over and says why.
    pub async fn lost(&self) -> StateError {
        let mut status = self.shared.status.subscribe();
        loop {
            if let Err(error) = self.shared.check() {
                return error;
            }
            if status.changed().await.is_err() {
                return self.shared.gone();
            }
        }
    }

    /// Ends the hold: seals its records, writes a snapshot where the log became long, an entry of the history where
    /// something was changed, and gives up the lease. What was appended stays, whatever this returns.
    pub async fn close(&self, summary: impl Into<String>) -> Result<Closed> {
        self.shared.check()?;
        let (answer, answered) = oneshot::channel();
        let sent = self.queue.send(Request::Close(summary.into(), answer)).await;
        sent.map_err(|_| self.shared.gone())?;
        answered.await.map_err(|_| self.shared.gone())?
    }
}

impl<F: Fold> Drop for Held<F> {
    fn drop(&mut self) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.abort();
        }
    }
}

/// Renews the lease until the hold is over.
async fn beat<F: Fold>(shared: Arc<Shared<F>>) {
    while shared.check().is_ok() {
        tokio::time::sleep(shared.options.ttl / 3).await;
        // A failure of the store is tried again at the next beat, and before the next append.
        drop(shared.renew().await);
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl<F: Fold> Shared<F> {
    fn check(&self) -> Result<()> {
        let stack = self.stack.clone();
        Err(match &*self.status.borrow() {
            Status::Holding => return Ok(()),
            Status::Lost(by) => StateError::Lost { stack, by: by.clone() },
            Status::Broken(problem) => StateError::Broken { stack, problem: problem.clone() },
            Status::Closed => StateError::Closed { stack },
        })
    }

    /// The error of a hold whose writer is no more.
    fn gone(&self) -> StateError {
        let problem = "its task was ended".to_owned();
        self.check().err().unwrap_or(StateError::Broken { stack: self.stack.clone(), problem })
    }

    /// Ends the hold for good, unless it is over already.
    fn end(&self, error: &StateError) {
        let end = match error {
            StateError::Lost { by, .. } => Status::Lost(by.clone()),
            StateError::Closed { .. } => Status::Closed,
            other => Status::Broken(with_causes(other)),
        };
        self.status.send_if_modified(|status| {
            let holding = matches!(status, Status::Holding);
            if holding {
                *status = end;
            }
            holding
        });
    }

    fn lease_holds(&self) -> bool {
        let margin = milliseconds(self.options.ttl / 10);
        milliseconds(self.options.clock.steady()) + margin < self.deadline.load(Ordering::Acquire)
    }

    async fn renew(&self) -> Result<()> {
        let mut cell = self.cell.lock().await;
        self.check()?;
        let deadline = self.options.clock.steady() + self.options.ttl;
        let lease = Lease::new(self.options.holder.clone(), self.options.clock.now(), self.options.ttl);
        if cell.swap(|head| head.lease = Some(lease)).await? {
            self.deadline.store(milliseconds(deadline), Ordering::Release);
            return Ok(());
        }
        let lost = cell.lost().await;
        self.end(&lost);
        Err(lost)
    }
}

fn with_causes(error: &StateError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Writes the slots of a hold's epoch, in order.
struct LogWriter<F: Fold> {
    shared: Arc<Shared<F>>,
    mark: Mark,
    /// The version that the hold began with.
    begun: Digest,
    /// Bytes of slots since the snapshot.
    log: u64,
}

/// A record, and who waits for it.
type Waiting<F> = (<F as Fold>::Record, oneshot::Sender<Result<Digest>>);

impl<F: Fold> LogWriter<F> {
    async fn run(mut self, mut requests: mpsc::Receiver<Request<F>>) {
        let mut waiting = Vec::with_capacity(GROUP);
        while requests.recv_many(&mut waiting, GROUP).await > 0 {
            let mut group: Vec<Waiting<F>> = Vec::with_capacity(waiting.len());
            for request in waiting.drain(..) {
                match request {
                    Request::Append(record, answer) => group.push((record, answer)),
                    Request::Close(summary, answer) => {
                        self.commit(std::mem::take(&mut group)).await;
                        // Who closes and does not wait for the answer has closed all the same.
                        drop(answer.send(self.close(summary).await));
                    }
                }
            }
            self.commit(group).await;
        }
    }

    /// Writes records as one slot and answers those who wait.
    async fn commit(&mut self, group: Vec<Waiting<F>>) {
        if group.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        // Held until the slot is durable, or the hold is over: nobody sees what may not be.
        let mut state = shared.state.write().await;
        if let Err(error) = self.ready().await {
            shared.end(&error);
            for (_, answer) in group {
                drop(answer.send(Err(shared.gone())));
            }
            return;
        }
        let (mut records, mut answers) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        let mut rejected = None;
        let mut group = group.into_iter();
        for (record, answer) in group.by_ref() {
            if let Err(problem) = state.apply(&record) {
                rejected = Some((StateError::Rejected { stack: shared.stack.clone(), problem }, answer));
                break;
            }
            records.push(record);
            answers.push(answer);
        }
        let written = if records.is_empty() { Ok(()) } else { self.write(records).await };
        if let Err(error) = &written {
            shared.end(error);
        }
        for answer in answers {
            drop(answer.send(shared.check().map(|()| self.mark.tip)));
        }
        if let Some((error, answer)) = rejected {
            // The state may have half of the record, and what comes after it was meant to follow it.
            shared.end(&error);
            drop(answer.send(Err(error)));
            group.for_each(|(_, answer)| drop(answer.send(Err(shared.gone()))));
        }
    }

    /// Whether the hold goes on; renews a lease that ran out.
    async fn ready(&self) -> Result<()> {
        self.shared.check()?;
        match self.shared.lease_holds() {
            true => Ok(()),
            false => self.shared.renew().await,
        }
    }

    async fn write(&mut self, records: Vec<F::Record>) -> Result<()> {
        let Mark { epoch, slots: number, tip: previous } = self.mark;
        let writer = self.shared.options.writer.clone();
        let slot = Slot { kind: Kind::Records, epoch, number, writer, previous, torn: None, records };
        let (bytes, digest) = format::frame(&slot).map_err(|source| express(&self.shared.stack, source))?;
        let (objects, key) = {
            let cell = self.shared.cell.lock().await;
            (cell.objects.clone(), cell.keys.slot(epoch, number))
        };
        match put_surely(&*objects, &key, &bytes, Put::IfAbsent).await? {
            PutOutcome::Stored(_) => {
                self.mark = Mark { epoch, slots: number + 1, tip: digest };
                self.log += bytes.len() as u64;
                *self.shared.version.lock().expect("no thread panics while it holds a digest") = digest;
                Ok(())
            }
            PutOutcome::Refused => Err(self.shared.cell.lock().await.lost().await),
        }
    }

    async fn close(&mut self, summary: String) -> Result<Closed> {
        self.shared.check()?;
        let shared = self.shared.clone();
        // Held until the hold is over, or a heartbeat would take a lease that was just given up.
        let mut cell = shared.cell.lock().await;
        let closed = self.try_close(&mut cell, summary).await;
        let stack = shared.stack.clone();
        shared.end(closed.as_ref().err().unwrap_or(&StateError::Closed { stack }));
        closed
    }

    async fn try_close(&mut self, cell: &mut HeadCell, summary: String) -> Result<Closed> {
        if !acquire::seal(cell, &self.mark, self.mark.slots, None).await? {
            return Err(cell.lost().await);
        }
        self.mark.slots += 1;
        let (base, problems) = self.snapshot(cell).await;
        let last = (self.mark.tip != self.begun).then(|| self.entry(cell, summary));
        let released = cell.swap(|head| {
            settle(head, &self.mark, base, last);
            head.lease = None;
        });
        if !released.await? {
            return Err(cell.lost().await);
        }
        // `HEAD` has it; where its object cannot be written now, the next hold writes it.
        drop(cell.publish_history().await);
        Ok(Closed { version: self.mark.tip, serial: cell.found.head.serial, problems })
    }

    /// A snapshot, where the log became long; or why there is none, after which the log stays.
    async fn snapshot(&self, cell: &HeadCell) -> (Option<Base>, Vec<String>) {
        if !is_long(self.log, &cell.found.head) {
            return (None, Vec::new());
        }
        match acquire::compact(cell, &*self.shared.state.read().await).await {
            Ok(Ok(base)) => (Some(base), Vec::new()),
            Ok(Err(problems)) => (None, problems),
            Err(error) => (None, vec![with_causes(&error)]),
        }
    }

    fn entry(&self, cell: &HeadCell, summary: String) -> HistoryEntry {
        HistoryEntry {
            serial: cell.found.head.serial + 1,
            epoch: self.mark.epoch,
            holder: Some(self.shared.options.holder.clone()),
            summary,
            ending: Ending::Closed,
            version: self.mark.tip,
            at: self.shared.options.clock.now(),
        }
    }
}
