//! In which order instances are replaced, and how many may be missing or more than meant while they are.
//!
//! Main type: [`Strategy`]. It says only numbers; what is done with them is in `even.rs` (instances that are
//! alike) and `slots.rs` (instances that hold a place).

use serde::{Deserialize, Serialize};

use super::request::CheckName;
use super::time::Millis;

/// In which order instances are replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Strategy {
    /// A few at a time.
    Rolling(Pace),
    /// A second set beside the first; then traffic is moved from one to the other.
    BlueGreen {
        /// The new set's share of the traffic, in percent, step by step; the last is 100.
        weights: Vec<u8>,
        /// How long each share but the last is watched.
        bake: Millis,
        /// How long the old set is kept, without traffic, after the last share.
        keep_old: Millis,
    },
    /// A few first; when they have done well for a time, some more; then the others as in rolling.
    Canary {
        /// How many instances of the new release, step by step.
        steps: Vec<Portion>,
        /// How long each step is watched.
        bake: Millis,
        /// How instances are replaced within a step, and after the last.
        pace: Pace,
    },
    /// One at a time in its place, the old one down before the new one is up; the next only when all
    /// members are well. For clusters whose members own a volume or an identity.
    Quorum {
        /// The check that says that a member has joined; it must be among the group's checks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        member_check: Option<CheckName>,
    },
    /// Each in its place, the old one gone before the new one starts, all places at once.
    Recreate,
}

/// How many instances may be missing or more than meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pace {
    /// How many instances there may be beyond the number meant.
    pub max_surge: u32,
    /// How many instances may be out of service by the rollout's own action.
    pub max_unavailable: u32,
    /// Which instances go first.
    pub order: Order,
}

impl Default for Pace {
    fn default() -> Self {
        Self { max_surge: 1, max_unavailable: 0, order: Order::OldestFirst }
    }
}

/// Which instances go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Those that are there longest.
    #[default]
    OldestFirst,
    /// Those that came last.
    NewestFirst,
}

/// A part of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Portion {
    /// So many instances.
    Instances(u32),
    /// So many in a hundred, rounded up.
    Percent(u8),
}

impl Portion {
    /// How many instances of a group that is.
    pub fn of(self, size: u32) -> u32 {
        match self {
            Self::Instances(count) => count.min(size),
            Self::Percent(percent) => {
                let part = (u64::from(size) * u64::from(percent)).div_ceil(100);
                u32::try_from(part).unwrap_or(size).min(size)
            }
        }
    }
}

/// What a strategy's options get wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Nothing could ever be replaced.
    #[error(
        "`max_surge` and `max_unavailable` are both 0: no instance could be replaced; make one of them at least 1"
    )]
    Stuck,
    /// No steps.
    #[error("`{option}` is empty: name at least one step")]
    Empty {
        /// The option.
        option: &'static str,
    },
    /// A share that is none.
    #[error("`{option}`: {percent} is not a percentage from 1 to 100")]
    NotPercent {
        /// The option.
        option: &'static str,
        /// What it said.
        percent: u8,
    },
    /// Steps that go back.
    #[error("`{option}` must grow from step to step: step {step} does not")]
    NotGrowing {
        /// The option.
        option: &'static str,
        /// The offending step, from 1.
        step: usize,
    },
    /// The last weight is not everything.
    #[error(
        "`weights` must end at 100, so that the old set carries nothing when it goes; they end at {last}"
    )]
    NotAll {
        /// The last weight.
        last: u8,
    },
    /// A step of no instance.
    #[error("`steps`: step {step} is 0 instances")]
    NoInstance {
        /// The offending step, from 1.
        step: usize,
    },
}

impl Default for Strategy {
    fn default() -> Self {
        Self::Rolling(Pace::default())
    }
}

impl Strategy {
    /// The strategy's name as configuration spells it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rolling(_) => "rolling",
            Self::BlueGreen { .. } => "blue_green",
            Self::Canary { .. } => "canary",
            Self::Quorum { .. } => "quorum",
            Self::Recreate => "recreate",
        }
    }

    /// Whether instances hold places.
    pub const fn has_slots(&self) -> bool {
        matches!(self, Self::Quorum { .. } | Self::Recreate)
    }

    /// What the options get wrong, for a group of `desired` instances.
    pub fn check(&self, desired: u32) -> Vec<OptionError> {
        match self {
            Self::Rolling(pace) => pace.check().into_iter().collect(),
            Self::BlueGreen { weights, .. } => check_weights(weights),
            Self::Canary { steps, pace, .. } => {
                pace.check().into_iter().chain(check_steps(steps, desired)).collect()
            }
            Self::Quorum { .. } | Self::Recreate => Vec::new(),
        }
    }

    /// How many instances must stay in service while a group of `size` is worked on.
    pub fn least(&self, size: u32) -> u32 {
        match self {
            Self::Rolling(pace) | Self::Canary { pace, .. } => size.saturating_sub(pace.max_unavailable),
            Self::BlueGreen { .. } => size,
            Self::Quorum { .. } => size.saturating_sub(1),
            Self::Recreate => 0,
        }
    }

    /// How many instances there may be while a group of `size` is worked on that had, or would again have, `other`.
    pub fn most(&self, size: u32, other: u32) -> u32 {
        match self {
            Self::Rolling(pace) | Self::Canary { pace, .. } => size.saturating_add(pace.max_surge),
            Self::BlueGreen { .. } => size.saturating_add(other),
            Self::Quorum { .. } | Self::Recreate => size,
        }
    }

    /// Which instances go first.
    pub(crate) fn order(&self) -> Order {
        match self {
            Self::Rolling(pace) | Self::Canary { pace, .. } => pace.order,
            _ => Order::default(),
        }
    }
}

