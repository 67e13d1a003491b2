//! Replacing the instances of a group by instances of another release, as a pure state machine.
//!
//! It answers one question: given the group as it is seen, and the time, what next? It does no I/O, has no clock
//! and draws no random numbers, so that everything that can go wrong between two questions can be tried in a test
//! that takes milliseconds. First creation, scaling, repair after a reboot, upgrade and rollback are the same
//! machine: what differs is only what there is and what there is to be. Main type: [`Rollout`].
//!
//! # How it is driven
//!
//! ```text
//! rollout = Rollout::begin(request, now)?              // refuses what could not be undone
//! loop {
//!     decision = rollout.next(observation, now)        // pure
//!     journal(rollout)                                 // if the decision has steps, events or an end
//!     begin each of decision.steps                     // any order, at the same time
//!     rollout.done(id, result, now)                    // whenever one of them has a result
//!     until decision.finished; wait until decision.wait_until or until something changes
//! }
//! ```
//!
//! What is journalled is the whole state, in one record, *before* the first of the decision's steps is begun: the
//! steps without a result are part of it, so that the record is their intent. Results may be journalled one by
//! one, or not at all. After kill -9 the driver reads the last state, tells it the results that were journalled
//! after it, and calls [`Rollout::resume`]: every step without a result is asked for again, under its old id.
//! Steps are therefore idempotent by id, and the machine never decides one anew that may already have happened.
//! The same state, observation and time give the same decision.
//!
//! An observation may lack rows. An instance without one is *unknown*: it counts neither as in service nor as
//! lost. A driver that cannot reach its provider passes an observation without rows, and nothing is concluded.
//!
//! # Courses
//!
//! ```text
//!             Failures, deadlines, a step that cannot be done, wish: abort
//!   Forward ────────────────────────────────────────────► Back
//!      │  │   the same with on_failure = hold,              │ │  too many failures, too long,
//!      │  └────────── wish: abort and hold ───────────┐     │ │  or a step that cannot be done
//!      │ to's instances in service and watched        ▼     │ ▼
//!      └──────────► Ending: Succeeded        Ending: Held ◄─│─┘
//!                       │                         │         └──► Ending: RolledBack | Aborted
//!                       └───── liens undone ──────┴──► Over ◄────────────┘
//! ```
//!
//! Nothing leads back from a course to an earlier one, each of `Forward`, `Back` and `Ending` has a deadline, and
//! pauses alone stop the clocks: a rollout that is not paused for ever ends. Back leads to what was captured
//! before the first step, release and size; instances of it that are still there are used, also those on their way
//! out, and what is missing is launched.
//!
//! # An instance's life
//!
//! | stage | entered when | step | left when |
//! |---|---|---|---|
//! | `Found` | it was there before | – | it is seen: `InService` if it serves, else `Booting` |
//! | `Launching` | one more is needed | `Launch` | done |
//! | `Booting` | | – | healthy for `min_ready`; fails after `health_deadline` |
//! | `AfterBoot` | the release is new and has the hook | `RunHook` | done; fails if the hook does |
//! | `Attaching` | there is a load balancer, or it forgot the instance | `Attach` | done |
//! | `Joining` | | – | the balancer finds it well; fails after `health_deadline` |
//! | `InService` | | – | failing for `unhealthy_after`, dead, or not needed |
//! | `BeforeDrain` | it has the hook | `RunHook` | done: back `InService`, to leave if it still may |
//! | `Detaching` | it may be in the balancer | `Detach` | done |
//! | `Draining` | | – | no connections, or after `drain_timeout` |
//! | `AfterDrain` | it has the hook; from here on it cannot come back | `RunHook` | done |
//! | `Terminating` | | `Terminate` | done, which means gone |
//! | `Gone` | | – | |
//!
//! Healthy means: running, every check of the request passing, the balancer's own check passing once attached, and
//! the digest that the instance says it runs is that of its release. An instance that is well and runs something
//! else fails at once. A failure *counts* against the release when this rollout launched the instance and the
//! present course leads to its release; instances that were there before and die are replaced without counting.
//!
//! # Steps
//!
//! | step | idempotent because | when it cannot be done (after `step_attempts`) |
//! |---|---|---|
//! | `TakeLien`, `ReleaseLien` | a lien is there or not | goes back; is held, and the lien reported |
//! | `Launch` | the name is fixed here, before the instance exists | the instance failed |
//! | `Attach` | attached or not | the instance failed |
//! | `SetWeights` | absolute, all instances named | goes back; going back: held |
//! | `Detach` | as `Attach` | goes back; going back: held |
//! | `RunHook` | by its step id | after-boot: the instance failed; others: goes back; going back: goes on |
//! | `Terminate` | gone or not | held |
//!
//! A step that failed may have happened. What it was to change is then in doubt until the next attempt, and the
//! planner counts on neither.
//!
//! # Bounds
//!
//! A strategy comes down to two numbers for the size that the course leads to: at least `least` instances in
//! service, at most `most` in all ([`Strategy::least`], [`Strategy::most`]). They are held against what is seen at
//! the moment of the decision. What the machine does not do: take an instance out of service that is well, if the
//! others that are well are fewer than `least`; decide a launch if there would be more than `most`. What it cannot
//! help: instances that die. Two exceptions, both for the better: instances that fail their checks are replaced
//! one at a time if there is no other way forward; and traffic leaves a release that was found wanting as soon as
//! the old set has no fewer instances that are well than the new one.
//!
//! # Where to find what
//!
//! `request.rs` what is asked, and preflight; `strategy.rs` numbers; `observe.rs` what is seen; `step.rs` what is to
//! be done; `outcome.rs` what is said; `state.rs` what is journalled. A question goes through `look.rs` (health,
//! stages that end by being seen to), `course.rs` (turning back, gates, ends), `even.rs` or `slots.rs` with
//! `traffic.rs` (planning) and `steps.rs` (asking, results); `adopt.rs` restores what a torn journal lost. The
//! model in `simulate.rs` drives all this in virtual time.

mod absence;
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
        let undone = |state: LienState| matches!(state, LienState::Wanted | LienState::Released);
        let left = self.liens.iter().filter(|(_, state)| !undone(**state));
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
