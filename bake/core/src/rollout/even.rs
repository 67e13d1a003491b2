//! Planning for instances that are alike: rolling, canary and blue-green.
//!
//! The strategy says how many instances of which release there should be now ([`Rollout::targets`]); the planner
//! comes nearer to that as far as two bounds allow: at least `least` instances in service, at most `most`
//! instances in all. The bounds are held against what is seen now, not against what was planned.

use super::member::{Health, Member, Origin, Stage};
use super::outcome::Waiting;
use super::request::{InstanceId, Release};
use super::state::{Rollout, Turn};
use super::step::Hook;
use super::strategy::{Order, Strategy};
use super::time::Time;

/// How many instances of a release there should be now.
type Target = (Release, u32);

impl Rollout {
    /// Comes nearer to the targets.
    pub(crate) fn plan_even(&mut self, turn: &mut Turn<'_>) {
        let targets = self.targets();
        self.remove_failed(turn);
        self.keep_leaving(&targets, turn.now);
        self.launch_missing(&targets, turn);
        self.remove_excess(&targets, turn);
    }

    /// How many instances of which release there should be now.
    fn targets(&self) -> Vec<Target> {
        let Some((release, size)) = self.goal() else { return Vec::new() };
        match (self.request.from, self.canaries()) {
            _ if !self.is_forward() => vec![(release, size)],
            (Some(from), Some(canaries)) => {
                vec![(from.release, self.old_beside(canaries)), (release, canaries)]
            }
            (Some(from), None) if self.shifts() && self.gate.passed < self.gates() => {
                vec![(from.release, self.old_to_keep(from.size)), (release, size)]
            }
            _ => vec![(release, size)],
        }
    }

    /// The old set is kept at its size as long as it carries anything; afterwards, as it is.
    fn old_to_keep(&self, size: u32) -> u32 {
        if self.shares().old > 0 {
            size
        } else {
            self.kept(|member| member.release != self.request.to).min(size)
        }
    }

    /// How many canaries there should be, while there should be canaries.
    pub(crate) fn canaries(&self) -> Option<u32> {
        let Strategy::Canary { steps, .. } = &self.request.options.strategy else { return None };
        let replaces = self.is_forward() && self.request.replaces();
        let step = steps.get(self.gate.passed).filter(|_| replaces)?;
        // Those that an earlier, held rollout left in service are not removed to be launched again.
        let here = self.kept(|member| member.release == self.request.to);
        Some(step.of(self.request.desired).max(here).min(self.request.desired))
    }

    /// How many instances of the old release there should be beside so many canaries.
    pub(crate) fn old_beside(&self, canaries: u32) -> u32 {
        let captured = self.request.from.map_or(0, |from| from.size);
        self.request.desired.saturating_sub(canaries).min(captured)
    }

    fn kept(&self, wanted: impl Fn(&Member) -> bool) -> u32 {
        count(self.members.iter().filter(|member| member.is_kept() && wanted(member)))
    }

    /// How many instances serve: in service, healthy, and given traffic.
    pub(crate) fn available(&self) -> u32 {
        count(self.members.iter().filter(|member| self.serves(member)))
    }

    fn serves(&self, member: &Member) -> bool {
        member.is_available() && self.carries(member)
    }

    /// How many instances must serve.
    pub(crate) fn least(&self) -> u32 {
        self.request.options.strategy.least(self.goal_size())
    }

    /// How many instances there may be.
    pub(crate) fn most(&self) -> u32 {
        let strategy = &self.request.options.strategy;
        if !self.shifts() && matches!(strategy, Strategy::BlueGreen { .. }) {
            return self.goal_size().saturating_add(1);
        }
        let other = if self.is_forward() { self.request.others() } else { self.request.desired };
        strategy.most(self.goal_size(), other)
    }

    /// Removes what failed. What is dead, or was launched here and failed, serves nobody; what was found here and
    /// fails its checks may serve somebody still, so it goes only when the others suffice, or one at a time when
    /// there is no other way.
    pub(crate) fn remove_failed(&mut self, turn: &mut Turn<'_>) {
        for index in 0..self.members.len() {
            let member = &self.members[index];
            let stays =
                member.failure.is_none() || !(member.stage.is_arriving() || member.stage == Stage::InService);
            if stays || !self.is_free(index) {
                continue;
            }
            let may_serve = member.origin == Origin::Found || member.health == Health::Healthy;
            let careful = may_serve && member.alive && member.times.in_service.is_some();
            if !careful || self.available() >= self.least() || self.is_stuck() {
                self.leave(index, turn.now);
            }
        }
    }

    /// Instances are on their way into service or out of it.
    pub(crate) fn moves(&self) -> bool {
        self.members.iter().any(|member| {
            member.stage.is_leaving() || (member.stage.is_arriving() && member.failure.is_none())
        })
    }

