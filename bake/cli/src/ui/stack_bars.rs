//! Bars of a change of a stack: one for each action that is under way, and under a rollout one for each instance that
//! is on its way into service or out of it. Main type: [`StackBars`].

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar};
use olbake_core::rollout::{self, InstanceId, Stage};
use olbake_core::stack::ResourceName;
use olbake_core::stack::plan::Act;
use olbake_core::stack::record::OperationKey;
use olbake_engine::stack::StackEvent;

use super::progress::style;
use super::stack::{action_name, stage_text, waiting_text};
use super::style::Palette;

/// Stages from launch to service, and from service to the end.
const STAGES: u64 = 6;

/// The bars of a change.
pub(crate) struct StackBars {
    screen: MultiProgress,
    palette: Palette,
    actions: BTreeMap<OperationKey, ProgressBar>,
    rollouts: BTreeMap<ResourceName, OperationKey>,
    instances: BTreeMap<InstanceId, ProgressBar>,
}

impl StackBars {
    /// Bars on a screen.
    pub(crate) fn new(screen: MultiProgress, palette: Palette) -> Self {
        Self {
            screen,
            palette,
            actions: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            instances: BTreeMap::new(),
        }
    }

    /// Something happened.
    pub(crate) fn hear(&mut self, event: &StackEvent) {
        match event {
            StackEvent::ActionStarted { key, act, name, .. } => self.started(key, act, name),
            StackEvent::ActionDone { key, .. } | StackEvent::ActionFailed { key, .. } => self.over(key),
            StackEvent::Rollout { group, rollout: rollout::Event::Stage { instance, stage, .. } } => {
                self.moved(group, instance, *stage);
            }
            StackEvent::RolloutStatus { group, waiting } => {
                let bar = self.rollouts.get(group).and_then(|key| self.actions.get(key));
                if let Some(bar) = bar {
                    bar.set_message(waiting.iter().find_map(waiting_text).unwrap_or_default());
                }
            }
            StackEvent::RolloutOver { .. } => {
                std::mem::take(&mut self.instances).values().for_each(ProgressBar::finish_and_clear);
            }
            _ => {}
        }
    }

    fn started(&mut self, key: &OperationKey, act: &Act, name: &ResourceName) {
        let bar = self.screen.add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {prefix}  {wide_msg} {elapsed:>5}"));
        bar.set_prefix(self.palette.bold(action_name(key)));
        self.actions.insert(key.clone(), bar);
        if *act == Act::Roll {
            self.rollouts.insert(name.clone(), key.clone());
        }
    }

    fn over(&mut self, key: &OperationKey) {
        if let Some(bar) = self.actions.remove(key) {
            bar.finish_and_clear();
        }
    }

    fn moved(&mut self, group: &ResourceName, instance: &InstanceId, stage: Stage) {
        if matches!(stage, Stage::InService | Stage::Gone) {
            if let Some(bar) = self.instances.remove(instance) {
                bar.finish_and_clear();
            }
            return;
        }
        let below = self.rollouts.get(group).and_then(|key| self.actions.get(key));
        let bar = self.instances.entry(instance.clone()).or_insert_with(|| {
            let bar = ProgressBar::new(STAGES);
            let bar = match below {
                Some(head) => self.screen.insert_after(head, bar),
                None => self.screen.add(bar),
            };
            bar.set_style(style("    {prefix} {bar:12.green/dim} {wide_msg} {elapsed:>5}"));
            bar.set_prefix(instance.to_string());
            bar
        });
        bar.set_position(position(stage));
        bar.set_message(stage_text(stage));
    }

    /// Time passed.
    pub(crate) fn tick(&self) {
        self.actions.values().chain(self.instances.values()).for_each(ProgressBar::tick);
    }
}

