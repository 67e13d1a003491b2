//! A rollout driven as an engine would drive it, through all that may befall an engine, a group and an operator;
//! what must always hold is asserted at every turn.

use std::collections::{BTreeMap, BTreeSet};

use crate::rollout::simulate::{Fleet, Model};
use crate::rollout::*;

/// Something that happens at a turn.
#[derive(Clone, Debug)]
pub(super) enum Mischief {
    /// The engine is killed after it has journalled its decision.
    Restart,
    /// The engine is killed before it has journalled its last decision, whose steps it has begun.
    RestartBehind,
    /// An instance is killed: the one of this number, counted round.
    Kill(usize),
    /// An instance stops.
    Stop(usize),
    /// The load balancer is started anew.
    Forget,
    /// The operator wishes something else from now on.
    Wish(Wish),
}

#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) request: Request,
    pub(super) model: Model,
    pub(super) mischief: BTreeMap<u32, Mischief>,
}

/// What is kept for a restart.
#[derive(Clone)]
struct Journal {
    state: Rollout,
    begun: Vec<Step>,
    results: Vec<(StepId, StepResult, Time)>,
}

pub(super) struct Run {
    trial: Trial,
    fleet: Fleet,
    rollout: Rollout,
    journal: Journal,
    before: Journal,
    now: Time,
    wish: Wish,
    doomed: BTreeSet<InstanceId>,
    launched: BTreeSet<InstanceId>,
    paused: Millis,
    pub(super) log: Vec<String>,
}

const TURNS: u32 = 30_000;

impl Run {
    pub(super) fn new(trial: Trial) -> Self {
        let fleet = Fleet::new(trial.model.clone(), &trial.request);
        let rollout = Rollout::begin(trial.request.clone(), Time(0)).unwrap();
        let journal = Journal { state: rollout.clone(), begun: Vec::new(), results: Vec::new() };
        Self {
            trial,
            fleet,
            rollout,
            before: journal.clone(),
            journal,
            now: Time(0),
            wish: Wish::Go,
            doomed: BTreeSet::new(),
            launched: BTreeSet::new(),
            paused: Millis::ZERO,
            log: Vec::new(),
        }
    }

    /// To the end, which there must be.
    pub(super) fn run(mut self) -> Self {
        let last = self.trial.mischief.keys().max().map_or(0, |turn| turn + 1);
        for turn in 0..TURNS {
            self.befall(turn, last);
            for (id, result) in self.fleet.settle(self.now) {
                self.rollout.done(id, &result, self.now);
                self.journal.begun.retain(|step| step.id != id);
                self.journal.results.push((id, result, self.now));
            }
            self.before = self.journal.clone();
            if self.turn() {
                self.check_end();
                return self;
            }
        }
        panic!("did not end:\n{:#?}\n{}", self.rollout, self.tail());
    }

    pub(super) fn outcome(&self) -> &Outcome {
        self.rollout.outcome().unwrap()
    }

    pub(super) fn tail(&self) -> String {
        self.log[self.log.len().saturating_sub(60)..].join("\n")
    }

    fn befall(&mut self, turn: u32, last: u32) {
        let pick = |fleet: &Fleet, now: Time, number: usize| {
            let present = fleet.present(now);
            (!present.is_empty()).then(|| present[number % present.len()].0.clone())
        };
        match self.trial.mischief.get(&turn).cloned() {
            Some(Mischief::Restart) => self.restart(&self.journal.clone()),
            Some(Mischief::RestartBehind) => {
                let Journal { begun, results, .. } = &self.journal;
                let behind = Journal {
                    begun: begun.clone(),
                    results: results.clone(),
                    state: self.before.state.clone(),
                };
                let results = self.before.results.iter().cloned().chain(behind.results.iter().cloned());
                let behind = Journal { results: results.collect(), ..behind };
                self.restart(&behind);
            }
            Some(Mischief::Kill(number)) => {
                if let Some(id) = pick(&self.fleet, self.now, number) {
                    self.log.push(format!("{} kill {id}", self.now));
                    self.fleet.kill(&id, self.now);
                }
            }
            Some(Mischief::Stop(number)) => {
                if let Some(id) = pick(&self.fleet, self.now, number) {
                    self.log.push(format!("{} stop {id}", self.now));
                    self.fleet.stop(&id, self.now);
                }
            }
            Some(Mischief::Forget) => self.fleet.forget_attachments(),
            Some(Mischief::Wish(wish)) => self.wish = wish,
            None => {}
        }
        if turn == last && self.wish == Wish::Pause {
            self.wish = Wish::Go;
        }
    }

