//! Steps: deciding them, asking for them (again), and what their results change.
//!
//! Every step that is decided stays *open* until its result is known. An open step is asked for once; again after
//! a failed attempt, later each time; and again after a restart, because an intent without a result may or may
//! not have happened and steps are idempotent by id.

use super::member::Stage;
use super::outcome::{Event, Failure, Why};
use super::request::{Fronting, Request};
use super::state::{Course, LienState, Rollout, Weights};
use super::step::{Action, Ask, Hook, OpenStep, Step, StepId, StepResult, Traffic};
use super::time::{Millis, Time};

/// What became of a result that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was of an open step.
    Noted,
    /// The step is not open: its result was told before, or nothing depends on it any more.
    Stale,
}

impl Rollout {
    /// Decides a step.
    pub(crate) fn ask(&mut self, action: Action, now: Time) -> StepId {
        self.decided += 1;
        let id = StepId(self.decided);
        let step = Step { id, action };
        self.open.insert(id, OpenStep { step, since: now, failed: 0, ask: Ask::From(now) });
        id
    }

    /// Decides the steps that members' stages need.
    pub(crate) fn ask_for_members(&mut self, now: Time) {
        for index in 0..self.members.len() {
            let traffic = self.traffic_of_new(index);
            let member = &self.members[index];
            if member.step.is_some() {
                continue;
            }
            let Some(action) = member.action(traffic) else { continue };
            let attaches = matches!(action, Action::Attach { .. });
            let id = self.ask(action, now);
            let member = &mut self.members[index];
            member.step = Some(id);
            if attaches {
                member.attached = true;
                let instance = member.id.clone();
                self.forget_weight(&instance);
            }
        }
    }

    fn traffic_of_new(&self, index: usize) -> Traffic {
        let is_new = self.members[index].release == self.request.to;
        let waits = is_new || self.shares().old == 0;
        if self.shifts() && waits { Traffic::None } else { Traffic::Full }
    }

    /// The steps that are due, in the order in which they were decided.
    pub(crate) fn emit(&mut self, now: Time) -> Vec<Step> {
        let due = self.open.values_mut().filter(|open| open.ask.when().is_some_and(|time| time <= now));
        due.map(|open| {
            open.ask = Ask::No;
            open.step.clone()
        })
        .collect()
    }

    /// Takes a step's result. `now` is when it became known.
    pub fn done(&mut self, id: StepId, result: &StepResult, now: Time) -> Told {
        let now = self.tick(now);
        let Some(open) = self.open.get_mut(&id) else { return Told::Stale };
        match result {
            StepResult::Done => {
                let open = self.open.remove(&id);
                if let Some(OpenStep { step, .. }) = open {
                    self.succeed(step, now);
                }
            }
            StepResult::Failed { message } => {
                open.failed += 1;
                let again = open.failed < self.request.options.step_attempts;
                self.events.push(Event::StepFailed { step: id, message: message.clone(), again });
                let pause = backoff(&self.request, open.failed);
                if again {
                    open.ask = Ask::Again(now + pause);
                } else if let Some(OpenStep { step, .. }) = self.open.remove(&id) {
                    self.give_up(step, message, now);
                }
            }
        }
        Told::Noted
    }

    /// Makes a journalled state ready to be asked again after a restart.
    ///
    /// `begun` are steps that were begun and whose results are not journalled. Steps of the state without a
    /// result are asked for again whether they are among them or not. A step that the state does not know was
    /// decided after it was journalled: it is taken over, so that it is asked for again and never decided anew
    /// under another name.
    pub fn resume(&mut self, begun: &[Step], now: Time) {
        self.pass_over(now.since(self.clock));
        let now = self.tick(now);
        for open in self.open.values_mut().filter(|open| open.ask == Ask::No) {
            open.ask = Ask::From(now);
        }
        let mut begun: Vec<&Step> = begun.iter().filter(|step| step.id.0 > self.decided).collect();
        begun.sort_by_key(|step| step.id);
        for step in begun {
            self.adopt(step, now);
        }
    }

    fn succeed(&mut self, step: Step, now: Time) {
        if let Some(index) = self.member_of_step(step.id) {
            self.members[index].step = None;
            return self.succeed_on_member(index, &step.action, now);
        }
        match step.action {
            Action::TakeLien { lien } => {
                self.liens.insert(lien, LienState::Held);
            }
            Action::ReleaseLien { lien } => {
                self.liens.insert(lien, LienState::Released);
            }
            Action::SetWeights { shares, old, new } => {
                self.traffic_step = None;
                self.traffic_in_doubt = false;
                self.traffic_since = now;
                if self.traffic.as_ref().map(|weights| weights.shares) != Some(shares) {
                    self.progress = now;
                    self.events.push(Event::Shifted { shares });
                }
                self.traffic = Some(Weights { shares, old, new });
            }
            _ => {}
        }
    }

