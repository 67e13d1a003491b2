//! Taking over steps that were begun after the state at hand was journalled.

use super::member::{Member, Origin, Stage};
use super::state::{LienState, Rollout};
use super::step::{Action, Ask, Hook, OpenStep, Step};
use super::time::Time;

impl Rollout {
    /// Makes the state what it was when the step was decided, as far as the step tells.
    pub(crate) fn adopt(&mut self, step: &Step, now: Time) {
        self.decided = self.decided.max(step.id.0);
        let open = OpenStep { step: step.clone(), since: now, failed: 0, ask: Ask::From(now) };
        match &step.action {
            Action::TakeLien { lien } => {
                self.liens.insert(*lien, LienState::Taking);
            }
            Action::ReleaseLien { lien } => {
                self.liens.insert(*lien, LienState::Releasing);
            }
            Action::SetWeights { .. } => {
                // Weights are absolute and decided anew; of two open calls the later would have to win.
                if let Some(earlier) = self.traffic_step.replace(step.id) {
                    self.open.remove(&earlier);
                }
            }
            Action::Launch { instance, release, slot } => {
                let number = instance.0.strip_prefix(&format!("{}-", self.request.prefix));
                let number = number.and_then(|number| number.parse().ok()).unwrap_or(self.launched + 1);
                self.launched = self.launched.max(number);
                let known = self.members.iter().any(|member| member.id == *instance);
                if !known {
                    self.members.push(Member::new(instance.clone(), *release, *slot, Origin::Launched, now));
                }
                self.adopt_on_member(step, Stage::Launching, now);
            }
            Action::Attach { .. } => self.adopt_on_member(step, Stage::Attaching, now),
            Action::Detach { .. } => self.adopt_on_member(step, Stage::Detaching, now),
            Action::RunHook { hook, .. } => self.adopt_on_member(step, stage_of(*hook), now),
            Action::Terminate { .. } => self.adopt_on_member(step, Stage::Terminating, now),
        }
        self.open.insert(step.id, open);
    }

    fn adopt_on_member(&mut self, step: &Step, stage: Stage, now: Time) {
        let Some(instance) = step.action.instance() else { return };
        let Some(index) = self.members.iter().position(|member| member.id == *instance) else { return };
        self.enter(index, stage, now);
        let member = &mut self.members[index];
        member.step = Some(step.id);
        member.attached |= matches!(stage, Stage::Attaching | Stage::Detaching);
    }
}

fn stage_of(hook: Hook) -> Stage {
    match hook {
        Hook::AfterBoot => Stage::AfterBoot,
        Hook::BeforeDrain => Stage::BeforeDrain,
        Hook::AfterDrain => Stage::AfterDrain,
    }
}
