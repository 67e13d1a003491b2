//! Questions asked by hand: what the model of a fleet does not bring about.

use super::build::{release, rolling, upgrade};
use crate::rollout::*;

fn id(name: &str) -> InstanceId {
    InstanceId(name.to_owned())
}

fn serving(name: &str) -> Seen {
    Seen {
        phase: Phase::Running,
        checks: [(CheckName("http".to_owned()), Verdict::Passing)].into(),
        digest: Some(release(name).image),
        attachment: Attachment::In { serving: Verdict::Passing },
    }
}

fn world<'a>(rows: impl IntoIterator<Item = (&'a str, Seen)>) -> Observation {
    let instances = rows.into_iter().map(|(name, seen)| (id(name), seen)).collect();
    Observation { instances, ..Observation::default() }
}

fn actions(decision: &Decision) -> Vec<String> {
    decision.steps.iter().map(|step| step.action.to_string()).collect()
}

fn begin(request: Request) -> Rollout {
    Rollout::begin(request, Time(0)).unwrap()
}

const DONE: StepResult = StepResult::Done;

#[test]
fn nothing_is_concluded_from_what_was_not_seen() {
    let mut rollout = begin(upgrade(2, 2, rolling(1, 0)));
    let blind = rollout.next(&Observation::default(), Time(0));
    assert_eq!(actions(&blind), [""; 0]);
    assert_eq!(blind.waiting.len(), 2, "{:?}", blind.waiting);
    let seen = rollout.next(&world([("a-1", serving("a")), ("a-2", serving("a"))]), Time(1));
    assert_eq!(actions(&seen), [format!("launch r1-1 of {}", release("b"))]);
}

#[test]
fn a_step_is_asked_for_once_and_again_after_a_restart() {
    let mut rollout = begin(upgrade(1, 1, rolling(1, 0)));
    let seen = world([("a-1", serving("a"))]);
    let first = rollout.next(&seen, Time(0)).steps;
    assert_eq!(rollout.next(&seen, Time(1)).steps, []);
    let text = serde_json::to_string(&rollout).unwrap();
    let mut restored: Rollout = serde_json::from_str(&text).unwrap();
    restored.resume(&first, Time(2));
    assert_eq!(restored.next(&seen, Time(2)).steps, first);
    assert_eq!(restored.done(first[0].id, &DONE, Time(3)), Told::Noted);
    assert_eq!(restored.done(first[0].id, &DONE, Time(3)), Told::Stale);
}

#[test]
fn a_state_of_another_schema_is_refused() {
    let mut state = serde_json::to_value(begin(upgrade(1, 1, rolling(1, 0)))).unwrap();
    state["schema"] = 2.into();
    let error = serde_json::from_value::<Rollout>(state).unwrap_err().to_string();
    assert_eq!(error, "a rollout of schema 2; this olbake knows 1");
}

#[test]
fn a_failed_step_is_tried_later_and_later() {
    let mut rollout = begin(upgrade(1, 1, rolling(1, 0)));
    let seen = world([("a-1", serving("a"))]);
    let step = rollout.next(&seen, Time(0)).steps.remove(0);
    let failed = StepResult::Failed { message: "throttled".to_owned() };
    rollout.done(step.id, &failed, Time(0));
    let waits = rollout.next(&seen, Time(500));
    assert_eq!((waits.steps.len(), waits.wait_until), (0, Some(Time(1000))));
    assert_eq!(rollout.next(&seen, Time(1000)).steps, std::slice::from_ref(&step));
    rollout.done(step.id, &failed, Time(1000));
    assert_eq!(rollout.next(&seen, Time(1000)).wait_until, Some(Time(3000)));
}

#[test]
fn a_hook_that_never_ends_does_not_hold_the_rollout_up_for_ever() {
    let mut request = upgrade(2, 1, rolling(1, 0));
    request.to = release("a");
    request.hooks = [Hook::BeforeDrain].into();
    let mut rollout = begin(request);
    let seen = world([("a-1", serving("a")), ("a-2", serving("a"))]);
    assert_eq!(actions(&rollout.next(&seen, Time(0))), ["run before-drain on a-1"]);
    let late = rollout.next(&seen, Time(600_000));
    assert!(matches!(late.finished, Some(Outcome::RolledBack { why: Why::NoProgress { .. } })), "{late:?}");
}

#[test]
fn an_instance_stays_when_another_dies_while_its_hook_runs() {
    let mut request = upgrade(3, 2, rolling(1, 0));
    request.to = release("a");
    request.hooks = [Hook::BeforeDrain].into();
    let mut rollout = begin(request);
    let all = || [("a-1", serving("a")), ("a-2", serving("a")), ("a-3", serving("a"))];
    let step = rollout.next(&world(all()), Time(0)).steps.remove(0);
    assert_eq!(step.action.to_string(), "run before-drain on a-1");
    rollout.done(step.id, &DONE, Time(10));
    let stopped = Seen { phase: Phase::Stopped, attachment: Attachment::Out, ..serving("a") };
    let [first, second, _] = all();
    let decision = rollout.next(&world([first, second, ("a-3", stopped)]), Time(10));
    assert_eq!(actions(&decision), ["detach a-3"], "a-1 and a-2 are the two that must stay");
}

#[test]
fn a_lien_that_cannot_be_undone_is_told() {
    let mut request = upgrade(1, 1, rolling(1, 0));
    request.liens = [Lien::SuspendedProcesses].into();
    request.options.step_backoff = Millis::ZERO;
    let mut rollout = begin(request);
    let seen = Observation { wish: Wish::AbortAndHold, ..world([("a-1", serving("a"))]) };
    let take = rollout.next(&Observation { wish: Wish::Go, ..seen.clone() }, Time(0)).steps.remove(0);
    assert_eq!(rollout.report().liens_left, [Lien::SuspendedProcesses], "it may have been taken");
    rollout.done(take.id, &DONE, Time(0));
    let release = rollout.next(&seen, Time(0)).steps.remove(0);
    for _ in 0..5 {
        rollout.done(release.id, &StepResult::Failed { message: "denied".to_owned() }, Time(1));
        rollout.next(&seen, Time(1));
    }
    assert_eq!(rollout.outcome(), Some(&Outcome::Held { why: Why::Wished, after: None }));
    assert_eq!(rollout.report().liens_left, [Lien::SuspendedProcesses]);
}

#[test]
fn all_refusals_are_told_at_once() {
    let mut request = upgrade(2, 3, rolling(0, 0));
    request.preflight = Preflight { to: Availability::Revoked, from: Availability::Missing, room: Some(0) };
    request.existing.push(request.existing[0].clone());
    request.existing[1].id = id("r1-7");
    request.options.step_attempts = 0;
    let error = Rollout::begin(request, Time(0)).unwrap_err();
    insta::assert_snapshot!(error.refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    assert!(error.to_string().starts_with("the rollout of `web` cannot begin: "));
}

#[test]
fn a_strategy_must_fit_its_group() {
    let mut bare = upgrade(1, 1, super::build::blue_green());
    bare.fronting = Fronting::Nothing;
    let unknown = Strategy::Quorum { member_check: Some(CheckName("member".to_owned())) };
    let text = |request| Rollout::begin(request, Time(0)).unwrap_err().refusals[0].to_string();
    assert_eq!(text(bare), "a blue-green rollout needs a load balancer in front of the group");
    assert_eq!(text(upgrade(3, 3, unknown)), "the member check `member` is not among the group's checks");
}
