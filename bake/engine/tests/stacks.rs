//! Changes of stacks in a cloud in memory: failures, stops, plans that were made before, holders that come back.
#![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

use std::collections::BTreeSet;
use std::sync::Arc;

use olbake_core::Digest;
use olbake_core::secret::SecretId;
use olbake_core::stack::declare::Declared;
use olbake_core::stack::plan::Act;
use olbake_core::stack::planner::Wishes;
use olbake_core::stack::{Declaration, StackPlan};
use olbake_engine::cancel::cancel;
use olbake_engine::stack::{Change, Changed, Preview, Refresh, StackError, StackEvent};
use olbake_engine::state::{StateError, Takeover};
use olbake_testkit::cloud::{Among, Chosen, Cloud, Fault, Nature};
use olbake_testkit::stacks::{Hello, resource, stack};
use serde_json::json;
use zeroize::Zeroizing;

/// A cloud in which a stack stands.
fn standing(hello: &Hello) -> Arc<Cloud> {
    let cloud = Cloud::new();
    cloud.bring(&hello.declare());
    assert_eq!(cloud.check_settled(&hello.declare(), false), Vec::<String>::new());
    cloud
}

fn deploy(cloud: &Arc<Cloud>, declaration: &Declaration) -> Result<Changed, StackError> {
    cloud.deploy(declaration, &Wishes::default(), Takeover::Refuse).unwrap()
}

fn settled(cloud: &Arc<Cloud>, declaration: &Declaration) {
    assert_eq!(cloud.check_settled(declaration, false), Vec::<String>::new());
}

fn replaced() -> Hello {
    Hello { cidr: "10.1.0.0/24", image: "two", ..Hello::default() }
}

/// Every action fails once, in each way that there is.
#[test]
fn what_does_not_need_a_failed_action_goes_on_and_the_next_change_finishes() {
    let (before, after) = (Hello::default(), replaced().declare());
    let prepared = standing(&before);
    let cloud = prepared.fork();
    deploy(&cloud, &after).unwrap();
    let actions = cloud.faults.count(Among::Objects);
    assert_eq!(actions, 8, "four objects are made, four are removed");
    for number in 0..actions {
        for fault in [Fault::Fail, Fault::Refuse, Fault::LoseAnswer] {
            let chosen = Chosen { among: Among::Objects, number, fault };
            let cloud = prepared.fork();
            cloud.faults.choose(Some(chosen));
            let error = deploy(&cloud, &after).unwrap_err();
            let StackError::Failed { failures, skipped } = error else { panic!("{chosen:?}: {error:?}") };
            assert_eq!(failures.len(), 1, "{chosen:?}: {failures:?}");
            assert_eq!(undone(&cloud, &after, &prepared), skipped + 1, "{chosen:?}");
            cloud.faults.choose(None);
            let again = deploy(&cloud, &after);
            assert!(again.is_ok(), "{chosen:?}: {again:?}");
            let problems = cloud.check_settled(&after, false);
            assert!(problems.is_empty(), "{chosen:?}: {problems:#?}");
        }
    }
}

/// How many actions of a plan were not asked for or did not end well, going by the calls.
fn undone(cloud: &Arc<Cloud>, after: &Declaration, before: &Arc<Cloud>) -> usize {
    let plan = before.fork().preview(after, &Wishes::default()).unwrap().plan;
    let state = cloud.state(after);
    let done = |action: &&olbake_core::stack::plan::Action| {
        use olbake_core::stack::plan::Act;
        let stands = state.resources.get(&action.name).filter(|applied| applied.id == action.id);
        match action.act {
            Act::Create => stands.is_some(),
            Act::Roll => stands.is_some_and(|applied| applied.group.is_some()),
            Act::Delete => {
                !state.pending.contains_key(&action.key)
                    && !state.deposed.contains_key(&action.id)
                    && stands.is_none()
            }
            _ => false,
        }
    };
    plan.actions.len() - plan.actions.iter().filter(done).count()
}

