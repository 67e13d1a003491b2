//! A run of operations on a host: through dropped connections, killed agents and reboots that the recipe asks for.
//!
//! The run's digest is what holds it together: an agent that is started again with the same digest goes on after the
//! last operation that its journal has. What a run is to survive decides where the journal lies: in memory, or on the
//! host's disk where the plan asks for a reboot. Main type: [`Remote`].

use std::collections::HashSet;
use std::time::{Duration, Instant};

use olbake_core::OperationId;
use olbake_core::operation::{Action, Operation};
use olbake_core::protocol::{FromAgent, Mode};
use olbake_engine::cancel::Cancel;
use olbake_engine::session::{self, Blobs, Run, RunEnd, SessionError};

use crate::agent::{Agent, Started};
use crate::connection::Connection;
use crate::error::SshError;
use crate::host::Host;

/// Where agents keep their journal and blobs.
const WORK_DIR: &str = "/run/olbake/apply";
/// The same where it must survive a reboot.
const LASTING_WORK_DIR: &str = "/var/lib/olbake/apply";
/// How often a run may end early without an operation more than before.
const FRUITLESS: u32 = 4;
/// The pause before connecting again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// A host that runs can be done on.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The host.
    pub host: Host,
    /// The agent.
    pub agent: Agent,
    /// Tells this olbake from others that may work on the host; of letters, digits and `-`.
    pub token: String,
    /// How long a host that was there may be away.
    pub patience: Duration,
}

/// Something to know about the way to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It was connected to.
    Connected,
    /// The agent was pushed: the host did not have it.
    Pushed,
    /// The connection was lost.
    Lost,
    /// It boots again, as the recipe asks.
    Rebooting,
}

/// How one attempt ended that did not fail.
enum Attempt {
    Ended(RunEnd),
    /// The connection or the agent is gone.
    Lost {
        error: SessionError,
        output: String,
    },
    Rebooting {
        boot: String,
    },
}

impl Remote {
    /// The directory on the host that a run of these operations uses.
    pub fn work_dir(operations: &[Operation], mode: Mode) -> &'static str {
        let reboots = operations.iter().any(|operation| matches!(operation.action, Action::Reboot { .. }));
        if reboots && mode == Mode::Apply { LASTING_WORK_DIR } else { WORK_DIR }
    }

    /// Runs operations, over a connection that was made before, if there is one and it is still good. `hear` is told of
    /// each message once, however often the run had to be taken up; the reports of the end are those of all operations.
    pub async fn run(
        &self,
        before: Option<Connection>,
        run: &Run,
        blobs: &dyn Blobs,
        cancel: &Cancel,
        mut notice: impl FnMut(Notice) + Send,
        mut hear: impl FnMut(&FromAgent) + Send,
    ) -> Result<RunEnd, SshError> {
        let mut told = Told::default();
        let mut is_old = before.is_some();
        let mut connection = match before {
            Some(connection) => Some(connection),
            None => Some(self.connect(cancel).await?),
        };
        notice(Notice::Connected);
        let (mut fruitless, mut left) = (0, None);
        loop {
            let known = told.ended.len();
            let current = match connection.take() {
                Some(connection) => connection,
                None => self.connect_again(cancel).await?,
            };
            let again = known > 0 || std::mem::take(&mut is_old);
            let Some(started) = self.start(&current, again, left.as_ref(), cancel).await? else {
                drop(current);
                pause(FIRST_PAUSE * 2, cancel).await?;
                continue;
            };
            left = None;
            if started.pushed {
                notice(Notice::Pushed);
            }
            let hear = |message: &FromAgent| told.pass_on(message, &mut hear);
            match self.attempt(started, run.clone(), blobs, cancel, hear).await? {
                Attempt::Ended(end) => return Ok(end),
                Attempt::Rebooting { boot } => {
                    notice(Notice::Rebooting);
                    fruitless = 0;
                    left = Some((boot, Instant::now()));
                }
                Attempt::Lost { .. } if cancel.is_cancelled() => return Err(SshError::Cancelled),
                Attempt::Lost { error, output } => {
                    fruitless = if told.ended.len() > known { 0 } else { fruitless + 1 };
                    if fruitless >= FRUITLESS {
                        return Err(SshError::Lost { host: self.host.to_string(), source: error, output });
                    }
                    notice(Notice::Lost);
                }
            }
        }
    }

    /// Starts the agent; none: the host is about to go, or not quite back. `left` is the boot that it was asked away
    /// from, and when.
    async fn start(
        &self,
        connection: &Connection,
        again: bool,
        left: Option<&(String, Instant)>,
        cancel: &Cancel,
    ) -> Result<Option<Started>, SshError> {
        let started = tokio::select! {
            started = self.agent.start(connection, &self.token) => started,
            () = cancel.cancelled() => return Err(SshError::Cancelled),
        };
        match (started, left) {
            (Ok(started), Some((boot, since))) if started.boot == *boot => {
                if since.elapsed() < self.patience {
                    return Ok(None);
                }
                Err(SshError::Reboot { host: self.host.to_string(), seconds: self.patience.as_secs() })
            }
            (Ok(started), _) => Ok(Some(started)),
            (Err(_), Some((_, since))) if since.elapsed() < self.patience => Ok(None),
            (Err(error), _) if error.is_passing() && again => Ok(None),
            (Err(error), _) => Err(error),
        }
    }

    async fn attempt(
        &self,
        started: Started,
        run: Run,
        blobs: &dyn Blobs,
        cancel: &Cancel,
        hear: impl FnMut(&FromAgent) + Send,
    ) -> Result<Attempt, SshError> {
        let Started { stream, boot, pushed: _, mut errors } = started;
        match session::run(stream, run, blobs, cancel, hear).await {
            Ok(end) if end.rebooting => Ok(Attempt::Rebooting { boot }),
            Ok(end) => Ok(Attempt::Ended(end)),
            Err(error @ (SessionError::Stream(_) | SessionError::Ended)) => {
                Ok(Attempt::Lost { error, output: errors.words().await })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn connect(&self, cancel: &Cancel) -> Result<Connection, SshError> {
        tokio::select! {
            connection = Connection::open(&self.host) => connection,
            () = cancel.cancelled() => Err(SshError::Cancelled),
        }
    }

    /// Connects to a host that was there before. One that boots may refuse logins for a while.
    async fn connect_again(&self, cancel: &Cancel) -> Result<Connection, SshError> {
        let end = Instant::now() + self.patience;
        let mut wait = FIRST_PAUSE;
        loop {
            match self.connect(cancel).await {
                Err(error)
                    if Instant::now() < end
                        && (error.is_passing() || matches!(error, SshError::Login { .. })) => {}
                connected => return connected,
            }
            pause(wait, cancel).await?;
            wait = (wait * 2).min(LONGEST_PAUSE);
        }
    }
}

async fn pause(time: Duration, cancel: &Cancel) -> Result<(), SshError> {
    tokio::select! {
        () = tokio::time::sleep(time) => Ok(()),
        () = cancel.cancelled() => Err(SshError::Cancelled),
    }
}

/// What the caller was told: an agent that takes a run up reports again what had ended.
#[derive(Default)]
struct Told {
    started: HashSet<OperationId>,
    ended: HashSet<OperationId>,
}

impl Told {
    fn pass_on(&mut self, message: &FromAgent, hear: &mut impl FnMut(&FromAgent)) {
        let new = match message {
            FromAgent::Started { id } => self.started.insert(id.clone()),
            FromAgent::Finished(report) => self.ended.insert(report.id.clone()),
            _ => true,
        };
        if new {
            hear(message);
        }
    }
}