    /// The engine dies and another takes over from the journal.
    fn restart(&mut self, journal: &Journal) {
        self.log.push(format!("{} restart", self.now));
        self.fleet.lose_driver(self.now);
        let text = serde_json::to_string(&journal.state).unwrap();
        let mut rollout: Rollout = serde_json::from_str(&text).unwrap();
        assert_eq!(rollout, journal.state, "a journalled state is read as it was written");
        for (id, result, time) in &journal.results {
            rollout.done(*id, result, *time);
        }
        rollout.resume(&journal.begun, self.now);
        self.rollout = rollout;
    }

    /// One question to the machine. True: it is over.
    fn turn(&mut self) -> bool {
        let world = self.fleet.observe(self.now, self.wish);
        let was_ending = matches!(self.rollout.course(), Course::Ending { .. } | Course::Over { .. });
        let again = self.rollout.clone().next(&world, self.now);
        let decision = self.rollout.next(&world, self.now);
        assert_eq!(decision, again, "the same question has the same answer");
        self.log.extend(decision.events.iter().map(|event| format!("{} {}", self.now, told(event))));
        self.check_bounds(&decision);
        if !was_ending && let Course::Ending { outcome, .. } = self.rollout.course().clone() {
            self.check_goal(&outcome);
        }
        let steps = decision.steps.iter().cloned();
        let mut begun: Vec<Step> = self.journal.begun.clone();
        begun.retain(|step| !decision.steps.iter().any(|again| again.id == step.id));
        begun.extend(steps);
        self.journal = Journal { state: self.rollout.clone(), begun, results: Vec::new() };
        for step in &decision.steps {
            self.log.push(format!("{} {} {}", self.now, step.id, step.action));
            self.fleet.begin(step, self.now);
        }
        if decision.finished.is_some() {
            return true;
        }
        let next = [decision.wait_until, self.fleet.next_change(self.now)].into_iter().flatten().min();
        // An engine asks every so often, whether anything is expected or not.
        let next = next.unwrap_or(Time(u64::MAX)).min(self.now + Millis::from_secs(30));
        if self.wish == Wish::Pause {
            self.paused = self.paused + (next - self.now);
        }
        self.now = next;
        false
    }

    /// Never below the minimum by its own action, never beyond the surge.
    fn check_bounds(&mut self, decision: &Decision) {
        // What was on its way out and came back counts again.
        for member in self.rollout.members() {
            if matches!(member.stage, Stage::InService) {
                self.doomed.remove(&member.id);
            }
        }
        let goal = match self.rollout.course() {
            Course::Back { .. } => self.trial.request.from.map_or(0, |from| from.size),
            _ => self.trial.request.desired,
        };
        let serving = self.fleet.serving(self.now);
        let least = least(&self.trial.request.options.strategy, goal);
        let mut present: BTreeSet<InstanceId> =
            self.fleet.present(self.now).into_iter().map(|(id, ..)| id).collect();
        let under_way = self.journal.begun.iter().chain(&decision.steps).map(|step| &step.action);
        let launches = under_way.filter_map(|action| match action {
            Action::Launch { instance, .. } => Some(instance.clone()),
            _ => None,
        });
        present.extend(launches);
        let before: BTreeSet<_> = serving.keys().filter(|id| !self.doomed.contains(*id)).cloned().collect();
        for Step { action, .. } in &decision.steps {
            match action {
                Action::Attach { instance, .. } => {
                    self.doomed.remove(instance);
                }
                // The after-drain hook is the point of no return: it may leave a cluster.
                Action::Detach { instance }
                | Action::RunHook { instance, hook: Hook::AfterDrain }
                | Action::Terminate { instance } => {
                    self.doomed.insert(instance.clone());
                }
                Action::SetWeights { shares, old, new } => {
                    self.check_weights(&before, least, *shares, old, new)
                }
                _ => {}
            }
        }
        let after = before.iter().filter(|id| !self.doomed.contains(*id)).count();
        let taken: Vec<_> =
            before.iter().filter(|id| self.doomed.contains(*id) && self.was_in_service(id)).collect();
        assert!(
            taken.is_empty() || after >= least,
            "takes {taken:?}, leaves {after} of at least {least}\n{}",
            self.tail()
        );
        let most = self.most(goal);
        // A launch that is asked for again may have happened: it was within bounds when it was decided.
        let mut launching = false;
        for Step { action, .. } in &decision.steps {
            if let Action::Launch { instance, .. } = action {
                launching |= self.launched.insert(instance.clone());
            }
        }
        assert!(!launching || present.len() <= most, "{present:?}: more than {most}\n{}", self.tail());
    }

