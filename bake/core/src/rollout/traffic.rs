//! Dividing traffic between the old and the new set of a blue-green rollout.
//!
//! Weights are set absolutely and name every instance of both sets, so that going back is one call, and a call
//! made twice does no harm. They are set again when a set's members change, and when the balancer is seen to
//! divide otherwise.

use super::member::{Member, Origin, Stage};
use super::observe::Observation;
use super::request::InstanceId;
use super::state::{Course, Rollout, Turn, Weights};
use super::step::{Action, Shares};
use super::strategy::Strategy;

impl Rollout {
    /// Whether this rollout moves traffic between two sets.
    pub(crate) fn shifts(&self) -> bool {
        matches!(self.request.options.strategy, Strategy::BlueGreen { .. }) && self.request.replaces()
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
        // Before weights were set, what was found in the balancer carries; what is launched for the new set does not.
        if self.traffic.is_none() {
            return member.release != self.request.to || member.origin == Origin::Found;
        }
        let shares = self.shares();
        if member.release == self.request.to { shares.new > 0 } else { shares.old > 0 }
    }

    /// Traffic is being moved: who carries it is not known for sure.
    pub(crate) fn traffic_moves(&self) -> bool {
        self.traffic_step.is_some()
    }

    /// Asks for other weights if others are wanted.
    pub(crate) fn plan_traffic(&mut self, turn: &Turn<'_>) {
        if !self.shifts() || self.traffic_moves() {
            return;
        }
        let Some(Weights { shares, old, new }) = self.wanted_weights(turn.world) else { return };
        let id = self.ask(Action::SetWeights { shares, old, new }, turn.now);
        self.traffic_step = Some(id);
    }

    /// The weights to set, if those that are set are not as they should be.
    fn wanted_weights(&self, world: &Observation) -> Option<Weights> {
        let shares = self.wanted_shares();
        let set = |new: bool| -> Vec<InstanceId> {
            let serves = |member: &&Member| {
                matches!(member.stage, Stage::InService | Stage::BeforeDrain) && member.failure.is_none()
            };
            let members = self.members.iter().filter(serves);
            members
                .filter(|member| (member.release == self.request.to) == new)
                .map(|m| m.id.clone())
                .collect()
        };
        let wanted = Weights { shares, old: set(false), new: set(true) };
        let Some(confirmed) = &self.traffic else { return (shares != Shares::OLD).then_some(wanted) };
        let strays = world.shares.is_some_and(|seen| seen != confirmed.shares)
            && self.clock.since(self.traffic_since) >= self.request.options.step_backoff;
        (*confirmed != wanted || strays).then_some(wanted)
    }

    fn wanted_shares(&self) -> Shares {
        let now = self.shares();
        match self.course {
            Course::Forward => self.shares_forward(now),
            Course::Back { .. } => self.shares_back(now),
            Course::Ending { .. } | Course::Over { .. } => now,
        }
    }

    /// The next weight when the whole new set is well; otherwise none but the present one.
    fn shares_forward(&self, now: Shares) -> Shares {
        let Strategy::BlueGreen { weights, .. } = &self.request.options.strategy else { return now };
        let Some(weight) = weights.get(self.gate.passed) else { return now };
        if self.new_set_is_well() {
            Shares::to_new(*weight)
        } else if self.in_set(true) == 0 {
            Shares::OLD
        } else {
            now
        }
    }

    /// Everything to the old set, as soon as that is no worse than the present.
    fn shares_back(&self, now: Shares) -> Shares {
        let old = self.in_set(false);
        if old >= self.least() || old >= self.in_set(true) { Shares::OLD } else { now }
    }

    /// The new set is whole and healthy.
    pub(crate) fn new_set_is_well(&self) -> bool {
        self.in_set(true) >= self.request.desired
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
