//! Planning for instances that hold a place: quorum and recreate.
//!
//! A place's holder must be gone before the next can take it, since it owns the place's volume or identity. In a
//! quorum one place is worked on at a time, and only while all other members are well.

use super::member::{Health, Member, Stage};
use super::outcome::Waiting;
use super::request::Release;
use super::state::{Rollout, Turn};
use super::strategy::Strategy;

impl Rollout {
    /// Comes nearer to the goal, place by place.
    pub(crate) fn plan_slots(&mut self, turn: &mut Turn<'_>) {
        let goal = self.goal();
        self.remove_failed(turn);
        self.keep_leaving_in_slots(goal, turn);
        self.remove_unwanted_arrivals(goal, turn);
        if matches!(self.request.options.strategy, Strategy::Quorum { .. }) {
            self.plan_quorum(goal, turn);
        } else {
            self.plan_recreate(goal, turn);
        }
    }

    /// Gives places to instances that were listed without one.
    pub(crate) fn seat_existing(&mut self) {
        for index in 0..self.members.len() {
            if self.members[index].slot.is_none() {
                let taken = |slot: &u32| self.members.iter().any(|member| member.slot == Some(*slot));
                self.members[index].slot = (0..=u32::MAX).find(|slot| !taken(slot));
            }
        }
    }

    fn keep_leaving_in_slots(&mut self, goal: Option<(Release, u32)>, turn: &Turn<'_>) {
        for index in self.returning(|member| fits(member, goal), u32::MAX) {
            self.come_back(index, turn.now);
        }
    }

    fn remove_unwanted_arrivals(&mut self, goal: Option<(Release, u32)>, turn: &Turn<'_>) {
        for index in 0..self.members.len() {
            let member = &self.members[index];
            let sighted = member.stage != Stage::Found;
            if member.never_served() && sighted && self.is_free(index) && !fits(member, goal) {
                self.leave(index, turn.now);
            }
        }
    }

    fn plan_recreate(&mut self, goal: Option<(Release, u32)>, turn: &Turn<'_>) {
        for index in self.misfits(goal) {
            self.leave(index, turn.now);
        }
        for slot in self.vacant(goal) {
            if let Some((release, _)) = goal {
                self.launch(release, Some(slot), turn.now);
            }
        }
    }

    fn plan_quorum(&mut self, goal: Option<(Release, u32)>, turn: &mut Turn<'_>) {
        let vacant = self.vacant(goal);
        let bootstraps = self.members.iter().all(|member| member.stage != Stage::InService);
        let moves = self.moves();
        if let (Some((release, _)), Some(&first)) = (goal, vacant.first()) {
            // Members of a cluster that is not there yet may need each other to become healthy.
            let now = if bootstraps { vacant } else { vec![first] };
            if moves && !bootstraps {
                turn.waiting.push(Waiting::Members);
                return;
            }
            for slot in now {
                self.launch(release, Some(slot), turn.now);
            }
            return;
        }
        let Some(&next) = self.misfits(goal).first() else { return };
        let others =
            self.members.iter().enumerate().filter(|(index, member)| *index != next && member.exists());
        let well = others.into_iter().all(|(_, member)| member.is_available());
        if moves || !well {
            turn.waiting.push(Waiting::Members);
            return;
        }
        self.leave(next, turn.now);
    }

    /// Members in service that must go: those that are not well first, then those whose place goes.
    fn misfits(&self, goal: Option<(Release, u32)>) -> Vec<usize> {
        let mut found: Vec<usize> = (0..self.members.len())
            .filter(|&index| {
                let member = &self.members[index];
                member.stage == Stage::InService && member.failure.is_none() && !fits(member, goal)
            })
            .collect();
        let size = goal.map_or(0, |(_, size)| size);
        found.sort_by_key(|&index| {
            let member = &self.members[index];
            let stays = member.slot.is_some_and(|slot| slot < size);
            (member.health == Health::Healthy, stays, member.slot)
        });
        found
    }

    /// Places that nobody holds.
    fn vacant(&self, goal: Option<(Release, u32)>) -> Vec<u32> {
        let size = goal.map_or(0, |(_, size)| size);
        let held = |slot: u32| self.members.iter().any(|member| member.exists() && member.slot == Some(slot));
        let vacant = (0..size).filter(|slot| !held(*slot));
        let room = self.most().saturating_sub(self.alive());
        vacant.take(usize::try_from(room).unwrap_or(usize::MAX)).collect()
    }
}

/// It is of the release that is wanted, in a place that is.
fn fits(member: &Member, goal: Option<(Release, u32)>) -> bool {
    goal.is_some_and(|(release, size)| {
        member.release == release && member.slot.is_some_and(|slot| slot < size)
    })
}
