//! Who holds a stack, and since when: leases, processes, clocks. Main type: [`Holder`].

use std::fmt;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use olbake_core::Digest;
use serde::{Deserialize, Serialize};

/// Milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// As the standard library has it.
    pub fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }

    /// How long before `later` that is; nothing where it is after.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.0.saturating_sub(self.0))
    }

    fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// What time it is.
pub trait Clock: fmt::Debug + Send + Sync {
    /// By the calendar: what other hosts can compare, more or less.
    fn now(&self) -> Timestamp;

    /// Since some moment; never goes back and does not stand still while the host sleeps.
    fn steady(&self) -> Duration;
}

/// The host's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn steady(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::try_from(time).unwrap_or_default()
    }
}

/// Tells one hold from every other: a number that nobody draws twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Writer(String);

impl Writer {
    /// Drawn from the system's randomness.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        crate::secrets::random(&mut bytes)?;
        Ok(Self::fixed(u128::from_le_bytes(bytes)))
    }

    /// A given one, for tests.
    pub fn fixed(number: u128) -> Self {
        Self(format!("{number:032x}"))
    }
}

/// A process, such that it is told from a later one with its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub started: u64,
    /// The boot of its host.
    pub boot: String,
    /// The namespace that its number is of.
    pub namespace: String,
    /// A digest that identifies its host.
    pub machine: String,
}

/// What can be said of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs here.
    Alive,
    /// It ran here and does no more.
    Gone,
    /// It is or was somewhere that cannot be seen from here.
    Elsewhere,
}

impl Process {
    /// This one.
    pub fn this() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            started: started(pid).unwrap_or_default(),
            boot: line("/proc/sys/kernel/random/boot_id"),
            namespace: fs::read_link("/proc/self/ns/pid")
                .map_or_else(|_| String::new(), |link| link.to_string_lossy().into_owned()),
            machine: Digest::of(format!("olbake host {}", line("/etc/machine-id")).as_bytes()).short(),
        }
    }

    /// Whether it still runs.
    pub fn fate(&self) -> Fate {
        let here = Self::this();
        match self {
            _ if self.machine != here.machine || self.boot.is_empty() => Fate::Elsewhere,
            _ if self.boot != here.boot => Fate::Gone,
            _ if self.namespace != here.namespace => Fate::Elsewhere,
            _ if started(self.pid) == Some(self.started) => Fate::Alive,
            _ => Fate::Gone,
        }
    }
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

/// When a process started; none where it does not run.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, with any characters in it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // The state is the third field, the start the twenty-second.
    fields.nth(18)?.parse().ok().filter(|_| !matches!(state, "Z" | "X"))
}

/// Who holds a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The user.
    pub who: String,
    /// The host's name.
    pub host: String,
    /// The process.
    pub process: Process,
    /// The command, as typed, without secrets.
    pub command: String,
    /// Since when.
    pub since: Timestamp,
}

impl Holder {
    /// This process.
    pub fn here(who: impl Into<String>, command: impl Into<String>, clock: &dyn Clock) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let (who, command) = (who.into(), command.into());
        Self { who, host, process: Process::this(), command, since: clock.now() }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, host, process, command, since: _ } = self;
        write!(f, "{who} on {host} (process {}, `{command}`)", process.pid)
    }
}

/// The right to append, for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub(super) holder: Holder,
    pub(super) until: Timestamp,
}

impl Lease {
    pub(super) fn new(holder: Holder, now: Timestamp, ttl: Duration) -> Self {
        Self { holder, until: now.after(ttl) }
    }

    /// Whether its holder may still be at work. Decides only when a takeover is tried, never whether it is safe.
    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        now < self.until && self.holder.process.fate() != Fate::Gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_one_that_took_its_number() {
        let this = Process::this();
        assert_eq!(this.fate(), Fate::Alive);
        assert_eq!(Process { started: this.started + 1, ..this.clone() }.fate(), Fate::Gone);
        assert_eq!(Process { boot: "another".into(), ..this.clone() }.fate(), Fate::Gone);
        assert_eq!(Process { namespace: "pid:[1]".into(), ..this.clone() }.fate(), Fate::Elsewhere);
        assert_eq!(Process { machine: "another".into(), boot: "x".into(), ..this }.fate(), Fate::Elsewhere);
    }

    #[test]
    fn a_child_that_was_not_waited_for_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process =
            Process { pid: child.id(), started: started(child.id()).unwrap_or(0), ..Process::this() };
        while process.fate() == Fate::Alive {
            std::thread::yield_now();
        }
        assert_eq!(process.fate(), Fate::Gone);
        child.wait().unwrap();
    }
}
