//! One script for each strategy and each way to end.

use super::build::{blue_green, rolling, upgrade};
use crate::rollout::simulate::{Model, PerMille, simulate};
use crate::rollout::*;

fn strategies() -> Vec<Strategy> {
    let canary = Strategy::Canary {
        steps: vec![Portion::Instances(1), Portion::Percent(50)],
        bake: Millis::from_secs(5),
        pace: Pace::default(),
    };
    let quorum = Strategy::Quorum { member_check: None };
    vec![rolling(1, 0), rolling(0, 1), rolling(2, 1), blue_green(), canary, quorum, Strategy::Recreate]
}

#[test]
fn a_good_release_replaces_the_old_one() {
    for strategy in strategies() {
        let name = strategy.name();
        let run = simulate(upgrade(3, 3, strategy), Model::default()).unwrap();
        assert_eq!(run.outcome, Some(Outcome::Succeeded), "{name}\n{run}");
        let last = run.timeline.last().unwrap().census;
        assert_eq!((last.serving, last.old, last.new, last.pending), (3, 0, 3, 0), "{name}\n{run}");
    }
}

#[test]
fn a_bad_release_makes_way_for_the_old_one() {
    for strategy in strategies() {
        let name = strategy.name();
        let mut model = Model::default();
        model.new.unhealthy = PerMille(1000);
        let run = simulate(upgrade(3, 3, strategy), model).unwrap();
        assert!(matches!(run.outcome, Some(Outcome::RolledBack { .. })), "{name}\n{run}");
        let last = run.timeline.last().unwrap().census;
        assert_eq!((last.serving, last.old, last.new, last.pending), (3, 3, 0, 0), "{name}\n{run}");
    }
}
