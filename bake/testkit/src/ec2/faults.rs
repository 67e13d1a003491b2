//! What goes wrong on purpose: which calls it meets, and what they then are answered.

use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::answer::Refusal;
use super::call::{Call, Protocol};
use super::calls::held;

/// Something that goes wrong with calls to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Which calls it meets: `RunInstances`, `ec2:RunInstances`, `ec2:*`, `Describe*`, `*`.
    pub action: String,
    /// How many of them it leaves alone first.
    #[serde(default)]
    pub skip: u32,
    /// How many it then meets.
    #[serde(default = "once")]
    pub times: u32,
    /// What it does.
    #[serde(flatten)]
    pub kind: FaultKind,
}

fn once() -> u32 {
    1
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FaultKind {
    /// Too many requests, as the service says that.
    Throttle,
    /// An internal error, before anything was done.
    Unavailable,
    /// An error of one's own.
    Error {
        /// `UnauthorizedOperation`.
        code: String,
        /// In words.
        #[serde(default)]
        message: String,
        /// Of HTTP.
        #[serde(default = "bad_request")]
        status: u16,
    },
    /// There is no capacity for the instance.
    InsufficientCapacity,
    /// The connection ends before anything is done.
    CutBefore,
    /// It is done, but the connection ends before that is answered.
    CutAfter,
    /// It arrives twice; what the second is answered is the answer.
    Twice,
    /// It takes longer.
    Slow {
        /// By how much.
        ms: u64,
    },
    /// Instances that the call starts are told this instead of what they were to be told.
    UserData {
        /// What.
        text: String,
    },
    /// The snapshot that the call makes stays pending.
    StuckSnapshot,
    /// The snapshot that the call makes is completed later.
    SlowSnapshot {
        /// After how long.
        ms: u64,
    },
}

fn bad_request() -> u16 {
    400
}

impl Fault {
    /// One that meets the next call of an action.
    pub fn next(action: &str, kind: FaultKind) -> Self {
        Self { action: action.to_owned(), skip: 0, times: 1, kind }
    }

    fn matches(&self, call: &Call) -> bool {
        let name = call.name();
        match self.action.strip_suffix('*') {
            Some(start) => name.starts_with(start) || call.action.starts_with(start),
            None => self.action == name || self.action == call.action,
        }
    }
}

/// How the cloud behaves all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// How much longer each call takes.
    pub latency_ms: u64,
    /// How long it takes until a new object is seen by other calls of EC2 and EBS.
    pub visibility_ms: u64,
    /// How long a snapshot is pending.
    pub snapshot_ms: u64,
}

#[derive(Default)]
pub(super) struct Faults {
    to_come: Mutex<Vec<Fault>>,
    behaviour: Mutex<Behaviour>,
}

impl Faults {
    pub(super) fn add(&self, fault: Fault) {
        held(&self.to_come).push(fault);
    }

    pub(super) fn clear(&self) {
        held(&self.to_come).clear();
    }

    /// What has not met all its calls yet.
    pub(super) fn left(&self) -> Vec<Fault> {
        held(&self.to_come).clone()
    }

    pub(super) fn behaviour(&self) -> Behaviour {
        *held(&self.behaviour)
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        *held(&self.behaviour) = behaviour;
    }

    /// What goes wrong with this call; it has then met one call more.
    pub(super) fn meet(&self, call: &Call) -> Met {
        let mut to_come = held(&self.to_come);
        let mut kinds = Vec::new();
        for fault in to_come.iter_mut().filter(|fault| fault.matches(call)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                kinds.push(fault.kind.clone());
            }
        }
        to_come.retain(|fault| fault.times > 0);
        Met { kinds }
    }
}

/// What goes wrong with one call.
pub(super) struct Met {
    kinds: Vec<FaultKind>,
}

impl Met {
    pub(super) fn has(&self, kind: &FaultKind) -> bool {
        self.kinds.contains(kind)
    }

    /// By how much the call is late.
    pub(super) fn delay(&self) -> Duration {
        let slow = self.kinds.iter().filter_map(|kind| match kind {
            FaultKind::Slow { ms } => Some(*ms),
            _ => None,
        });
        Duration::from_millis(slow.sum())
    }

    /// What the instances that the call starts are told instead.
    pub(super) fn user_data(&self) -> Option<&str> {
        self.kinds.iter().find_map(|kind| match kind {
            FaultKind::UserData { text } => Some(text.as_str()),
            _ => None,
        })
    }

    /// When the snapshot that the call makes is completed; nothing: never.
    pub(super) fn snapshot(&self, otherwise: Duration) -> Option<Duration> {
        if self.has(&FaultKind::StuckSnapshot) {
            return None;
        }
        let slow = self.kinds.iter().find_map(|kind| match kind {
            FaultKind::SlowSnapshot { ms } => Some(Duration::from_millis(*ms)),
            _ => None,
        });
        Some(slow.unwrap_or(otherwise))
    }

    /// What the call is answered instead of being done.
    pub(super) fn refusal(&self, call: &Call) -> Option<Refusal> {
        self.kinds.iter().find_map(|kind| match kind {
            FaultKind::Throttle => Some(throttled(call)),
            FaultKind::Unavailable => Some(unavailable(call)),
            FaultKind::Error { code, message, status } => {
                Some(Refusal::new(code, message.clone()).with_status(*status))
            }
            FaultKind::InsufficientCapacity => Some(no_capacity()),
            _ => None,
        })
    }
}

/// What `RunInstances` says when there is no capacity.
pub(super) fn no_capacity() -> Refusal {
    let message = "We currently do not have sufficient capacity in the Availability Zone you requested.";
    Refusal::new("InsufficientInstanceCapacity", message).with_status(500)
}

fn throttled(call: &Call) -> Refusal {
    let (code, status) = match call.protocol {
        Protocol::Ec2 => ("RequestLimitExceeded", 503),
        Protocol::S3 => ("SlowDown", 503),
        Protocol::Query | Protocol::Route53 => ("Throttling", 400),
        Protocol::Json => ("ThrottlingException", 400),
        Protocol::Ebs => ("RequestThrottledException", 400),
    };
    Refusal::new(code, "Rate exceeded").with_status(status)
}

fn unavailable(call: &Call) -> Refusal {
    let (code, status) = match call.protocol {
        Protocol::Ec2 => ("InternalError", 500),
        Protocol::S3 => ("InternalError", 500),
        Protocol::Query | Protocol::Route53 => ("InternalFailure", 500),
        Protocol::Json => ("InternalServerError", 500),
        Protocol::Ebs => ("InternalServerException", 500),
    };
    Refusal::new(code, "An internal error has occurred").with_status(status)
}
