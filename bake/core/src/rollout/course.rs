//! Judging: whether the strategy's next step is passed, whether the goal is reached, whether to turn back or stop.

use super::even::count;
use super::member::{Member, Origin, Stage};
use super::outcome::{Event, Outcome, Waiting, Why};
use super::request::Options;
use super::state::{Course, LienState, Rollout, Turn};
use super::step::Action;
use super::strategy::Strategy;
use super::time::{Millis, Time};

impl Rollout {
    /// Turns back or stops when failures or deadlines say so.
    pub(crate) fn judge(&mut self, now: Time) {
        if self.paused.is_some() {
            return;
        }
        let options = &self.request.options;
        match &self.course {
            Course::Forward | Course::Back { .. }
                if self.rollback_failures > options.max_rollback_failures =>
            {
                let why = self.too_many(self.rollback_failures, options.max_rollback_failures);
                self.hold(why, now);
            }
            Course::Forward => {
                if let Some(why) = self.objection(now) {
                    self.turn_back(why, now);
                }
            }
            Course::Back { since, .. } => {
                let after = now.since(*since);
                if after >= options.rollback_deadline {
                    self.hold(Why::TooLong { after }, now);
                }
            }
            Course::Ending { .. } | Course::Over { .. } => {}
        }
    }

    fn objection(&self, now: Time) -> Option<Why> {
        let options = &self.request.options;
        if self.failures > options.max_failures {
            return Some(self.too_many(self.failures, options.max_failures));
        }
        if now >= self.idle_since() + options.progress_deadline {
            return Some(Why::NoProgress { after: now.since(self.idle_since()) });
        }
        let after = Millis(now.since(self.began).0.saturating_sub(self.paused_for.0));
        (after >= self.deadline()).then_some(Why::TooLong { after })
    }

    fn too_many(&self, failed: u32, allowed: u32) -> Why {
        match &self.last_failure {
            Some((instance, failure)) => {
                Why::Failures { failed, allowed, instance: instance.clone(), failure: failure.clone() }
            }
            None => Why::NoProgress { after: Millis::ZERO },
        }
    }

    /// Since when nothing got better, although something was expected to: while the group is watched, nothing is.
    pub(crate) fn idle_since(&self) -> Time {
        let gate = self.gate.since.map(|since| since + self.gate_time());
        let baked = self.baking.map(|since| since + self.bake_time());
        [gate, baked].into_iter().flatten().fold(self.progress, Time::max)
    }

    /// How long going forward may take in all: as told, or as long as one instance after the other may take.
    pub(crate) fn deadline(&self) -> Millis {
        let Options { health_deadline, drain_timeout, bake, progress_deadline, .. } = self.request.options;
        let watched = match &self.request.options.strategy {
            Strategy::BlueGreen { weights, bake, keep_old } => bake.times(weights.len() as u64) + *keep_old,
            Strategy::Canary { steps, bake, .. } => bake.times(steps.len() as u64),
            Strategy::Rolling(_) | Strategy::Quorum { .. } | Strategy::Recreate => Millis::ZERO,
        };
        let captured = self.request.from.map_or(0, |from| from.size);
        let instances = u64::from(self.request.desired) + u64::from(captured) + 1;
        let worked = (health_deadline + drain_timeout).times(instances);
        self.request.options.deadline.unwrap_or(worked + bake + watched.times(2) + progress_deadline)
    }

    /// Passes the strategy's next step, or ends, if it is time. True: there may be more to plan.
    pub(crate) fn advance(&mut self, turn: &mut Turn<'_>) -> bool {
        match self.course {
            Course::Forward => self.pass_gate(turn) || self.finish_forward(turn),
            Course::Back { .. } => self.finish_back(turn),
            Course::Ending { .. } | Course::Over { .. } => false,
        }
    }

    /// How many steps the strategy has, before the group may become what it is to be.
    pub(crate) fn gates(&self) -> usize {
        match &self.request.options.strategy {
            _ if !self.request.replaces() => 0,
            Strategy::BlueGreen { .. } if !self.shifts() => 0,
            Strategy::Canary { steps, .. } => steps.len(),
            Strategy::BlueGreen { weights, .. } => weights.len(),
            Strategy::Rolling(_) | Strategy::Quorum { .. } | Strategy::Recreate => 0,
        }
    }

    fn pass_gate(&mut self, turn: &mut Turn<'_>) -> bool {
        if self.gate.passed >= self.gates() {
            return false;
        }
        // Watching goes on while nothing is known against anyone; to pass, everyone must be seen well.
        let holds = self.gate_holds(turn, Member::is_available);
        let stands = self.gate.since.is_some() && self.gate_holds(turn, Member::seems_well);
        if !holds && !stands {
            self.gate.since = None;
            return false;
        }
        let since = *self.gate.since.get_or_insert(turn.now);
        let until = since + self.gate_time();
        if turn.now < until || self.paused.is_some() || !holds {
            turn.waiting.push(Waiting::Bake { until });
            return false;
        }
        self.gate.passed += 1;
        self.gate.since = None;
        self.progress = turn.now;
        self.events.push(Event::Passed { step: self.gate.passed, of: self.gates() });
        true
    }

    /// The strategy's present step is reached: as many canaries as meant, or traffic as meant.
    fn gate_holds(&self, turn: &Turn<'_>, well: fn(&Member) -> bool) -> bool {
        let leaves = self.members.iter().any(|member| member.stage.is_leaving());
        let all = count(self.members.iter().filter(|member| well(member)));
        let new =
            count(self.members.iter().filter(|member| well(member) && member.release == self.request.to));
        match self.canaries() {
            Some(canaries) => !leaves && new >= canaries && all >= canaries + self.old_beside(canaries),
            None => !leaves && new >= self.request.desired && self.weights_are_set(turn.world),
        }
    }