#[test]
fn a_rollout_bears_calls_that_fail() {
    let (before, after) = (Hello::default(), Hello { image: "two", ..Hello::default() }.declare());
    let prepared = standing(&before);
    let cloud = prepared.fork();
    deploy(&cloud, &after).unwrap();
    for number in 0..cloud.faults.count(Among::Instances) {
        for fault in [Fault::Fail, Fault::LoseAnswer] {
            let cloud = prepared.fork();
            cloud.faults.choose(Some(Chosen { among: Among::Instances, number, fault }));
            deploy(&cloud, &after).unwrap();
            settled(&cloud, &after);
        }
    }
}

/// A change that is asked to stop at an event.
fn stopped_at(
    cloud: &Arc<Cloud>,
    declaration: &Declaration,
    number: usize,
) -> Option<Result<Changed, StackError>> {
    let (mut stacks, options) = cloud.process();
    let (canceller, heard) = cancel();
    stacks.site.cancel = heard;
    let seen = std::sync::atomic::AtomicUsize::new(0);
    stacks.site.listener = Arc::new(move |event| {
        if matches!(event, StackEvent::ActionStarted { .. } | StackEvent::Rollout { .. })
            && seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == number
        {
            canceller.cancel();
        }
    });
    let wishes = Wishes::default();
    let change = Change {
        declaration,
        wishes: &wishes,
        refresh: Refresh::Look,
        expected: None,
        approve: &|_: &Preview| Ok(()),
    };
    cloud.run(async move { stacks.change(&change, options).await })
}

#[test]
fn a_change_that_was_stopped_is_gone_on_with() {
    let after = replaced().declare();
    let prepared = standing(&Hello::default());
    let mut number = 0;
    loop {
        let cloud = prepared.fork();
        match stopped_at(&cloud, &after, number).unwrap() {
            Err(StackError::Cancelled) => {}
            // The last action was under way when it was asked to stop.
            Ok(_) => break settled(&cloud, &after),
            Err(error) => panic!("stopped at {number}: {error:?}"),
        }
        deploy(&cloud, &after).unwrap();
        settled(&cloud, &after);
        number += 1;
    }
    assert!(number > 20, "it was stopped {number} times");
}

#[test]
fn a_rollout_that_was_stopped_is_not_begun_anew() {
    let after = Hello { image: "two", ..Hello::default() }.declare();
    let cloud = standing(&Hello::default());
    // By then the first new instance serves and an old one leaves.
    assert!(matches!(stopped_at(&cloud, &after, 6), Some(Err(StackError::Cancelled))));
    let rollout = |cloud: &Arc<Cloud>| cloud.state(&after).resources[&"web".parse().unwrap()].rollout.clone();
    let began = rollout(&cloud).unwrap()["began"].clone();
    assert!(matches!(stopped_at(&cloud, &after, 4), Some(Err(StackError::Cancelled))));
    assert_eq!(rollout(&cloud).unwrap()["began"], began);
    deploy(&cloud, &after).unwrap();
    settled(&cloud, &after);
    let launched = cloud.faults.calls().into_iter().filter(|call| call.what.starts_with("launch"));
    let launched: BTreeSet<String> = launched.map(|call| call.what).collect();
    assert_eq!(launched.len(), 6, "three at first and three for the new release: {launched:?}");
}

fn deploy_expected(
    cloud: &Arc<Cloud>,
    declaration: &Declaration,
    expected: &StackPlan,
) -> Result<Changed, StackError> {
    let (stacks, options) = cloud.process();
    let wishes = Wishes::default();
    let change = Change {
        declaration,
        wishes: &wishes,
        refresh: Refresh::Look,
        expected: Some(expected),
        approve: &|_: &Preview| Ok(()),
    };
    cloud.run(async move { stacks.change(&change, options).await }).unwrap()
}

