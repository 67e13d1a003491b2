//! Counts calls, and stops clients at one of them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

/// How many calls there were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All of them.
    pub total: u64,
    /// By service and action: `ec2:RunInstances`.
    pub by_action: BTreeMap<String, u64>,
}

/// On which side of a call something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before it has any effect, and then it has none.
    Before,
    /// After it had its effect; nobody hears of it.
    After,
}

/// Kills a process with SIGKILL at a call that it makes. [`Aim::at`] says which: the call waits for that.
#[derive(Debug)]
pub struct Aim {
    pid: watch::Sender<Option<i32>>,
}

impl Aim {
    /// The process that is killed.
    pub fn at(&self, pid: u32) {
        self.pid.send_replace(i32::try_from(pid).ok());
    }
}

/// What happens at a call; both are over when it returns, and the connection is then cut.
type Act = Box<dyn FnOnce() -> tokio::task::JoinHandle<()> + Send>;

struct Stop {
    call: u64,
    when: When,
    act: Act,
}

#[derive(Default)]
pub(super) struct Calls {
    counts: Mutex<Counts>,
    stops: Mutex<Vec<Stop>>,
}

impl Calls {
    /// Counts one, and says the how-manieth it is.
    pub(super) fn count(&self, name: String) -> u64 {
        let mut counts = held(&self.counts);
        counts.total += 1;
        *counts.by_action.entry(name).or_default() += 1;
        counts.total
    }

    pub(super) fn counts(&self) -> Counts {
        held(&self.counts).clone()
    }

    /// Starts to count anew.
    pub(super) fn reset(&self) {
        *held(&self.counts) = Counts::default();
    }

    /// Has something happen at the n-th call from now on, from 1.
    pub(super) fn at(&self, number: u64, when: When, act: Act) {
        let call = held(&self.counts).total + number;
        held(&self.stops).push(Stop { call, when, act });
    }

    /// Does what was asked for at this call; says whether it was anything.
    pub(super) async fn reach(&self, number: u64, at: When) -> bool {
        let found = {
            let mut stops = held(&self.stops);
            let position = stops.iter().position(|stop| stop.call == number && stop.when == at);
            position.map(|position| stops.remove(position))
        };
        let Some(stop) = found else { return false };
        // It is ours, and whether it ended in a panic is seen by who waits for what it did.
        (stop.act)().await.ok();
        true
    }

    /// Kills a process at the n-th call from now on.
    pub(super) fn kill_at(&self, number: u64, when: When) -> Aim {
        let (pid, mut aimed) = watch::channel(None);
        let act = move || {
            tokio::spawn(async move {
                let found = aimed.wait_for(Option::is_some).await.ok().and_then(|pid| *pid);
                if let Some(pid) = found.and_then(rustix::process::Pid::from_raw) {
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                }
            })
        };
        self.at(number, when, Box::new(act));
        Aim { pid }
    }
}

/// A lock that a panic elsewhere does not spoil: what it holds is changed in one step.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
