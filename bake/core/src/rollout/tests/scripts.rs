//! One script for each strategy, each way to end, and each thing that befalls a group.

use std::collections::BTreeMap;

use super::build::{blue_green, canary, existing, quorum, release, rolling, upgrade};
use super::trial::{Mischief, Run, Trial};
use crate::rollout::simulate::{Behaviour, Model, PerMille, Spread, simulate};
use crate::rollout::*;

const ALL: PerMille = PerMille(1000);

fn strategies() -> Vec<Strategy> {
    vec![rolling(1, 0), rolling(0, 1), rolling(2, 1), blue_green(), canary(), quorum(), Strategy::Recreate]
}

/// A fleet whose every instance takes the same time for everything.
fn steady() -> Model {
    Model {
        step: Spread::exactly(Millis(500)),
        hook: Spread::exactly(Millis::from_secs(2)),
        boot: Spread::exactly(Millis::from_secs(5)),
        warm_up: Spread::exactly(Millis::from_secs(1)),
        drain: Spread::exactly(Millis::from_secs(3)),
        balancer_lag: Spread::exactly(Millis::from_secs(1)),
        ..Model::default()
    }
}

/// A new release whose instances do well until some time after boot.
fn later(after: u64, befalls: Behaviour) -> Model {
    Model { new: Behaviour { later: Spread::seconds(after, after), ..befalls }, ..steady() }
}

fn run(request: Request, model: Model, mischief: impl IntoIterator<Item = (u32, Mischief)>) -> Run {
    let mut request = request;
    request.options.deadline = Some(request.options.deadline.unwrap_or(Millis::from_secs(3600)));
    let mischief: BTreeMap<u32, Mischief> = mischief.into_iter().collect();
    Run::new(Trial { request, model, mischief }).run()
}

fn story(run: &Run) -> String {
    format!("{}\n{}", run.log.join("\n"), run.outcome())
}

fn calm(request: Request) -> Run {
    run(request, steady(), [])
}

fn options(request: Request, change: impl FnOnce(&mut Options)) -> Request {
    let mut request = request;
    change(&mut request.options);
    request
}

fn count(run: &Run, what: &str) -> usize {
    run.log.iter().filter(|line| line.contains(what)).count()
}

#[test]
fn timelines_of_a_good_release() {
    for strategy in strategies() {
        let name = format!("good_{}_{}_{}", strategy.name(), strategy.least(3), strategy.most(3, 3));
        insta::assert_snapshot!(name, simulate(upgrade(3, 3, strategy), steady()).unwrap());
    }
}

#[test]
fn timelines_of_a_bad_release() {
    for strategy in strategies() {
        let name = format!("bad_{}_{}_{}", strategy.name(), strategy.least(3), strategy.most(3, 3));
        let mut model = steady();
        model.new.unhealthy = ALL;
        insta::assert_snapshot!(name, simulate(upgrade(3, 3, strategy), model).unwrap());
    }
}

#[test]
fn one_instance_is_replaced_with_all_hooks_and_a_lien() {
    let mut request = upgrade(1, 1, rolling(1, 0));
    request.hooks = [Hook::AfterBoot, Hook::BeforeDrain, Hook::AfterDrain].into();
    request.liens = [Lien::RaisedMaximum].into();
    request.inherited_liens = [Lien::PinnedCapacity].into();
    insta::assert_snapshot!(story(&calm(request)));
}

#[test]
fn a_volume_is_let_go_before_it_is_taken() {
    insta::assert_snapshot!(story(&calm(upgrade(1, 1, Strategy::Recreate))));
}

#[test]
fn a_new_cluster_starts_all_at_once_and_an_old_one_changes_one_by_one() {
    let mut new = upgrade(0, 3, quorum());
    new.from = None;
    let new = calm(new);
    assert!(
        new.log[..3].iter().all(|line| line.starts_with("0s") && line.contains("launch")),
        "{}",
        story(&new)
    );
    let old = calm(upgrade(3, 3, quorum()));
    let order: Vec<_> =
        old.log.iter().filter(|line| line.contains("detach") || line.contains("launch")).collect();
    assert_eq!(order.len(), 6);
    assert!(
        order.chunks(2).all(|pair| pair[0].contains("detach") && pair[1].contains("launch")),
        "{order:?}"
    );
}

#[test]
fn nothing_is_done_where_nothing_is_to_do() {
    let mut request = upgrade(3, 3, rolling(1, 0));
    request.to = release("a");
    request.liens = [Lien::RaisedMaximum].into();
    let run = calm(request);
    assert_eq!((run.outcome(), count(&run, " 0001 ")), (&Outcome::Succeeded, 0), "{}", story(&run));
}

#[test]
fn after_a_reboot_what_stopped_is_replaced_by_the_same_release() {
    let mut request = upgrade(2, 2, rolling(1, 0));
    request.to = release("a");
    let run = run(request, steady(), [(0, Mischief::Stop(0))]);
    insta::assert_snapshot!(story(&run));
}