#[test]
fn a_plan_holds_as_long_as_the_same_follows() {
    let prepared = standing(&Hello::default());
    let after = Hello { note: "second", ..Hello::default() }.declare();
    let plan = prepared.preview(&after, &Wishes::default()).unwrap().plan;

    // Something else was changed and changed back: another version of the state, the same actions.
    let cloud = prepared.fork();
    cloud.bring(&Hello { size: 4, ..Hello::default() }.declare());
    cloud.bring(&Hello::default().declare());
    deploy_expected(&cloud, &after, &plan).unwrap();
    settled(&cloud, &after);

    // The state moved on.
    let cloud = prepared.fork();
    cloud.bring(&after);
    let moved = deploy_expected(&cloud, &after, &plan).unwrap_err();
    let StackError::Moved { differences, .. } = &moved else { panic!("{moved:?}") };
    assert_eq!(differences.len(), 1, "{differences:?}");
    assert!(
        differences[0].starts_with("update network network-")
            && differences[0].ends_with(": no longer to be done"),
        "{differences:?}"
    );

    // The world did.
    let cloud = prepared.fork();
    cloud.with(|world| {
        let lost = world.instances.keys().next().unwrap().clone();
        world.instances.remove(&lost);
    });
    let calls = cloud.faults.calls().len();
    let moved = deploy_expected(&cloud, &after, &plan).unwrap_err();
    let StackError::Moved { differences, .. } = &moved else { panic!("{moved:?}") };
    assert_eq!(differences.len(), 1, "{differences:?}");
    assert!(
        differences[0].starts_with("roll web web-") && differences[0].ends_with(": now to be done too"),
        "{differences:?}"
    );
    let changes = cloud.faults.calls().into_iter().skip(calls);
    assert_eq!(changes.filter(|call| matches!(call.nature, Nature::Object | Nature::Instance)).count(), 0);
}

/// What was killed is previewed as it will be gone on with.
#[test]
fn a_plan_that_was_made_after_a_kill_holds() {
    let after = replaced().declare();
    let prepared = standing(&Hello::default());
    for number in 0..8 {
        for fault in [Fault::HangBefore, Fault::HangHalfway, Fault::HangAfter] {
            let cloud = prepared.fork();
            cloud.faults.choose(Some(Chosen { among: Among::Objects, number, fault }));
            assert!(cloud.deploy(&after, &Wishes::default(), Takeover::Refuse).is_none());
            cloud.faults.choose(None);
            cloud.let_leases_end();
            let plan = cloud.preview(&after, &Wishes::default()).unwrap().plan;
            deploy_expected(&cloud, &after, &plan).unwrap();
            settled(&cloud, &after);
        }
    }
}

/// A holder that stops at some call, is taken over, and wakes.
#[test]
fn a_holder_that_was_taken_over_asks_for_nothing_more() {
    let after = replaced().declare();
    let prepared = standing(&Hello::default());
    let cloud = prepared.fork();
    deploy(&cloud, &after).unwrap();
    let boundaries = cloud.faults.boundaries();
    // The first call looks for the stack and the second takes it; the last but one gives it back.
    let holds = 2..boundaries.len() - 2;
    for (number, nature) in boundaries.into_iter().enumerate() {
        // What it was about to ask for when it was stopped is under way: nobody can call that back.
        let before = matches!(nature, Nature::Journal | Nature::Read);
        for fault in
            [Fault::HangBefore, Fault::HangAfter].into_iter().filter(|f| before || *f == Fault::HangAfter)
        {
            let chosen = Chosen { among: Among::Boundaries, number, fault };
            let cloud = prepared.fork();
            let stale = wake(&cloud, &after, chosen);
            assert!(stale.is_err() || !holds.contains(&number), "{chosen:?}: it does not know what happened");
            settled(&cloud, &after);
        }
    }
}

