//! Dividing traffic between the old and the new set of a blue-green rollout.
//!
//! Weights are set absolutely and name every instance of both sets, so that going back is one call, and a call
//! made twice does no harm. They are set again when a set's members change, and when the balancer is seen to
//! divide otherwise.

use super::member::{Health, Member, Origin, Stage};
use super::observe::Observation;
use super::request::InstanceId;
use super::state::{Course, Rollout, Turn, Weights};
use super::step::{Action, Ask, OpenStep, Shares};
use super::strategy::Strategy;

impl Rollout {
    /// Whether this rollout moves traffic between two sets.
    pub(crate) fn shifts(&self) -> bool {
        let blue_green = matches!(self.request.options.strategy, Strategy::BlueGreen { .. });
        blue_green && self.request.replaces() && self.request.desired > 0
    }

    /// How traffic is divided, as far as the balancer confirmed it.
    pub(crate) fn shares(&self) -> Shares {
        self.traffic.as_ref().map_or(Shares::OLD, |weights| weights.shares)
    }

    /// Whether an instance in service is given traffic.
    pub(crate) fn carries(&self, member: &Member) -> bool {
        if !self.shifts() {
            return true;
        }
        match &self.traffic {
            // Before weights were set, what was found in the balancer carries; what is launched for the new set
            // does not.
            None => member.release != self.request.to || member.origin == Origin::Found,
            Some(weights) if member.release == self.request.to => {
                weights.shares.new > 0 && weights.new.contains(&member.id)
            }
            Some(weights) => weights.shares.old > 0,
        }
    }

    /// An instance is attached anew: it has the weight of its attaching, not the one it was given before.
    pub(crate) fn forget_weight(&mut self, id: &InstanceId) {
        if let Some(Weights { shares: _, old, new }) = &mut self.traffic {
            old.retain(|known| known != id);
            new.retain(|known| known != id);
        }
    }

    /// Traffic is being moved: who carries it is not known for sure.
    pub(crate) fn traffic_moves(&self) -> bool {
        self.traffic_step.is_some() || self.traffic_in_doubt
    }

    /// Asks for other weights if others are wanted.
    pub(crate) fn plan_traffic(&mut self, turn: &Turn<'_>) {
        if !self.shifts() {
            return;
        }
        let wanted = self.wanted_weights(turn.world);
        let wanted = wanted.map(|Weights { shares, old, new }| Action::SetWeights { shares, old, new });
        let Some(step) = self.traffic_step else {
            self.traffic_step = wanted.map(|action| self.ask(action, turn.now));
            return;
        };
        // One that failed and waits for its next attempt may be about what was wanted then: it gives way, and
        // what takes its place counts its attempts on.
        let waits = |open: &&OpenStep| {
            matches!(open.ask, Ask::Again(_)) && Some(&open.step.action) != wanted.as_ref()
        };
        let Some(OpenStep { failed, ask, .. }) = self.open.get(&step).filter(waits).cloned() else { return };
        self.open.remove(&step);
        self.traffic_in_doubt = true;
        self.traffic_step = wanted.map(|action| self.ask(action, turn.now));
        if let Some(open) = self.traffic_step.and_then(|id| self.open.get_mut(&id)) {
            (open.failed, open.ask) = (failed, ask);
        }
    }

    /// An attempt to set weights failed, so that it may have been done, and none succeeded since.
    fn in_doubt(&self) -> bool {
        let failed =
            self.traffic_step.and_then(|step| self.open.get(&step)).is_some_and(|open| open.failed > 0);
        self.traffic_in_doubt || failed
    }

    /// The weights to set, if those that are set are not as they should be.
    fn wanted_weights(&self, world: &Observation) -> Option<Weights> {
        let shares = self.wanted_shares()?;
        let set = |new: bool| -> Vec<InstanceId> {
            let serves = |member: &&Member| {
                matches!(member.stage, Stage::Joining | Stage::InService | Stage::BeforeDrain)
                    && member.failure.is_none()
            };
            let members = self.members.iter().filter(serves);
            members
                .filter(|member| (member.release == self.request.to) == new)
                .map(|m| m.id.clone())
                .collect()
        };
        let wanted = Weights { shares, old: set(false), new: set(true) };
        let Some(confirmed) = &self.traffic else {
            return (self.in_doubt() || shares != Shares::OLD).then_some(wanted);
        };
        let strays = world.shares.is_some_and(|seen| seen != confirmed.shares)
            && self.clock.since(self.traffic_since) >= self.request.options.step_backoff;
        (self.in_doubt() || *confirmed != wanted || strays).then_some(wanted)
    }

    /// How traffic should be divided; nothing: as it is, however that may be.
    fn wanted_shares(&self) -> Option<Shares> {
        let now = self.shares();
        match self.course {
            // In doubt, what was confirmed is not returned to: it might take traffic from more than it gives it to.
            Course::Forward if self.is_unsure_of_new_set() => None,
            Course::Forward => Some(self.shares_forward(now)),
            Course::Back { .. } => self.shares_back().or((!self.in_doubt()).then_some(now)),
            Course::Ending { .. } | Course::Over { .. } => None,
        }
    }

    /// The next weight when the whole new set is well; otherwise none but the present one.
    fn shares_forward(&self, now: Shares) -> Shares {
        let Strategy::BlueGreen { weights, .. } = &self.request.options.strategy else { return now };
        let Some(weight) = weights.get(self.gate.passed) else { return now };
        if self.new_set_is_well() {
            Shares::to_new(*weight)
        } else if self.perhaps_in_new_set() == 0 {
            Shares::OLD
        } else {
            now
        }
    }

    /// Everything to the old set, as soon as that is no worse than the present.
    fn shares_back(&self) -> Option<Shares> {
        (self.in_set(false) >= self.least() || self.old_set_is_no_worse()).then_some(Shares::OLD)
    }

    /// It may carry more or less than was confirmed, and is not whole: it is left as it is until it is.
    fn is_unsure_of_new_set(&self) -> bool {
        self.in_doubt() && !self.new_set_is_well() && self.perhaps_in_new_set() > 0
    }

    fn old_set_is_no_worse(&self) -> bool {
        let old = self.in_set(false);
        old > 0 && old >= self.perhaps_in_new_set()
    }

    /// The new set is whole and healthy.
    pub(crate) fn new_set_is_well(&self) -> bool {
        self.in_set(true) >= self.request.desired
    }

    /// How many instances of the new set may serve: not to know of one is no reason to think that it does not.
    fn perhaps_in_new_set(&self) -> u32 {
        super::even::count(self.members.iter().filter(|member| {
            let serves = member.stage == Stage::InService && member.failure.is_none();
            serves && member.release == self.request.to && member.health != Health::Failing
        }))
    }

    fn in_set(&self, new: bool) -> u32 {
        let well = self.members.iter().filter(|member| member.is_available());
        super::even::count(well.filter(|member| (member.release == self.request.to) == new))
    }

    /// The balancer divides traffic as the strategy's present step says, among the present members.
    pub(crate) fn weights_are_set(&self, world: &Observation) -> bool {
        !self.traffic_moves() && self.wanted_weights(world).is_none()
    }
}
