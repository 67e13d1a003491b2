//! The health of targets: states, why, and what a check changes. Main types: [`Health`], [`Record`].

use std::time::Instant;

use tokio::task::JoinHandle;

use super::Check;

/// The health of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No check has ended yet, or not enough of them.
    Initial,
    /// It gets requests.
    Healthy,
    /// It gets none, as long as another one of its group does.
    Unhealthy(Reason),
    /// It was taken out and may finish what it does.
    Draining,
    /// No load balancer uses its group.
    NotInUse,
    /// It is not in the group.
    NotRegistered,
}

/// Why a target is unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It accepted no connection, or broke it off.
    Failed,
    /// It took too long.
    TimedOut,
    /// It answered with another status.
    Status(u16),
}

impl Health {
    /// EC2's word for it.
    pub fn state(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Healthy => "healthy",
            Self::Unhealthy(_) => "unhealthy",
            Self::Draining => "draining",
            Self::NotInUse | Self::NotRegistered => "unused",
        }
    }

    /// EC2's word for why; a healthy target has none.
    pub fn reason(self) -> Option<&'static str> {
        Some(match self {
            Self::Healthy => return None,
            Self::Initial => "Elb.InitialHealthChecking",
            Self::Unhealthy(Reason::Failed) => "Target.FailedHealthChecks",
            Self::Unhealthy(Reason::TimedOut) => "Target.Timeout",
            Self::Unhealthy(Reason::Status(_)) => "Target.ResponseCodeMismatch",
            Self::Draining => "Target.DeregistrationInProgress",
            Self::NotInUse => "Target.NotInUse",
            Self::NotRegistered => "Target.NotRegistered",
        })
    }

    /// The same for people; a healthy target has none.
    pub fn description(self) -> Option<String> {
        Some(match self {
            Self::Healthy => return None,
            Self::Initial => "Initial health checks in progress".to_owned(),
            Self::Unhealthy(Reason::Failed) => "Health checks failed".to_owned(),
            Self::Unhealthy(Reason::TimedOut) => "Request timed out".to_owned(),
            Self::Unhealthy(Reason::Status(status)) => {
                format!("Health checks failed with these codes: [{status}]")
            }
            Self::Draining => "Target deregistration is in progress".to_owned(),
            Self::NotInUse => {
                "Target group is not configured to receive traffic from the load balancer".to_owned()
            }
            Self::NotRegistered => "Target is not registered to the target group".to_owned(),
        })
    }
}

/// What is known of a target in a group.
#[derive(Debug)]
pub(super) struct Record {
    state: Checked,
    /// The last results that were alike, if they speak against the state.
    against: u16,
    /// Absent: nothing asks.
    checks: Option<(Check, Checks)>,
    /// Until when it drains.
    leaves: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    NotYet,
    Good,
    Bad(Reason),
}

/// A task that checks. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Checks(pub(super) JoinHandle<()>);

impl Drop for Checks {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Record {
    pub(super) fn new() -> Self {
        Self { state: Checked::NotYet, against: 0, checks: None, leaves: None }
    }

    pub(super) fn health(&self, now: Instant) -> Health {
        match (self.leaves, &self.checks, self.state) {
            (Some(until), ..) if until > now => Health::Draining,
            (Some(_), ..) => Health::NotRegistered,
            (None, None, _) => Health::NotInUse,
            (None, Some(_), Checked::NotYet) => Health::Initial,
            (None, Some(_), Checked::Good) => Health::Healthy,
            (None, Some(_), Checked::Bad(reason)) => Health::Unhealthy(reason),
        }
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.leaves.is_none() && self.state == Checked::Good
    }

    pub(super) fn is_unhealthy(&self) -> bool {
        self.leaves.is_none() && matches!(self.state, Checked::Bad(_))
    }

    pub(super) fn is_checked_by(&self, check: &Check) -> bool {
        self.checks.as_ref().is_some_and(|(own, _)| own == check)
    }

    /// It is in the group; one that had left begins anew.
    pub(super) fn register(&mut self) {
        if self.leaves.is_some() {
            *self = Self::new();
        }
    }

    pub(super) fn start_checks(&mut self, check: Check, checks: Checks) {
        self.checks = Some((check, checks));
    }

    pub(super) fn stop_checks(&mut self) {
        *self = Self::new();
    }

    /// It leaves the group; the first time counts.
    pub(super) fn deregister(&mut self, until: Instant) {
        self.checks = None;
        self.leaves.get_or_insert(until);
    }

    pub(super) fn is_gone(&self, now: Instant) -> bool {
        self.leaves.is_some_and(|until| until <= now)
    }

    /// Takes note of a check; whether the target is to be treated otherwise now.
    pub(super) fn checked(&mut self, check: &Check, result: Result<(), Reason>) -> bool {
        let (needed, next) = match (self.state, result) {
            (Checked::Good, Ok(())) => (0, Checked::Good),
            // The newest reason is told.
            (Checked::Bad(_), Err(reason)) => (0, Checked::Bad(reason)),
            (Checked::NotYet, Ok(())) => (1, Checked::Good),
            (Checked::Bad(_), Ok(())) => (check.healthy_threshold, Checked::Good),
            (_, Err(reason)) => (check.unhealthy_threshold, Checked::Bad(reason)),
        };
        if needed == 0 {
            self.against = 0;
            self.state = next;
            return false;
        }
        self.against += 1;
        let changes = self.against >= needed;
        if changes {
            self.against = 0;
            self.state = next;
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ec2::balancer::Protocol;

    fn check() -> Check {
        Check {
            protocol: Protocol::Http,
            path: "/".into(),
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy_threshold: 3,
            unhealthy_threshold: 2,
            matcher: "200".into(),
        }
    }

    /// The state after each result: `+` good, `-` bad.
    fn after(results: &str) -> String {
        let mut record = Record::new();
        let mut seen = String::new();
        for result in results.chars() {
            let result = if result == '+' { Ok(()) } else { Err(Reason::Failed) };
            record.checked(&check(), result);
            seen.push(match record.state {
                Checked::NotYet => '?',
                Checked::Good => 'g',
                Checked::Bad(_) => 'b',
            });
        }
        seen
    }

    #[test]
    fn states_follow_thresholds() {
        assert_eq!(after("+"), "g", "a new target needs one good check");
        assert_eq!(after("--"), "?b");
        assert_eq!(after("+-+-+--"), "gggggg".to_owned() + "b", "bad ones in a row count");
        assert_eq!(after("--+++"), "?bbbg");
        assert_eq!(after("--++-+++"), "?bbbbbbg", "so do good ones");
    }

    #[test]
    fn a_target_that_leaves_drains_and_is_gone() {
        let (mut record, now) = (Record::new(), Instant::now());
        assert_eq!(record.health(now), Health::NotInUse);
        record.checked(&check(), Ok(()));
        record.deregister(now + Duration::from_secs(5));
        record.deregister(now + Duration::from_secs(50));
        assert!(!record.is_healthy());
        assert_eq!(record.health(now), Health::Draining);
        assert!(record.is_gone(now + Duration::from_secs(5)));
        record.register();
        assert_eq!((record.health(now), record.is_healthy()), (Health::NotInUse, false));
    }
}
