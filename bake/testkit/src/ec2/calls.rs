//! Counts calls, and stops clients at one of them.

use std::collections::{BTreeMap, HashSet};
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
    at: Mark,
    when: When,
    act: Act,
}

/// Which call, among all since the beginning or among those of an action, or the next that changes something and is
/// none that was met before.
#[derive(PartialEq, Eq)]
enum Mark {
    Call(u64),
    Action(String, u64),
    Change,
}

/// A call that was counted.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    total: u64,
    action: String,
    of_action: u64,
    /// What it asks for, where it changes something: who repeats a call asks for the same.
    change: Option<u64>,
}

#[derive(Default)]
pub(super) struct Calls {
    counts: Mutex<Counts>,
    stops: Mutex<Vec<Stop>>,
    /// The changes at which something happened.
    met: Mutex<HashSet<u64>>,
}

impl Calls {
    /// Counts one, and says the how-manieth it is.
    pub(super) fn count(&self, name: String, change: Option<u64>) -> Counted {
        let mut counts = held(&self.counts);
        counts.total += 1;
        let total = counts.total;
        let of_action = counts.by_action.entry(name.clone()).or_default();
        *of_action += 1;
        Counted { total, of_action: *of_action, action: name, change }
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
        let at = Mark::Call(held(&self.counts).total + number);
        held(&self.stops).push(Stop { at, when, act });
    }

    /// Does what was asked for at this call; says whether it was anything.
    pub(super) async fn reach(&self, counted: &Counted, when: When) -> bool {
        let Counted { total, action, of_action, change } = counted;
        let found = {
            let (mut stops, mut met) = (held(&self.stops), held(&self.met));
            let is_here = |at: &Mark| match at {
                Mark::Call(number) => number == total,
                Mark::Action(name, number) => name == action && number == of_action,
                Mark::Change => change.is_some_and(|change| !met.contains(&change)),
            };
            let position = stops.iter().position(|stop| stop.when == when && is_here(&stop.at));
            let found = position.map(|position| stops.remove(position));
            if found.as_ref().is_some_and(|stop| stop.at == Mark::Change) {
                met.extend(change);
            }
            found
        };
        let Some(stop) = found else { return false };
        // It is ours, and whether it ended in a panic is seen by who waits for what it did.
        (stop.act)().await.ok();
        true
    }

    /// Kills a process at the n-th call from now on.
    pub(super) fn kill_at(&self, number: u64, when: When) -> Aim {
        let (aim, act) = Self::kill();
        self.at(number, when, act);
        aim
    }

    /// Kills a process at the n-th call of an action (`ec2:RunInstances`) from now on.
    pub(super) fn kill_at_action(&self, action: &str, number: u64, when: When) -> Aim {
        let (aim, act) = Self::kill();
        let before = held(&self.counts).by_action.get(action).copied().unwrap_or_default();
        let at = Mark::Action(action.to_owned(), before + number);
        held(&self.stops).push(Stop { at, when, act });
        aim
    }

    /// Kills a process at the next call that changes something and at which none was killed before.
    pub(super) fn kill_at_change(&self, when: When) -> Aim {
        let (aim, act) = Self::kill();
        held(&self.stops).push(Stop { at: Mark::Change, when, act });
        aim
    }

    /// Forgets what was to happen at calls that have not come.
    pub(super) fn forget(&self) {
        held(&self.stops).clear();
    }

    fn kill() -> (Aim, Act) {
        let (pid, mut aimed) = watch::channel(None);
        let act = move || {
            tokio::spawn(async move {
                let found = aimed.wait_for(Option::is_some).await.ok().and_then(|pid| *pid);
                if let Some(pid) = found.and_then(rustix::process::Pid::from_raw) {
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
                }
            })
        };
        (Aim { pid }, Box::new(act))
    }
}

/// A lock that a panic elsewhere does not spoil: what it holds is changed in one step.
pub(super) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
