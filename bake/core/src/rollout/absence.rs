//! Going on after nobody drove the rollout for a while.
//!
//! Deadlines measure what instances and steps take, not how long the driver was gone: an instance that booted
//! meanwhile is not late because nobody looked, and what was not watched does not count as watched.

use super::state::{Course, Rollout};
use super::time::{Millis, Time};

impl Rollout {
    /// Moves every clock that waits for something to be seen by the time in which nobody looked. Connections that
    /// drain and attempts that wait did so without being looked at: their clocks stand.
    pub(crate) fn pass_over(&mut self, absence: Millis) {
        let later = |since: &mut Time| *since = *since + absence;
        for member in &mut self.members {
            later(&mut member.arriving_since);
            member.healthy_since.as_mut().map(later);
            member.failing_since.as_mut().map(later);
        }
        self.gate.since.as_mut().map(later);
        self.baking.as_mut().map(later);
        if let Course::Ending { since, .. } = &mut self.course {
            later(since);
        }
        if self.paused.is_some() {
            // The end of the pause moves the others.
            return;
        }
        later(&mut self.progress);
        self.paused_for = self.paused_for + absence;
        if let Course::Back { since, .. } = &mut self.course {
            later(since);
        }
    }
}