    fn succeed_on_member(&mut self, index: usize, action: &Action, now: Time) {
        match action {
            Action::Launch { .. } => {
                self.members[index].times.launched = Some(now);
                self.enter(index, Stage::Booting, now);
            }
            Action::Attach { .. } => self.enter(index, Stage::Joining, now),
            Action::Detach { .. } => {
                let stage = if self.members[index].alive { Stage::Draining } else { Stage::Terminating };
                self.members[index].attached = false;
                self.enter(index, stage, now);
            }
            Action::RunHook { hook: Hook::AfterBoot, .. } => {
                let member = &mut self.members[index];
                member.migrated = true;
                member.arriving_since = now;
                self.enter(index, self.stage_after_boot(), now);
            }
            Action::RunHook { hook: Hook::BeforeDrain, .. } => self.may_leave(index, now),
            Action::RunHook { hook: Hook::AfterDrain, .. } => self.enter(index, Stage::Terminating, now),
            Action::Terminate { .. } => self.enter(index, Stage::Gone, now),
            Action::TakeLien { .. } | Action::ReleaseLien { .. } | Action::SetWeights { .. } => {}
        }
    }

    /// Its before-drain hook is over. Whether it leaves is decided anew: much may have happened meanwhile, and
    /// perhaps it is needed.
    fn may_leave(&mut self, index: usize, now: Time) {
        self.members[index].said_goodbye = true;
        self.enter(index, Stage::InService, now);
    }

    /// Where an instance goes that has booted and whose hook, if any, is done.
    pub(crate) fn stage_after_boot(&self) -> Stage {
        match self.request.fronting {
            Fronting::Balancer => Stage::Attaching,
            Fronting::Nothing => Stage::InService,
        }
    }

    /// Where an instance goes that is to leave and whose before-drain hook, if any, is done.
    pub(crate) fn stage_to_leave(&self, index: usize) -> Stage {
        let member = &self.members[index];
        let hooked =
            member.alive && member.failure.is_none() && self.request.hooks.contains(&Hook::AfterDrain);
        if member.attached {
            Stage::Detaching
        } else if hooked && member.times.in_service.is_some() {
            Stage::AfterDrain
        } else {
            Stage::Terminating
        }
    }

    /// A step cannot be done, however often it is tried.
    fn give_up(&mut self, step: Step, message: &str, now: Time) {
        let why = Why::Step { step: step.id, action: step.action.to_string(), message: message.to_owned() };
        let message = message.to_owned();
        if let Some(index) = self.member_of_step(step.id) {
            self.members[index].step = None;
            return match step.action {
                Action::Launch { .. } => self.fail_arrival(index, Failure::Launch { message }, now),
                Action::Attach { .. } => {
                    // It may be attached all the same; the planner sees to its removal, within bounds.
                    self.fail(index, Failure::Attach { message });
                    self.enter(index, Stage::Joining, now);
                }
                Action::RunHook { hook: Hook::AfterBoot, .. } => {
                    self.fail_arrival(index, Failure::Hook { hook: Hook::AfterBoot, message }, now);
                }
                Action::RunHook { hook, .. } => self.give_up_hook(index, hook, why, now),
                _ => self.give_up_leaving(index, &step.action, why, now),
            };
        }
        match step.action {
            Action::TakeLien { lien } => {
                // It may have been made nevertheless: it is released like one that was.
                self.liens.insert(lien, LienState::Held);
                self.object(why, now);
            }
            Action::ReleaseLien { lien } => {
                self.liens.insert(lien, LienState::Left);
            }
            Action::SetWeights { .. } => {
                self.traffic_step = None;
                self.traffic_in_doubt = true;
                self.object(why, now);
            }
            _ => {}
        }
    }

    fn fail_arrival(&mut self, index: usize, failure: Failure, now: Time) {
        self.fail(index, failure);
        if !matches!(self.course, Course::Ending { .. } | Course::Over { .. }) {
            self.enter(index, self.stage_to_leave(index), now);
        }
    }

    /// A leaving instance's hook failed: forward it must not go on; going back it must.
    fn give_up_hook(&mut self, index: usize, hook: Hook, why: Why, now: Time) {
        if self.is_forward() {
            let stage = if hook == Hook::BeforeDrain { Stage::InService } else { Stage::Booting };
            self.enter(index, stage, now);
            self.turn_back(why, now);
        } else if hook == Hook::BeforeDrain {
            self.may_leave(index, now);
        } else {
            self.enter(index, Stage::Terminating, now);
        }
    }

    fn give_up_leaving(&mut self, index: usize, action: &Action, why: Why, now: Time) {
        match action {
            Action::Detach { .. } if self.is_forward() && self.members[index].failure.is_none() => {
                self.enter(index, Stage::Joining, now);
                self.turn_back(why, now);
            }
            _ => self.object_finally(why, now),
        }
    }

    /// Something cannot be done: forward it turns back, backward it stops.
    fn object(&mut self, why: Why, now: Time) {
        match self.course {
            Course::Forward => self.turn_back(why, now),
            Course::Back { .. } => self.hold(why, now),
            Course::Ending { .. } | Course::Over { .. } => {}
        }
    }

    fn object_finally(&mut self, why: Why, now: Time) {
        if matches!(self.course, Course::Forward | Course::Back { .. }) {
            self.hold(why, now);
        }
    }
}

/// How long to wait after so many failed attempts.
fn backoff(request: &Request, failed: u32) -> Millis {
    let doublings = failed.saturating_sub(1).min(16);
    request.options.step_backoff.times(1 << doublings)
}