    /// How long the strategy's present step is watched.
    pub(crate) fn gate_time(&self) -> Millis {
        match &self.request.options.strategy {
            Strategy::Canary { bake, .. } => *bake,
            Strategy::BlueGreen { weights, bake, .. } if self.gate.passed + 1 < weights.len() => *bake,
            // The old set waits beside the new one as long as going back should be one call.
            Strategy::BlueGreen { keep_old, .. } => (*keep_old).max(self.request.options.bake),
            Strategy::Rolling(_) | Strategy::Quorum { .. } | Strategy::Recreate => Millis::ZERO,
        }
    }

    /// All instances that there are are of the goal's release, as many as meant, in service and healthy.
    fn goal_is_reached(&self, well: fn(&Member) -> bool) -> bool {
        let Some((release, size)) = self.goal() else { return self.alive() == 0 && self.open.is_empty() };
        let there = count(self.members.iter().filter(|member| well(member) && member.release == release));
        there == size && self.alive() == size && self.open.is_empty()
    }

    fn finish_forward(&mut self, turn: &mut Turn<'_>) -> bool {
        let reached = self.goal_is_reached(Member::is_available);
        let stands = self.baking.is_some() && self.goal_is_reached(Member::seems_well);
        if self.gate.passed < self.gates() || !(reached || stands) {
            self.baking = None;
            return false;
        }
        if self.baking.is_none() {
            self.baking = Some(turn.now);
            let until = turn.now + self.bake_time();
            if until > turn.now {
                self.events.push(Event::Baking { until });
            }
        }
        let until = self.baking.unwrap_or(turn.now) + self.bake_time();
        if turn.now < until || self.paused.is_some() || !reached {
            turn.waiting.push(Waiting::Bake { until });
            return false;
        }
        self.end(Outcome::Succeeded, turn.now);
        true
    }

    /// How long the finished group is watched: not at all if nothing new was launched, and not again if the new
    /// set was watched before the old one went.
    pub(crate) fn bake_time(&self) -> Millis {
        let launched = self.members.iter().any(|member| member.origin == Origin::Launched);
        if launched && !self.shifts() { self.request.options.bake } else { Millis::ZERO }
    }

    fn finish_back(&mut self, turn: &Turn<'_>) -> bool {
        let Course::Back { why, .. } = &self.course else { return false };
        if !self.goal_is_reached(Member::is_available) || (self.shifts() && !self.weights_are_set(turn.world))
        {
            return false;
        }
        let outcome = match why {
            Why::Wished => Outcome::Aborted,
            why => Outcome::RolledBack { why: why.clone() },
        };
        self.end(outcome, turn.now);
        true
    }

    /// Takes the temporary changes that the provider needs. True: they are made.
    pub(crate) fn take_liens(&mut self, now: Time) -> bool {
        let wanted: Vec<_> = self.liens.iter().filter(|(_, state)| **state == LienState::Wanted).collect();
        let wanted: Vec<_> = wanted.into_iter().map(|(lien, _)| *lien).collect();
        for lien in wanted {
            self.liens.insert(lien, LienState::Taking);
            self.ask(Action::TakeLien { lien }, now);
        }
        !self.liens.values().any(|state| *state == LienState::Taking)
    }

    /// Undoes the temporary changes, and is over when nothing is open any more.
    pub(crate) fn conclude(&mut self, now: Time) {
        let Course::Ending { since, .. } = self.course else { return };
        let held: Vec<_> = self
            .liens
            .iter()
            .filter(|(_, state)| **state == LienState::Held)
            .map(|(lien, _)| *lien)
            .collect();
        for lien in held {
            self.liens.insert(lien, LienState::Releasing);
            self.ask(Action::ReleaseLien { lien }, now);
        }
        let patient = now.since(since) < self.request.options.step_deadline;
        if !self.open.is_empty() && patient {
            return;
        }
        for state in self.liens.values_mut() {
            *state = match *state {
                LienState::Wanted | LienState::Released => LienState::Released,
                LienState::Taking | LienState::Held | LienState::Releasing | LienState::Left => {
                    LienState::Left
                }
            };
        }
        self.close(now);
    }

    fn close(&mut self, now: Time) {
        let Course::Ending { outcome, .. } = &self.course else { return };
        let left = self.liens.iter().find(|(_, state)| **state == LienState::Left);
        let outcome = match (left, outcome) {
            (None, outcome) | (Some(_), outcome @ Outcome::Held { .. }) => outcome.clone(),
            (Some((lien, _)), outcome) => {
                let after = match outcome {
                    Outcome::RolledBack { why } => Some(why.clone()),
                    Outcome::Aborted => Some(Why::Wished),
                    Outcome::Succeeded | Outcome::Held { .. } => None,
                };
                Outcome::Held { why: Why::LienLeft { lien: *lien }, after }
            }
        };
        self.course = Course::Over { outcome, at: now };
    }

    /// Whether everything is already as it should be, and nothing was done yet.
    pub(crate) fn has_nothing_to_do(&self) -> bool {
        self.is_forward()
            && !self.shifts()
            && self.decided == 0
            && self.members.iter().all(|member| member.stage != Stage::Found)
            && self.goal_is_reached(Member::is_available)
    }
}
