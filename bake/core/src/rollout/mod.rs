//! Replacing the instances of a group by instances of another release, as a pure state machine.
//!
//! It answers one question: given the group as it is seen, and the time, what next? It does no I/O, has no clock
//! and draws no random numbers. Main type: [`Rollout`].

mod adopt;
mod course;
mod even;
mod look;
mod member;
mod observe;
mod outcome;
mod request;
pub mod simulate;
mod slots;
mod state;
mod step;
mod steps;
mod strategy;
mod time;
mod timers;
mod traffic;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use member::{Health, Member, Origin, Stage, Times};
pub use observe::{Attachment, Observation, Phase, Seen, Verdict, Wish};
pub use outcome::{
    Decision, Event, Failure, InstanceReport, InstanceResult, Lack, Outcome, Report, Waiting, Why,
};
pub use request::{
    Availability, Captured, CheckName, Existing, Fronting, InstanceId, OnFailure, Options, Preflight,
    PreflightError, Refusal, Release, Request,
};
pub use state::{Course, ROLLOUT_SCHEMA, Rollout};
pub use step::{Action, Hook, Lien, OpenStep, Shares, Step, StepId, StepResult, Traffic};
pub use steps::Told;
pub use strategy::{OptionError, Order, Pace, Portion, Strategy};
pub use time::{Millis, Time};

use state::{Gate, LienState, Turn};

impl Rollout {
    /// A rollout that is about to begin, if it may: nothing was done yet, and everything can be undone.
    pub fn begin(request: Request, now: Time) -> Result<Self, PreflightError> {
        request.check()?;
        let mut members: Vec<Member> = request
            .existing
            .iter()
            .map(|Existing { id, release, since, slot }| {
                Member::new(id.clone(), *release, *slot, Origin::Found, *since)
            })
            .collect();
        members.sort_by_key(|member| member.since);
        let inherited = request.inherited_liens.iter().map(|lien| (*lien, LienState::Held));
        let wanted = request.liens.iter().map(|lien| (*lien, LienState::Wanted));
        let liens: BTreeMap<_, _> = inherited.chain(wanted).collect();
        let mut rollout = Self {
            schema: state::Schema,
            request,
            began: now,
            clock: now,
            course: Course::Forward,
            members,
            launched: 0,
            decided: 0,
            open: BTreeMap::new(),
            liens,
            gate: Gate::default(),
            baking: None,
            traffic: None,
            traffic_step: None,
            traffic_in_doubt: false,
            traffic_since: now,
            progress: now,
            failures: 0,
            rollback_failures: 0,
            last_failure: None,
            paused: None,
            paused_for: Millis::ZERO,
            events: Vec::new(),
        };
        if rollout.request.options.strategy.has_slots() {
            rollout.seat_existing();
        }
        Ok(rollout)
    }

    /// What to do next, given the group as it is seen.
    pub fn next(&mut self, world: &Observation, now: Time) -> Decision {
        let now = self.tick(now);
        let mut turn = Turn { world, now, waiting: Vec::new() };
        self.look(&mut turn);
        self.listen(&turn);
        self.judge(now);
        if self.has_nothing_to_do() {
            self.end(Outcome::Succeeded, now);
        }
        self.plan(&mut turn);
        self.conclude(now);
        let steps = self.emit(now);
        self.explain_members(&mut turn);
        Decision {
            steps,
            wait_until: self.next_timer(now),
            finished: self.outcome().cloned(),
            waiting: turn.waiting,
            events: std::mem::take(&mut self.events),
        }
    }

    /// Plans until nothing more follows: each further round has passed a step of the strategy or has ended.
    fn plan(&mut self, turn: &mut Turn<'_>) {
        loop {
            turn.waiting.clear();
            if self.paused.is_some() {
                turn.waiting.push(Waiting::Paused);
            } else {
                self.plan_once(turn);
            }
            self.ask_for_members_of_course(turn.now);
            if !self.advance(turn) {
                return;
            }
        }
    }

    fn plan_once(&mut self, turn: &mut Turn<'_>) {
        let ready = !self.is_forward() || (self.all_sighted() && self.take_liens(turn.now));
        match self.course {
            Course::Forward | Course::Back { .. } if ready => {
                self.plan_traffic(turn);
                if self.request.options.strategy.has_slots() {
                    self.plan_slots(turn);
                } else {
                    self.plan_even(turn);
                }
            }
            _ => {}
        }
    }

    /// Nothing is planned before everything that was there has been seen once.
    fn all_sighted(&self) -> bool {
        self.decided > 0 || self.members.iter().all(|member| member.stage != Stage::Found || !member.alive)
    }

    fn ask_for_members_of_course(&mut self, now: Time) {
        if matches!(self.course, Course::Forward | Course::Back { .. }) {
            self.ask_for_members(now);
        }
    }

    /// Takes note of the time; it does not run backwards.
    pub(crate) fn tick(&mut self, now: Time) -> Time {
        self.clock = self.clock.max(now);
        self.clock
    }

    /// What it was asked to do.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Where it is heading.
    pub fn course(&self) -> &Course {
        &self.course
    }

    /// How it ended, once it is over.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.course {
            Course::Over { outcome, .. } => Some(outcome),
            _ => None,
        }
    }

    /// Every instance that was ever part of it.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The instances to observe: all that are not known to be gone.
    pub fn watched(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.exists())
    }

    /// Steps that were asked for and have no result yet.
    pub fn open_steps(&self) -> impl Iterator<Item = &OpenStep> {
        self.open.values()
    }

    /// What became of everything so far.
    pub fn report(&self) -> Report {
        let (outcome, ended) = match &self.course {
            Course::Over { outcome, at } => (Some(outcome.clone()), Some(*at)),
            _ => (None, None),
        };
        let left = self.liens.iter().filter(|(_, state)| **state == LienState::Left);
        Report {
            group: self.request.group.clone(),
            outcome,
            began: self.began,
            ended,
            failures: self.failures,
            rollback_failures: self.rollback_failures,
            instances: self.members.iter().map(report_of).collect(),
            liens_left: left.map(|(lien, _)| *lien).collect(),
            open_steps: self.open.values().map(|open| open.step.clone()).collect(),
        }
    }
}

fn report_of(member: &Member) -> InstanceReport {
    let result = match &member.failure {
        Some(failure) => InstanceResult::Failed { failure: failure.clone() },
        None if member.is_available() => InstanceResult::InService,
        None if member.stage.is_leaving() || !member.exists() => InstanceResult::Removed,
        None => InstanceResult::Under,
    };
    InstanceReport {
        id: member.id.clone(),
        release: member.release,
        slot: member.slot,
        stage: member.stage,
        times: member.times,
        result,
    }
}