    /// Failing instances hold up everything: nothing moves, and either a new instance has shown that one can be
    /// healthy, or there is no room to try one.
    fn is_stuck(&self) -> bool {
        let shown =
            self.members.iter().any(|member| member.origin == Origin::Launched && member.is_available());
        !self.moves() && (shown || self.alive() >= self.most())
    }

    /// Lets instances stay that were leaving and are wanted again, where that can still be undone.
    fn keep_leaving(&mut self, targets: &[Target], now: Time) {
        for &(release, wanted) in targets {
            let missing = wanted.saturating_sub(self.kept(|member| member.release == release));
            for index in self.returning(|member| member.release == release, missing) {
                self.come_back(index, now);
            }
        }
    }

    /// Up to `most` members that are leaving and can still come back.
    pub(crate) fn returning(&self, wanted: impl Fn(&Member) -> bool, most: u32) -> Vec<usize> {
        let can = |member: &Member| {
            let stage = matches!(member.stage, Stage::BeforeDrain | Stage::Draining);
            stage && member.failure.is_none() && member.alive && wanted(member)
        };
        let found = self.members.iter().enumerate().filter(|(_, member)| can(member)).map(|(index, _)| index);
        found.take(usize::try_from(most).unwrap_or(usize::MAX)).collect()
    }

    pub(crate) fn come_back(&mut self, index: usize, now: Time) {
        let serves = self.members[index].stage == Stage::BeforeDrain;
        self.enter(index, if serves { Stage::InService } else { Stage::Booting }, now);
    }

    fn launch_missing(&mut self, targets: &[Target], turn: &mut Turn<'_>) {
        for &(release, wanted) in targets {
            let missing = wanted.saturating_sub(self.kept(|member| member.release == release));
            for _ in 0..missing {
                let (alive, most) = (self.alive(), self.most());
                if alive >= most {
                    turn.waiting.push(Waiting::Room { alive, most });
                    return;
                }
                self.launch(release, None, turn.now);
            }
        }
    }

    /// How many instances there are, in whatever state.
    pub(crate) fn alive(&self) -> u32 {
        count(self.members.iter().filter(|member| member.exists()))
    }

    pub(crate) fn launch(&mut self, release: Release, slot: Option<u32>, now: Time) {
        self.launched += 1;
        let id = InstanceId(format!("{}-{}", self.request.prefix, self.launched));
        self.members.push(Member::new(id, release, slot, Origin::Launched, now));
    }

    fn remove_excess(&mut self, targets: &[Target], turn: &mut Turn<'_>) {
        let wanted =
            |release| targets.iter().find(|(target, _)| *target == release).map_or(0, |(_, count)| *count);
        let mut releases: Vec<Release> = self.members.iter().map(|member| member.release).collect();
        releases.sort_unstable();
        releases.dedup();
        for release in releases {
            let kept = self.kept(|member| member.release == release);
            let excess = kept.saturating_sub(wanted(release));
            self.remove(release, excess, turn);
        }
    }

    /// Removes `excess` instances of a release, as far as enough others serve.
    fn remove(&mut self, release: Release, excess: u32, turn: &mut Turn<'_>) {
        let mut left = excess;
        for index in self.removal_order(release) {
            if left == 0 {
                return;
            }
            // Nobody may touch it yet, but it will go: another must not go in its place.
            if !self.is_free(index) {
                left -= 1;
                continue;
            }
            let (available, least) = (self.available(), self.least());
            let member = &self.members[index];
            let others = available - u32::from(self.serves(member));
            let harmless = member.never_served() || !self.carries(member);
            if self.traffic_moves() && member.stage == Stage::InService {
                return;
            }
            if !harmless && others < least {
                turn.waiting.push(Waiting::Capacity { available, least });
                return;
            }
            self.leave(index, turn.now);
            left -= 1;
        }
    }

    /// Those first that serve nobody; then in the order of the strategy.
    fn removal_order(&self, release: Release) -> Vec<usize> {
        let newest_first = self.request.options.strategy.order() == Order::NewestFirst;
        let mut order: Vec<usize> = (0..self.members.len())
            .filter(|&index| {
                let member = &self.members[index];
                member.release == release && member.is_kept()
            })
            .collect();
        order.sort_by_key(|&index| {
            let member = &self.members[index];
            let age = if newest_first { u64::MAX - member.since.0 } else { member.since.0 };
            (!member.never_served(), member.health == Health::Healthy, age, index)
        });
        order
    }

    /// Sends an instance on its way out.
    pub(crate) fn leave(&mut self, index: usize, now: Time) {
        let member = &self.members[index];
        let hooked = self.request.hooks.contains(&Hook::BeforeDrain);
        let says_goodbye = member.stage == Stage::InService && member.alive && member.failure.is_none();
        let stage = if hooked && says_goodbye && !member.said_goodbye {
            Stage::BeforeDrain
        } else {
            self.stage_to_leave(index)
        };
        self.enter(index, stage, now);
    }
}

pub(crate) fn count<'a>(members: impl Iterator<Item = &'a Member>) -> u32 {
    u32::try_from(members.count()).unwrap_or(u32::MAX)
}
