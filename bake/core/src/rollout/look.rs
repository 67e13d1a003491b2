//! What an observation changes: members' health, and the stages that end by being seen to end.

use super::member::{Health, Member, Origin, Stage};
use super::observe::{Attachment, Phase, Seen};
use super::outcome::{Event, Failure, Lack, Waiting};
use super::request::Fronting;
use super::state::{Rollout, Turn};
use super::step::Hook;
use super::time::Time;

impl Rollout {
    /// Looks at every member.
    pub(crate) fn look(&mut self, turn: &mut Turn<'_>) {
        for index in 0..self.members.len() {
            if self.members[index].exists() {
                self.look_at(index, turn);
            }
        }
    }

    fn look_at(&mut self, index: usize, turn: &mut Turn<'_>) {
        let now = turn.now;
        let seen = turn.world.instances.get(&self.members[index].id);
        let member = &mut self.members[index];
        member.weigh(seen, &self.request, now);
        if let Some(seen) = seen {
            if member.stage == Stage::Found {
                member.attached =
                    self.request.fronting == Fronting::Balancer && seen.attachment != Attachment::Out;
            }
            if let Some(failure) = dead(member, seen) {
                return self.bury(index, failure, now);
            }
        }
        match self.members[index].stage {
            Stage::Found => self.look_at_found(index, seen, now),
            // It was attached, and the balancer forgot it before it had noticed that it is well.
            Stage::Joining if self.was_forgotten(index, seen, now) => {
                self.enter(index, Stage::Attaching, now)
            }
            // What the balancer shows is attached, whatever the step's attempts said.
            Stage::Attaching if is_in(seen) && self.is_free(index) => self.enter(index, Stage::Joining, now),
            Stage::Booting | Stage::Joining | Stage::Attaching => self.look_at_arriving(index, now),
            Stage::InService => self.look_at_serving(index, seen, now),
            Stage::Draining => self.look_at_draining(index, seen, now),
            _ => {}
        }
    }

    /// It is stopped or not there.
    fn bury(&mut self, index: usize, failure: Failure, now: Time) {
        let member = &mut self.members[index];
        member.alive = false;
        match member.stage {
            Stage::Found
            | Stage::Booting
            | Stage::AfterBoot
            | Stage::Attaching
            | Stage::Joining
            | Stage::InService => {
                self.fail(index, failure);
            }
            Stage::BeforeDrain => self.enter(index, self.stage_to_leave(index), now),
            Stage::Draining | Stage::AfterDrain => self.enter(index, Stage::Terminating, now),
            Stage::Launching | Stage::Detaching | Stage::Terminating | Stage::Gone => {}
        }
    }

    fn look_at_found(&mut self, index: usize, seen: Option<&Seen>, now: Time) {
        let Some(seen) = seen else { return };
        let serves = match self.request.fronting {
            Fronting::Nothing => seen.phase == Phase::Running,
            Fronting::Balancer => matches!(seen.attachment, Attachment::In { .. }),
        };
        self.enter(index, if serves { Stage::InService } else { Stage::Booting }, now);
        self.members[index].weigh(Some(seen), &self.request, now);
    }

    fn look_at_arriving(&mut self, index: usize, now: Time) {
        let options = &self.request.options;
        let member = &self.members[index];
        let late = now.since(member.arriving_since) >= options.health_deadline;
        let settled = member.healthy_since.is_some_and(|since| now.since(since) >= options.min_ready);
        let found = member.origin == Origin::Found && member.alive;
        match member.stage {
            Stage::Joining if member.health == Health::Healthy && found => {
                self.members[index].failure = None;
                self.enter(index, Stage::InService, now);
            }
            _ if member.failure.is_some() => {}
            _ if member.lacks.contains(&Lack::OtherDigest) => self.fail(index, Failure::OtherDigest),
            Stage::Booting if settled => self.boot_is_over(index, now),
            Stage::Joining if member.health == Health::Healthy => self.enter(index, Stage::InService, now),
            Stage::Booting | Stage::Joining if late => {
                let failure = Failure::NotHealthy {
                    lacks: member.lacks.clone(),
                    after: now.since(member.arriving_since),
                };
                self.fail(index, failure);
            }
            _ => {}
        }
    }

    /// Attached a while ago, and not in the balancer: it takes some time to show what it was told.
    fn was_forgotten(&self, index: usize, seen: Option<&Seen>, now: Time) -> bool {
        let member = &self.members[index];
        let options = &self.request.options;
        let late = now.since(member.arriving_since) >= options.health_deadline;
        let waited = !late && now.since(member.stage_since) >= options.step_backoff;
        let out = seen.is_some_and(|seen| seen.attachment == Attachment::Out);
        waited && out && member.failure.is_none() && member.alive
    }