    fn was_in_service(&self, id: &InstanceId) -> bool {
        let member = self.rollout.members().iter().find(|member| member.id == *id);
        member.is_some_and(|member| member.times.in_service.is_some())
    }

    fn check_weights(
        &self,
        before: &BTreeSet<InstanceId>,
        least: usize,
        shares: Shares,
        old: &[InstanceId],
        new: &[InstanceId],
    ) {
        // Instances that are not named keep the weight they have.
        let named = |id: &&InstanceId| old.contains(id) || new.contains(id);
        let serves = |id: &InstanceId| {
            let member = self.rollout.members().iter().find(|member| member.id == *id);
            member.is_some_and(|member| matches!(member.stage, Stage::InService | Stage::BeforeDrain))
        };
        let carrying = |set: &[InstanceId], share: u8| {
            if share > 0 { set.iter().filter(|id| serves(id)).count() } else { 0 }
        };
        let others = before.iter().filter(|id| !named(id)).count();
        let after = carrying(old, shares.old) + carrying(new, shares.new) + others;
        // To leave a release that was found wanting is worth more than what it carries, if the old one carries
        // no less.
        let wanting = matches!(self.rollout.course(), Course::Back { .. });
        let good = before.iter().filter(|id| !wanting || new.contains(id)).count();
        assert!(after >= least.min(good), "{shares}: {after} of {good}\n{}", self.tail());
    }

    fn most(&self, goal: u32) -> usize {
        let Request { from, to, desired, existing, options, .. } = &self.trial.request;
        let shifts = *desired > 0 && from.is_some_and(|from| from.release != self.trial.request.to);
        let most = match &options.strategy {
            Strategy::Rolling(pace) | Strategy::Canary { pace, .. } => goal + pace.max_surge,
            Strategy::BlueGreen { .. } if shifts => {
                let there = existing.iter().filter(|existing| existing.release != *to).count();
                desired + from.map_or(0, |from| from.size).max(u32::try_from(there).unwrap())
            }
            Strategy::BlueGreen { .. } => goal + 1,
            Strategy::Quorum { .. } | Strategy::Recreate => goal,
        };
        usize::try_from(most).unwrap()
    }

    /// What is said to be reached is reached, when it is said.
    fn check_goal(&self, outcome: &Outcome) {
        let Request { from, to, desired, .. } = &self.trial.request;
        let goal = match outcome {
            Outcome::Succeeded => Some((*to, *desired)),
            Outcome::RolledBack { .. } | Outcome::Aborted => from.map(|from| (from.release, from.size)),
            Outcome::Held { .. } => return,
        };
        let serving = self.fleet.serving(self.now);
        let size = usize::try_from(goal.map_or(0, |(_, size)| size)).unwrap();
        assert_eq!(serving.len(), size, "{outcome}\n{}", self.tail());
        assert!(serving.values().all(|release| Some(*release) == goal.map(|(release, _)| release)));
        assert_eq!(self.fleet.present(self.now).len(), size, "{outcome}\n{}", self.tail());
    }

    /// It ends in time, with no lien left that is not told of.
    fn check_end(&self) {
        let report = self.rollout.report();
        let told: BTreeSet<Lien> = report.liens_left.iter().copied().collect();
        assert!(self.fleet.liens().is_subset(&told), "{:?} left, {told:?} told", self.fleet.liens());
        if self.trial.model.step_fails.0 == 0 {
            assert!(told.is_empty(), "{told:?} left\n{}", self.tail());
        }
        let Options { deadline, rollback_deadline, step_deadline, .. } = &self.trial.request.options;
        let bound = deadline.unwrap() + *rollback_deadline + *step_deadline + self.paused;
        assert!(self.now <= Time(0) + bound + Millis::from_secs(120), "ended at {} of {bound}", self.now);
        assert_eq!(report.outcome.as_ref(), self.rollout.outcome());
    }
}

fn least(strategy: &Strategy, size: u32) -> usize {
    let least = match strategy {
        Strategy::Rolling(pace) | Strategy::Canary { pace, .. } => size.saturating_sub(pace.max_unavailable),
        Strategy::BlueGreen { .. } => size,
        Strategy::Quorum { .. } => size.saturating_sub(1),
        Strategy::Recreate => 0,
    };
    usize::try_from(least).unwrap()
}

fn told(event: &Event) -> String {
    match event {
        Event::Stage { instance, stage, release: _ } => format!("{instance} is {stage:?}"),
        event => format!("{event:?}"),
    }
}