/// How far an instance is on its way in or out, of [`STAGES`].
fn position(stage: Stage) -> u64 {
    match stage {
        Stage::Found | Stage::BeforeDrain => 0,
        Stage::Launching | Stage::Detaching => 1,
        Stage::Booting | Stage::Draining => 2,
        Stage::AfterBoot | Stage::AfterDrain => 3,
        Stage::Attaching | Stage::Terminating => 4,
        Stage::Joining => 5,
        Stage::InService | Stage::Gone => STAGES,
    }
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, ProgressDrawTarget};
    use olbake_core::Digest;
    use olbake_core::rollout::{Event, Lack, Release, Report, Time, Waiting};
    use serde_json::json;

    use super::*;

    struct Screen {
        term: InMemoryTerm,
        bars: StackBars,
    }

    impl Screen {
        fn new() -> Self {
            let term = InMemoryTerm::new(20, 72);
            let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
            let screen = MultiProgress::with_draw_target(target);
            Self { term, bars: StackBars::new(screen, Palette { enabled: false }) }
        }

        /// What is on the screen: neither what spins nor what counts seconds.
        fn after(&mut self, event: &StackEvent) -> Vec<String> {
            self.bars.hear(event);
            self.bars.tick();
            let row = |line: &str| {
                let words = line.split_whitespace();
                let spins =
                    |word: &str| word.chars().all(|letter| ('\u{2800}'..'\u{2900}').contains(&letter));
                let counts =
                    |word: &str| word.strip_suffix('s').is_some_and(|number| number.parse::<u32>().is_ok());
                words.filter(|word| !spins(word) && !counts(word)).collect::<Vec<_>>().join(" ")
            };
            self.term.contents().lines().map(row).collect()
        }

        fn stage(&mut self, instance: &str, stage: Stage) -> Vec<String> {
            let release = Release { image: Digest::of(b"two"), inputs: Digest::of(b"inputs") };
            let instance = InstanceId(instance.to_owned());
            let rollout = Event::Stage { instance, release, stage };
            self.after(&StackEvent::Rollout { group: group(), rollout })
        }
    }

    fn group() -> ResourceName {
        "web".parse().unwrap()
    }

    fn roll() -> OperationKey {
        OperationKey("roll web web-1".to_owned())
    }

    #[test]
    fn each_instance_on_its_way_has_a_bar_below_its_rollout() {
        let mut screen = Screen::new();
        let ty = "local.instance_group".parse().unwrap();
        let begun = StackEvent::ActionStarted { key: roll(), act: Act::Roll, name: group(), ty };
        assert_eq!(screen.after(&begun), ["roll web"]);

        let booting = screen.stage("web-new", Stage::Booting);
        assert_eq!(booting, ["roll web", "web-new ━━━━╸─────── booting"]);
        let leaving = screen.stage("web-old", Stage::AfterDrain);
        assert_eq!(leaving.len(), 3, "{leaving:?}");
        assert!(leaving.contains(&"web-old ━━━━━━╸───── runs its upgrade hook".to_owned()), "{leaving:?}");

        let lacks = vec![Lack::Balancer];
        let waits = Waiting::Health { instance: InstanceId("web-new".to_owned()), lacks, until: Time(9) };
        let waiting = StackEvent::RolloutStatus { group: group(), waiting: vec![waits] };
        assert_eq!(screen.after(&waiting)[0], "roll web web-new lacks the load balancer's check");

        assert_eq!(screen.stage("web-new", Stage::InService).len(), 2);
        assert_eq!(screen.stage("web-old", Stage::Gone).len(), 1);
        screen.stage("web-third", Stage::Launching);
        let report: Report = serde_json::from_value(json!({
            "group": "web", "outcome": { "outcome": "succeeded" }, "began": 0, "ended": 1, "failures": 0,
            "rollback_failures": 0, "instances": [], "liens_left": [], "open_steps": [],
        }))
        .unwrap();
        let over = StackEvent::RolloutOver { group: group(), report: Box::new(report) };
        assert_eq!(screen.after(&over).len(), 1);
        let done = StackEvent::ActionDone { key: roll(), seconds: 1.0 };
        assert!(screen.after(&done).is_empty());
    }
}