    fn boot_is_over(&mut self, index: usize, now: Time) {
        let member = &self.members[index];
        let migrates = self.request.hooks.contains(&Hook::AfterBoot)
            && self.request.replaces()
            && self.is_forward()
            && member.origin == Origin::Launched
            && member.release == self.request.to
            && !member.migrated;
        let stage = if migrates { Stage::AfterBoot } else { self.stage_after_boot() };
        self.enter(index, stage, now);
    }

    fn look_at_serving(&mut self, index: usize, seen: Option<&Seen>, now: Time) {
        let member = &mut self.members[index];
        // The balancer forgot it: it was restarted, or somebody took it out by hand.
        let lost =
            seen.is_some_and(|seen| matches!(seen.attachment, Attachment::Out | Attachment::Draining { .. }));
        if self.request.fronting == Fronting::Balancer && lost && member.failure.is_none() {
            return self.enter(index, Stage::Attaching, now);
        }
        // What was found failing and is well again was only shaken; what this rollout launched had its chance.
        if member.health == Health::Healthy && member.origin == Origin::Found && member.alive {
            member.failure = None;
        }
        let Some(since) = member.failing_since else { return };
        if now.since(since) < self.request.options.unhealthy_after {
            return;
        }
        let wrong = member.lacks.contains(&Lack::OtherDigest);
        let failure =
            if wrong { Failure::OtherDigest } else { Failure::Unhealthy { lacks: member.lacks.clone() } };
        self.fail(index, failure);
    }

    fn look_at_draining(&mut self, index: usize, seen: Option<&Seen>, now: Time) {
        let member = &self.members[index];
        let empty = seen.is_some_and(|seen| {
            matches!(seen.attachment, Attachment::Out | Attachment::Draining { connections: 0 })
        });
        let late = now.since(member.stage_since) >= self.request.options.drain_timeout;
        if empty || late {
            self.enter(index, self.stage_to_leave(index), now);
        }
    }

    /// What members wait for, as far as they wait by themselves.
    pub(crate) fn explain_members(&self, turn: &mut Turn<'_>) {
        let options = &self.request.options;
        for member in self.members.iter().filter(|member| member.failure.is_none()) {
            let instance = member.id.clone();
            match member.stage {
                Stage::Found => turn.waiting.push(Waiting::Sight { instance }),
                Stage::Booting | Stage::Joining => turn.waiting.push(match member.healthy_since {
                    Some(since) if member.stage == Stage::Booting => {
                        Waiting::Settling { instance, until: since + options.min_ready }
                    }
                    _ => Waiting::Health {
                        instance,
                        lacks: member.lacks.clone(),
                        until: member.arriving_since + options.health_deadline,
                    },
                }),
                Stage::Draining => {
                    turn.waiting
                        .push(Waiting::Drain { instance, until: member.stage_since + options.drain_timeout });
                }
                _ => {}
            }
        }
        let steps = self.open.values().map(|open| Waiting::Step {
            step: open.step.id,
            retry_at: open.ask.when().filter(|time| *time > turn.now),
        });
        turn.waiting.extend(steps);
    }

    /// Takes note of what the operator wishes.
    pub(crate) fn listen(&mut self, turn: &Turn<'_>) {
        use super::observe::Wish;
        use super::outcome::Why;
        use super::state::Course;
        let now = turn.now;
        match (turn.world.wish, &self.course) {
            (_, Course::Ending { .. } | Course::Over { .. }) => {}
            (Wish::Pause, _) if self.paused.is_none() => {
                self.paused = Some(now);
                self.events.push(Event::Paused);
            }
            (Wish::Pause, _) => {}
            (Wish::Go, _) => self.go_on(now),
            (Wish::Abort, course) => {
                let forward = *course == Course::Forward;
                self.go_on(now);
                if forward {
                    self.turn_back(Why::Wished, now);
                }
            }
            (Wish::AbortAndHold, _) => {
                self.go_on(now);
                self.hold(Why::Wished, now);
            }
        }
    }

    /// Ends a pause; the clocks of deadlines go on where they stood.
    fn go_on(&mut self, now: Time) {
        let Some(since) = self.paused.take() else { return };
        let lapse = now.since(since);
        self.paused_for = self.paused_for + lapse;
        self.progress = self.progress + lapse;
        if let super::state::Course::Back { since, .. } = &mut self.course {
            *since = *since + lapse;
        }
        self.events.push(Event::Resumed);
    }
}

fn is_in(seen: Option<&Seen>) -> bool {
    seen.is_some_and(|seen| matches!(seen.attachment, Attachment::In { .. }))
}

/// Whether an instance is dead, and how. Notes that it was seen.
fn dead(member: &mut Member, seen: &Seen) -> Option<Failure> {
    match seen.phase {
        Phase::Booting | Phase::Running => {
            member.sighted = true;
            None
        }
        Phase::Stopped => {
            member.sighted = true;
            Some(Failure::Stopped)
        }
        // What was just launched may not be visible yet; what was found here must have been.
        Phase::Absent if member.sighted || member.origin == Origin::Found => Some(Failure::Vanished),
        Phase::Absent => None,
    }
}