#[test]
fn a_singleton_that_stopped_keeps_its_place() {
    let mut request = upgrade(1, 1, Strategy::Recreate);
    request.to = release("a");
    let run = run(request, steady(), [(0, Mischief::Stop(0))]);
    assert_eq!(count(&run, "launch r1-1 of ca978112+3238 in place 0"), 1, "{}", story(&run));
    assert_eq!(run.outcome(), &Outcome::Succeeded);
}

#[test]
fn healthy_but_old_is_not_healthy() {
    let mut model = steady();
    model.new.other_image = ALL;
    let run = run(upgrade(3, 3, rolling(1, 0)), model, []);
    let Outcome::RolledBack { why: Why::Failures { failure, .. } } = run.outcome() else {
        panic!("{}", story(&run))
    };
    assert_eq!(failure, &Failure::OtherDigest);
    assert_eq!(count(&run, "detach a-"), 0, "the old ones are not touched");
}

#[test]
fn a_failure_while_the_finished_group_is_watched_still_rolls_back() {
    let request = options(upgrade(3, 3, rolling(3, 0)), |options| options.bake = Millis::from_secs(120));
    let model = later(60, Behaviour { sickens: ALL, ..Behaviour::default() });
    let run = run(request, model, []);
    assert_eq!(count(&run, "Baking"), 1);
    assert!(matches!(run.outcome(), Outcome::RolledBack { .. }), "{}", story(&run));
    assert_eq!(count(&run, "launch"), 6, "three new ones, and three of the old release again");
}

#[test]
fn blue_green_goes_back_by_one_call() {
    let request = options(upgrade(3, 3, blue_green()), |options| options.bake = Millis::from_secs(60));
    let run = run(request, later(40, Behaviour { sickens: PerMille(500), ..Behaviour::default() }), []);
    insta::assert_snapshot!(story(&run));
}

#[test]
fn who_is_killed_from_outside_counts_only_against_the_new_release() {
    let kill_old = run(upgrade(3, 3, rolling(1, 0)), steady(), [(4, Mischief::Kill(0))]);
    assert_eq!(kill_old.outcome(), &Outcome::Succeeded, "{}", story(&kill_old));
    let killed = Behaviour { killed: ALL, ..Behaviour::default() };
    let mut crash_loop = options(upgrade(3, 3, rolling(1, 0)), |options| options.max_failures = 2);
    crash_loop.group = "loop".to_owned();
    let crash_loop = run(crash_loop, later(4, killed), []);
    let Outcome::RolledBack { why: Why::Failures { failed: 3, allowed: 2, .. } } = crash_loop.outcome()
    else {
        panic!("{}", story(&crash_loop))
    };
}

#[test]
fn the_operator_pauses_goes_on_and_aborts() {
    let pause = Mischief::Wish(Wish::Pause);
    let paused = run(upgrade(2, 2, rolling(1, 0)), steady(), [(12, pause), (22, Mischief::Wish(Wish::Go))]);
    assert_eq!(paused.outcome(), &Outcome::Succeeded);
    let (begin, end) = (position(&paused, "Paused"), position(&paused, "Resumed"));
    assert!(!paused.log[begin..end].iter().any(|line| line.contains("launch") || line.contains("detach")));
    let aborted = run(upgrade(2, 2, rolling(1, 0)), steady(), [(14, Mischief::Wish(Wish::Abort))]);
    assert_eq!(aborted.outcome(), &Outcome::Aborted, "{}", story(&aborted));
    let held = run(upgrade(2, 2, rolling(1, 0)), steady(), [(14, Mischief::Wish(Wish::AbortAndHold))]);
    assert_eq!(held.outcome(), &Outcome::Held { why: Why::Wished, after: None });
}

fn position(run: &Run, what: &str) -> usize {
    run.log.iter().position(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what}: {}", story(run)))
}

#[test]
fn a_load_balancer_that_forgot_everything_is_told_again_and_nobody_is_replaced_for_it() {
    let run = run(upgrade(3, 3, rolling(1, 0)), steady(), [(3, Mischief::Forget)]);
    assert_eq!(run.outcome(), &Outcome::Succeeded);
    assert_eq!(count(&run, " attach a-"), 3, "{}", story(&run));
    assert_eq!(count(&run, "launch"), 3);
}

#[test]
fn a_held_rollout_goes_on_where_it_stopped() {
    let mut request = upgrade(1, 3, canary());
    request.from = Some(Captured { release: release("a"), size: 3 });
    request.existing.extend(existing(2, "b"));
    let run = calm(request);
    assert_eq!(run.outcome(), &Outcome::Succeeded);
    assert_eq!((count(&run, "launch"), count(&run, "detach b-")), (1, 0), "{}", story(&run));
}

#[test]
fn to_hold_on_failure_is_to_touch_nothing_more() {
    let request = options(upgrade(3, 3, rolling(1, 0)), |options| options.on_failure = OnFailure::Hold);
    let mut model = steady();
    model.new.boot_fails = ALL;
    let run = run(request, model, []);
    assert!(matches!(run.outcome(), Outcome::Held { why: Why::Failures { .. }, after: None }));
    assert_eq!((count(&run, "launch"), count(&run, "terminate")), (1, 0), "{}", story(&run));
}