impl Pace {
    fn check(self) -> Option<OptionError> {
        (self.max_surge == 0 && self.max_unavailable == 0).then_some(OptionError::Stuck)
    }
}

fn check_weights(weights: &[u8]) -> Vec<OptionError> {
    const OPTION: &str = "weights";
    let Some(last) = weights.last().copied() else { return vec![OptionError::Empty { option: OPTION }] };
    let mut errors = check_percents(OPTION, weights.iter().copied());
    errors.extend(check_growth(OPTION, weights));
    if last != 100 {
        errors.push(OptionError::NotAll { last });
    }
    errors
}

fn check_steps(steps: &[Portion], desired: u32) -> Vec<OptionError> {
    const OPTION: &str = "steps";
    if steps.is_empty() {
        return vec![OptionError::Empty { option: OPTION }];
    }
    let percents = steps.iter().filter_map(|step| match step {
        Portion::Percent(percent) => Some(*percent),
        Portion::Instances(_) => None,
    });
    let mut errors = check_percents(OPTION, percents);
    let none = steps.iter().position(|step| *step == Portion::Instances(0));
    errors.extend(none.map(|index| OptionError::NoInstance { step: index + 1 }));
    // Small groups may round two steps to the same number, which is no mistake: it only may not shrink.
    let counts: Vec<u32> = steps.iter().map(|step| step.of(desired)).collect();
    let shrinks = counts.windows(2).position(|pair| pair[0] > pair[1]);
    errors.extend(shrinks.map(|index| OptionError::NotGrowing { option: OPTION, step: index + 2 }));
    errors
}

fn check_percents(option: &'static str, percents: impl Iterator<Item = u8>) -> Vec<OptionError> {
    percents
        .filter(|percent| !(1..=100).contains(percent))
        .map(|percent| OptionError::NotPercent { option, percent })
        .collect()
}

fn check_growth(option: &'static str, weights: &[u8]) -> Option<OptionError> {
    let falls = weights.windows(2).position(|pair| pair[0] >= pair[1])?;
    Some(OptionError::NotGrowing { option, step: falls + 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(strategy: &Strategy, expect: &[&str]) {
        let found: Vec<String> = strategy.check(4).iter().map(ToString::to_string).collect();
        assert_eq!(found, expect);
    }

    fn blue_green(weights: &[u8]) -> Strategy {
        Strategy::BlueGreen { weights: weights.to_vec(), bake: Millis::ZERO, keep_old: Millis::ZERO }
    }

    fn canary(steps: &[Portion]) -> Strategy {
        Strategy::Canary { steps: steps.to_vec(), bake: Millis::ZERO, pace: Pace::default() }
    }

    #[test]
    fn defaults_are_sound() {
        check(&Strategy::default(), &[]);
        check(&blue_green(&[10, 50, 100]), &[]);
        check(&canary(&[Portion::Instances(1), Portion::Percent(50)]), &[]);
    }

    #[test]
    fn contradictions_are_told() {
        let stuck = Pace { max_surge: 0, max_unavailable: 0, order: Order::OldestFirst };
        check(
            &Strategy::Rolling(stuck),
            &[
                "`max_surge` and `max_unavailable` are both 0: no instance could be replaced; make one of them at least 1",
            ],
        );
        check(&blue_green(&[]), &["`weights` is empty: name at least one step"]);
        check(
            &blue_green(&[50, 10]),
            &[
                "`weights` must grow from step to step: step 2 does not",
                "`weights` must end at 100, so that the old set carries nothing when it goes; they end at 10",
            ],
        );
        check(&blue_green(&[0, 100]), &["`weights`: 0 is not a percentage from 1 to 100"]);
        check(&canary(&[Portion::Percent(120)]), &["`steps`: 120 is not a percentage from 1 to 100"]);
        check(
            &canary(&[Portion::Instances(3), Portion::Percent(25)]),
            &["`steps` must grow from step to step: step 2 does not"],
        );
        check(&canary(&[Portion::Instances(0)]), &["`steps`: step 1 is 0 instances"]);
    }

    #[test]
    fn a_journalled_strategy_is_read_as_it_was_written() {
        for strategy in
            [Strategy::default(), blue_green(&[10, 100]), canary(&[Portion::Percent(5)]), Strategy::Recreate]
        {
            let text = serde_json::to_string(&strategy).unwrap();
            assert_eq!(serde_json::from_str::<Strategy>(&text).unwrap(), strategy, "{text}");
        }
        let misspelt =
            serde_json::from_str::<Strategy>(r#"{"kind": "rolling", "max_serge": 1}"#).unwrap_err();
        assert!(misspelt.to_string().contains("max_serge"), "{misspelt}");
    }

    #[test]
    fn a_percentage_is_rounded_up() {
        assert_eq!(
            [Portion::Percent(1).of(3), Portion::Percent(50).of(3), Portion::Percent(100).of(3)],
            [1, 2, 3]
        );
    }
}