/// Stops one holder at a call, lets another finish, and wakes the first. Says how that one ended.
fn wake(cloud: &Arc<Cloud>, after: &Declaration, chosen: Chosen) -> Result<Changed, StackError> {
    let wishes = Wishes::default();
    let (stale, stale_options) = cloud.process();
    let (next, next_options) = cloud.process();
    cloud.faults.choose(Some(chosen));
    let change = || Change {
        declaration: after,
        wishes: &wishes,
        refresh: Refresh::Look,
        expected: None,
        approve: &|_: &Preview| Ok(()),
    };
    let frozen = cloud.freeze(async { stale.change(&change(), stale_options).await });
    let Err(frozen) = frozen else { panic!("{chosen:?}: it did not hang") };
    cloud.let_leases_end();
    let next = cloud.run(async { next.change(&change(), next_options).await });
    assert!(matches!(next, Some(Ok(_))), "{chosen:?}: {next:?}");
    let calls = cloud.faults.calls().len();
    let stale = frozen.wake();
    let late = cloud.faults.calls().split_off(calls);
    let changes: Vec<_> =
        late.iter().filter(|call| matches!(call.nature, Nature::Object | Nature::Instance)).collect();
    assert!(changes.is_empty(), "{chosen:?}: {changes:?}");
    stale
}

#[test]
fn whoever_holds_a_stack_is_named() {
    let cloud = standing(&Hello::default());
    let after = Hello { note: "second", ..Hello::default() }.declare();
    cloud.faults.choose(Some(Chosen { among: Among::Objects, number: 0, fault: Fault::HangBefore }));
    assert!(cloud.deploy(&after, &Wishes::default(), Takeover::Refuse).is_none());
    cloud.faults.choose(None);
    let busy = deploy(&cloud, &after).unwrap_err();
    assert!(matches!(busy, StackError::State(StateError::Busy { .. })), "{busy:?}");
    assert!(cloud.preview(&after, &Wishes::default()).unwrap().holder.is_some());
    cloud.deploy(&after, &Wishes::default(), Takeover::Force).unwrap().unwrap();
    settled(&cloud, &after);
}

fn networks(count: usize) -> Vec<Declared> {
    let one = |number: usize| {
        resource(&format!("n{number:02}"), "fake.network", &json!({"cidr": format!("{number}")}))
    };
    (0..count).map(one).collect()
}

#[test]
fn what_does_not_depend_on_each_other_is_done_at_the_same_time_as_far_as_jobs_go() {
    let declaration = Declaration { resources: networks(20), ..Declaration::new(stack()) };
    for jobs in [1, 3, 8] {
        let cloud = Cloud::new();
        let (mut stacks, options) = cloud.process();
        stacks.site.jobs = jobs;
        let wishes = Wishes::default();
        let change = Change {
            declaration: &declaration,
            wishes: &wishes,
            refresh: Refresh::Look,
            expected: None,
            approve: &|_: &Preview| Ok(()),
        };
        cloud.run(async move { stacks.change(&change, options).await }).unwrap().unwrap();
        assert_eq!(cloud.busiest(), jobs);
    }
}

#[test]
fn what_depends_waits() {
    let mut resources = networks(12);
    for (number, resource) in resources.iter_mut().enumerate().skip(1) {
        resource.depends_on.insert(format!("n{:02}", number - 1).parse().unwrap());
    }
    resources.reverse();
    let declaration = Declaration { resources, ..Declaration::new(stack()) };
    let cloud = Cloud::new();
    cloud.bring(&declaration);
    assert_eq!(cloud.busiest(), 1);
    let made = cloud.faults.calls().into_iter().filter(|call| call.what.starts_with("create"));
    let made: Vec<String> = made.map(|call| call.what["create ".len()..][..3].to_owned()).collect();
    assert_eq!(made, (0..12).map(|number| format!("n{number:02}")).collect::<Vec<_>>());
}

