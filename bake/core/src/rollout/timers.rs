//! When to ask again at the latest: the next time at which the answer could change by time alone.

use super::member::{Member, Stage};
use super::request::Options;
use super::state::{Course, Rollout};
use super::time::Time;

impl Rollout {
    /// The earliest timer that is yet to come.
    pub(crate) fn next_timer(&self, now: Time) -> Option<Time> {
        let members = self.members.iter().flat_map(|member| timers_of(member, &self.request.options));
        let retries = self.open.values().filter_map(|open| open.ask.when());
        members.chain(retries).chain(self.course_timers()).filter(|time| *time > now).min()
    }

    fn course_timers(&self) -> impl Iterator<Item = Time> {
        let options = &self.request.options;
        let goes = self.paused.is_none();
        let timers = match self.course {
            Course::Forward if goes => [
                self.gate.since.map(|since| since + self.gate_time()),
                self.baking.map(|since| since + self.bake_time()),
                Some(self.idle_since() + options.progress_deadline),
                Some(self.began + self.deadline() + self.paused_for),
            ],
            Course::Back { since, .. } if goes => [Some(since + options.rollback_deadline), None, None, None],
            Course::Ending { since, .. } => [Some(since + options.step_deadline), None, None, None],
            _ => [None; 4],
        };
        timers.into_iter().flatten()
    }
}

fn timers_of(member: &Member, options: &Options) -> impl Iterator<Item = Time> {
    let late = member.arriving_since + options.health_deadline;
    let timers = match member.stage {
        Stage::Booting => [member.healthy_since.map(|since| since + options.min_ready), Some(late)],
        Stage::Joining => [Some(member.stage_since + options.step_backoff), Some(late)],
        Stage::Draining => [Some(member.stage_since + options.drain_timeout), None],
        Stage::InService => [member.failing_since.map(|since| since + options.unhealthy_after), None],
        _ => [None, None],
    };
    timers.into_iter().flatten()
}