/// A secret may leave the configuration together with what used it.
#[test]
fn secrets_reach_the_provider_and_nothing_else_and_are_not_needed_to_remove() {
    let id = SecretId("config.note".into());
    let cloud = Cloud::new();
    let mut declaration = Declaration { resources: networks(2), ..Declaration::new(stack()) };
    declaration.resources[1].inputs.insert("note".into(), json!(format!("pw={}", id.marker())));
    declaration.secrets.insert(id, Digest::of(b"version"));
    let (mut stacks, options) = cloud.process();
    stacks.site.secrets = Arc::new(|_| Ok(Zeroizing::new("hunter2".to_owned())));
    let wishes = Wishes::default();
    let change = Change {
        declaration: &declaration,
        wishes: &wishes,
        refresh: Refresh::Look,
        expected: None,
        approve: &|_: &Preview| Ok(()),
    };
    cloud.run(async move { stacks.change(&change, options).await }).unwrap().unwrap();
    let notes = cloud
        .with(|world| world.things.values().map(|thing| thing.inputs["note"].clone()).collect::<Vec<_>>());
    assert!(notes.contains(&json!("pw=hunter2")), "{notes:?}");
    assert!(!format!("{:?}", cloud.state(&declaration)).contains("hunter2"));
    // Who has no secrets can plan, and finds nothing to do.
    settled(&cloud, &declaration);
    declaration.resources.pop();
    declaration.secrets.clear();
    deploy(&cloud, &declaration).unwrap();
    settled(&cloud, &declaration);
}

/// What is taken in stays as it was made until the next deploy, which brings it to what is declared; it is never made
/// a second time, and what is not there is not made instead.
#[test]
fn what_somebody_else_made_is_taken_in_and_then_kept_as_declared() {
    let hello = Hello { import: Some("net-1"), note: "ours", ..Hello::default() };
    let cloud = Cloud::new();
    let Err(StackError::Failed { failures, .. }) =
        cloud.deploy(&hello.declare(), &Wishes::default(), Takeover::Refuse).unwrap()
    else {
        panic!("something else was made")
    };
    assert!(failures[0].1.to_string().contains("network"), "{failures:?}");
    assert!(cloud.with(|world| world.things.is_empty()));

    let theirs = json!({"cidr": hello.cidr, "note": "theirs"}).as_object().unwrap().clone();
    cloud.with(|world| world.foreign.insert("net-1".to_owned(), theirs));
    let preview = cloud.preview(&hello.declare(), &Wishes::default()).unwrap();
    let imports: Vec<&Act> = preview
        .plan
        .actions
        .iter()
        .filter(|action| action.name.as_str() == "network")
        .map(|action| &action.act)
        .collect();
    assert_eq!(imports, [&Act::Import { object: "net-1".to_owned() }]);
    cloud.bring(&hello.declare());
    let note = || {
        cloud.with(|world| {
            let networks = world.things.values().filter(|thing| thing.object.ty.kind() == "network");
            networks.map(|thing| thing.inputs["note"].clone()).collect::<Vec<_>>()
        })
    };
    assert_eq!(note(), ["theirs"]);
    cloud.bring(&hello.declare());
    assert_eq!(note(), ["ours"]);
    assert_eq!(cloud.check_settled(&hello.declare(), false), Vec::<String>::new());
}

/// What was ended from outside runs again as what it was: nothing is made anew, and nothing else is touched.
#[test]
fn what_was_ended_from_outside_runs_again() {
    let hello = Hello::default();
    let cloud = standing(&hello);
    let before = cloud.with(|world| {
        world.things.values_mut().for_each(|thing| thing.stopped = thing.object.ty.kind() == "balancer");
        world.things.keys().cloned().collect::<Vec<_>>()
    });
    let changed = cloud.bring(&hello.declare());
    assert_eq!(changed.plan.actions.len(), 1, "{:?}", changed.plan.actions);
    assert_eq!(cloud.with(|world| world.things.keys().cloned().collect::<Vec<_>>()), before);
    assert_eq!(cloud.check_settled(&hello.declare(), false), Vec::<String>::new());
}
