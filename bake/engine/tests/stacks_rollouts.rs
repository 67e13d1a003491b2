//! Rollouts of groups through the whole engine: releases that fail, that are overtaken, instances that get lost,
//! and what operators wish.
#![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use olbake_core::rollout::simulate::{Model, simulate};
use olbake_core::rollout::{Availability, Event, Lien, Outcome, Refusal, Rollout, Stage, Wish};
use olbake_core::stack::plan::{Act, Reason};
use olbake_core::stack::planner::Wishes;
use olbake_core::stack::state::Applied;
use olbake_core::stack::{Declaration, ResourceName};
use olbake_engine::stack::{Change, Changed, HookCommand, Preview, Refresh, StackError, StackEvent};
use olbake_engine::state::Takeover;
use olbake_testkit::cloud::{Among, Chosen, Cloud, Extent, Fault, Manner, World};
use olbake_testkit::stacks::{Hello, image};
use serde_json::{Value, json};

fn web() -> ResourceName {
    "web".parse().unwrap()
}

fn standing(hello: &Hello) -> Arc<Cloud> {
    let cloud = Cloud::new();
    cloud.bring(&hello.declare());
    settled(&cloud, &hello.declare());
    cloud.with(World::watch);
    cloud
}

fn deploy(cloud: &Arc<Cloud>, declaration: &Declaration) -> Result<Changed, StackError> {
    cloud.deploy(declaration, &Wishes::default(), Takeover::Refuse).unwrap()
}

#[track_caller]
fn settled(cloud: &Arc<Cloud>, declaration: &Declaration) {
    assert_eq!(cloud.check_settled(declaration, false), Vec::<String>::new());
}

fn two(hello: &Hello) -> Hello {
    Hello { image: "two", ..hello.clone() }
}

fn group(cloud: &Arc<Cloud>, declaration: &Declaration) -> Applied {
    cloud.state(declaration).resources[&web()].clone()
}

/// The outcome of the one rollout that failed.
fn failed_rollout(result: Result<Changed, StackError>) -> String {
    let Err(StackError::Failed { mut failures, .. }) = result else { panic!("{result:?}") };
    let Some((_, StackError::Rollout { outcome, .. })) = failures.pop() else { panic!("{failures:?}") };
    assert!(failures.is_empty(), "{failures:?}");
    outcome
}

fn strategies() -> [Value; 5] {
    [
        json!({"kind": "rolling"}),
        json!({"kind": "blue_green", "weights": [50, 100], "bake": "1s", "keep_old": "1s"}),
        json!({"kind": "canary", "steps": ["1"], "bake": "1s"}),
        json!({"kind": "quorum"}),
        json!({"kind": "recreate"}),
    ]
}

/// Every strategy, and everything that can be wrong with an image.
#[test]
fn a_release_that_fails_is_taken_back() {
    let wrong = [
        Manner::NeverBoots,
        Manner::FailsHealth,
        Manner::Sours(Duration::from_secs(3)),
        Manner::Dies(Duration::from_millis(2500)),
    ];
    for strategy in strategies() {
        let before = Hello { strategy: strategy.clone(), ..Hello::default() };
        let prepared = standing(&before);
        for manner in wrong {
            let cloud = prepared.fork();
            cloud.with(|world| world.manners.insert(image("two"), manner));
            cloud.with(World::watch);
            let outcome = failed_rollout(deploy(&cloud, &two(&before).declare()));
            let what = format!("{strategy} {manner:?}: {outcome}");
            assert!(outcome.starts_with("rolled back: "), "{what}");
            assert_eq!(cloud.with(|world| world.images(&web())), [image("one"); 3], "{what}");
            let group = group(&cloud, &before.declare()).group.unwrap();
            assert!(group.refused.is_some() && group.instances.len() == 3, "{what}");
            let careful = matches!(strategy["kind"].as_str(), Some("rolling" | "blue_green" | "canary"));
            if careful && matches!(manner, Manner::NeverBoots | Manner::FailsHealth) {
                let extent = cloud.with(|world| world.extent(&web())).unwrap();
                assert_eq!(extent.least, 3, "nothing that served was given up: {what}");
            }
            // It is still declared, so it is still to be done.
            let plan = cloud.preview(&two(&before).declare(), &Wishes::default()).unwrap().plan;
            assert_eq!(
                plan.actions.iter().map(|action| action.act.clone()).collect::<Vec<_>>(),
                [Act::Roll],
                "{what}"
            );
            // And with the old image declared there is nothing to roll.
            deploy(&cloud, &before.declare()).unwrap();
            settled(&cloud, &before.declare());
        }
    }
}

#[test]
fn a_first_release_that_fails_leaves_no_instance() {
    let hello = Hello::default();
    let cloud = Cloud::new();
    cloud.with(|world| world.manners.insert(image("one"), Manner::NeverBoots));
    failed_rollout(deploy(&cloud, &hello.declare()));
    assert_eq!(cloud.with(|world| world.instances.len()), 0);
    cloud.with(|world| world.manners.clear());
    deploy(&cloud, &hello.declare()).unwrap();
    settled(&cloud, &hello.declare());
}

/// A rollout is cut short anywhere, and another release is wanted by then.
#[test]
fn a_release_is_overtaken_by_another() {
    for strategy in strategies() {
        let before = Hello { strategy, ..Hello::default() };
        let prepared = standing(&before);
        let cloud = prepared.fork();
        deploy(&cloud, &two(&before).declare()).unwrap();
        for number in 0..cloud.faults.count(Among::Instances) {
            let cloud = prepared.fork();
            cloud.faults.choose(Some(Chosen { among: Among::Instances, number, fault: Fault::HangAfter }));
            assert!(cloud.deploy(&two(&before).declare(), &Wishes::default(), Takeover::Refuse).is_none());
            cloud.faults.choose(None);
            let three = Hello { image: "three", ..before.clone() }.declare();
            let ended = cloud.deploy(&three, &Wishes::default(), Takeover::Force).unwrap();
            assert!(ended.is_ok(), "{:?} {number}: {ended:?}", before.strategy);
            settled(&cloud, &three);
        }
    }
}

/// A rollout that goes back is cut short anywhere.
#[test]
fn going_back_is_gone_on_with() {
    let before = Hello::default();
    let after = two(&before).declare();
    let prepared = standing(&before);
    prepared.with(|world| world.manners.insert(image("two"), Manner::Sours(Duration::from_secs(4))));
    let cloud = prepared.fork();
    failed_rollout(deploy(&cloud, &after));
    for number in 0..cloud.faults.count(Among::Instances) {
        let cloud = prepared.fork();
        cloud.faults.choose(Some(Chosen { among: Among::Instances, number, fault: Fault::HangAfter }));
        assert!(cloud.deploy(&after, &Wishes::default(), Takeover::Refuse).is_none());
        cloud.faults.choose(None);
        failed_rollout(cloud.deploy(&after, &Wishes::default(), Takeover::Force).unwrap());
        assert_eq!(cloud.with(|world| world.images(&web())), [image("one"); 3], "{number}");
        deploy(&cloud, &before.declare()).unwrap();
        settled(&cloud, &before.declare());
    }
}

#[test]
fn a_group_grows_and_shrinks() {
    for strategy in strategies() {
        let hello = Hello { strategy, ..Hello::default() };
        let cloud = standing(&hello);
        for size in [5, 2, 0, 1] {
            let sized = Hello { size, ..hello.clone() }.declare();
            deploy(&cloud, &sized).unwrap();
            settled(&cloud, &sized);
        }
    }
}

#[test]
fn what_gets_lost_comes_back() {
    let hello = Hello::default();
    let prepared = standing(&hello);
    let ways: [fn(&mut World); 3] = [
        |world| drop(world.instances.pop_first()),
        |world| world.instances.values_mut().next().unwrap().stopped = true,
        // The balancer was started anew and knows nobody.
        |world| world.instances.values_mut().for_each(|instance| instance.attached = None),
    ];
    for lose in ways {
        let cloud = prepared.fork();
        cloud.with(lose);
        let plan = cloud.preview(&hello.declare(), &Wishes::default()).unwrap().plan;
        assert!(
            matches!(&plan.actions[..], [one] if one.act == Act::Roll && matches!(one.reasons[..], [Reason::Instances { .. }]))
        );
        deploy(&cloud, &hello.declare()).unwrap();
        settled(&cloud, &hello.declare());
    }
}

/// Another balancer takes the instances over before the old one goes; none is replaced for it.
#[test]
fn a_replaced_balancer_gets_the_instances() {
    let hello = Hello::default();
    let cloud = standing(&hello);
    let instances = cloud.with(|world| world.instances.keys().cloned().collect::<Vec<_>>());
    let wishes = Wishes { replace: [("front").parse().unwrap()].into(), ..Wishes::default() };
    cloud.deploy(&hello.declare(), &wishes, Takeover::Refuse).unwrap().unwrap();
    settled(&cloud, &hello.declare());
    assert_eq!(cloud.with(|world| world.instances.keys().cloned().collect::<Vec<_>>()), instances);
}

/// What a rollout that was held left behind does not count as what ran before.
#[test]
fn after_a_held_rollout_the_group_has_the_size_that_it_had() {
    let hello = Hello::default();
    let cloud = standing(&hello);
    let after = two(&hello).declare();
    let held = wished(&cloud, &after, |events| match events {
        0..4 => Wish::Go,
        _ => Wish::AbortAndHold,
    });
    failed_rollout(held);
    assert!(cloud.with(|world| world.instances.len()) > 3);
    cloud.with(|world| world.manners.insert(image("three"), Manner::FailsHealth));
    failed_rollout(deploy(&cloud, &Hello { image: "three", ..hello.clone() }.declare()));
    assert_eq!(cloud.with(|world| world.images(&web())), [image("one"); 3]);
}

/// A change during which an operator wishes something, by how many instances changed their stage.
fn wished(
    cloud: &Arc<Cloud>,
    declaration: &Declaration,
    wish: impl Fn(usize) -> Wish + Send + Sync + 'static,
) -> Result<Changed, StackError> {
    let (mut stacks, options) = cloud.process();
    let stages = Arc::new(Mutex::new(0_usize));
    let heard = stages.clone();
    stacks.site.listener = Arc::new(move |event| {
        if matches!(event, StackEvent::Rollout { rollout: Event::Stage { stage, .. }, .. } if stage != Stage::Found)
        {
            *heard.lock().unwrap() += 1;
        }
    });
    stacks.site.wishes = Arc::new(move |_, _| wish(*stages.lock().unwrap()));
    let wishes = Wishes::default();
    let change = Change {
        declaration,
        wishes: &wishes,
        refresh: Refresh::Look,
        expected: None,
        approve: &|_: &Preview| Ok(()),
    };
    cloud.run(async move { stacks.change(&change, options).await }).unwrap()
}

#[test]
fn an_operator_aborts() {
    let hello = Hello::default();
    let prepared = standing(&hello);
    for events in [1, 4, 8, 12] {
        let cloud = prepared.fork();
        cloud.with(World::watch);
        let after = two(&hello).declare();
        failed_rollout(wished(
            &cloud,
            &after,
            move |seen| if seen < events { Wish::Go } else { Wish::Abort },
        ));
        assert_eq!(cloud.with(|world| world.images(&web())), [image("one"); 3]);
        assert_eq!(cloud.with(|world| world.extent(&web())), Some(Extent { least: 3, most: 4 }));
    }
}

/// However long the pause is, nothing is late because of it.
#[test]
fn an_operator_pauses() {
    let hello = Hello::default();
    let cloud = standing(&hello);
    let after = two(&hello).declare();
    let asked = Mutex::new(0);
    let outcome = wished(&cloud, &after, move |seen| {
        let mut asked = asked.lock().unwrap();
        *asked += usize::from(seen >= 5);
        // A quarter of an hour, longer than anything may take.
        if (1..3000).contains(&*asked) { Wish::Pause } else { Wish::Go }
    });
    outcome.unwrap();
    settled(&cloud, &after);
}

#[test]
fn what_cannot_be_undone_is_not_begun() {
    let hello = Hello::default();
    let cloud = standing(&hello);
    cloud.settings().availability.insert(image("one"), Availability::Missing);
    let Err(StackError::Failed { failures, .. }) = deploy(&cloud, &two(&hello).declare()) else {
        panic!("it was begun")
    };
    assert!(matches!(failures[..], [(_, StackError::Preflight(_))]), "{failures:?}");
    assert_eq!(cloud.with(|world| world.images(&web())), [image("one"); 3]);
}

#[test]
fn where_there_is_no_room_nothing_is_begun() {
    let hello = Hello::default();
    let cloud = standing(&hello);
    cloud.settings().room = Some(0);
    let Err(StackError::Failed { failures, .. }) = deploy(&cloud, &two(&hello).declare()) else {
        panic!("it was begun")
    };
    let [(_, StackError::Preflight(refused))] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!(refused.refusals, [Refusal::NoRoom { needed: 1, room: 0 }]);
    assert_eq!(cloud.with(|world| world.images(&web())), [image("one"); 3]);
    // One place more is enough, and what was refused is done by the next deploy.
    cloud.settings().room = Some(1);
    deploy(&cloud, &two(&hello).declare()).unwrap();
    settled(&cloud, &two(&hello).declare());
}

/// The new image, and the one to go back to.
#[test]
fn where_an_image_is_damaged_nothing_is_begun() {
    let hello = Hello::default();
    let cloud = standing(&hello);
    for damaged in ["one", "two"] {
        cloud.settings().damaged = BTreeSet::from([image(damaged)]);
        let Err(StackError::Failed { failures, .. }) = deploy(&cloud, &two(&hello).declare()) else {
            panic!("it was begun")
        };
        let [(_, StackError::Provider { source, .. })] = &failures[..] else { panic!("{failures:?}") };
        assert!(source.to_string().contains(&image(damaged).to_string()), "{source}");
        assert_eq!(cloud.with(|world| world.images(&web())), [image("one"); 3]);
    }
    cloud.settings().damaged.clear();
    deploy(&cloud, &two(&hello).declare()).unwrap();
    settled(&cloud, &two(&hello).declare());
}

/// What `--simulate` runs begins as the rollout itself does: with the instances that run, hooks, liens and room.
#[test]
fn a_rehearsal_begins_as_the_rollout_does() {
    let hello = Hello::default();
    let cloud = standing(&hello);
    let after = two(&hello).declare();
    let hook = HookCommand { argv: vec!["backup".to_owned()], limit: Duration::from_secs(10) };
    cloud.settings().hooks.insert(image("one"), vec![hook]);
    cloud.settings().liens = BTreeSet::from([Lien::PinnedCapacity]);
    cloud.settings().room = Some(2);
    let rehearse = |declaration: &Declaration| {
        let preview = cloud.preview(declaration, &Wishes::default()).unwrap();
        let (stacks, _) = cloud.process();
        cloud.run(async { stacks.rehearse(&declaration.stack, &preview).await }).unwrap().unwrap()
    };
    assert!(rehearse(&hello.declare()).is_empty(), "nothing is to be rolled out");
    let rehearsed = rehearse(&after);
    let [(name, Some(request))] = rehearsed.iter().collect::<Vec<_>>()[..] else { panic!("{rehearsed:?}") };
    assert_eq!(*name, web());
    // The rollout writes down what it begins with before it does anything.
    cloud.faults.choose(Some(Chosen { among: Among::Instances, number: 0, fault: Fault::HangBefore }));
    assert!(cloud.deploy(&after, &Wishes::default(), Takeover::Refuse).is_none());
    cloud.faults.choose(None);
    let begun: Rollout = serde_json::from_value(group(&cloud, &after).rollout.unwrap()).unwrap();
    assert_eq!(begun.request(), request);
    let simulated = simulate(request.clone(), Model::default()).unwrap();
    assert_eq!(simulated.outcome, Some(Outcome::Succeeded));
    assert!(simulated.timeline.iter().all(|row| row.census.serving >= 3), "{simulated}");
}

#[test]
fn instances_that_leave_do_what_their_image_wants_first() {
    let hello = Hello::default();
    let cloud = standing(&hello);
    let command = vec!["backup".to_owned()];
    let hook = HookCommand { argv: command.clone(), limit: Duration::from_secs(10) };
    cloud.settings().hooks.insert(image("one"), vec![hook]);
    let old = cloud.with(|world| world.instances.keys().cloned().collect::<Vec<_>>());
    deploy(&cloud, &two(&hello).declare()).unwrap();
    settled(&cloud, &two(&hello).declare());
    let mut ran = cloud.with(|world| world.ran.clone());
    ran.sort();
    assert_eq!(ran, old.into_iter().map(|instance| (instance, command.clone())).collect::<Vec<_>>());
}

/// Bounds that are in the way of a rollout can be changed while it is under way.
#[test]
fn a_rollout_that_cannot_end_is_begun_anew_within_other_bounds() {
    let hello = Hello::default();
    let cloud = standing(&hello);
    let after = two(&hello);
    cloud.faults.choose(Some(Chosen { among: Among::Instances, number: 2, fault: Fault::HangAfter }));
    assert!(cloud.deploy(&after.declare(), &Wishes::default(), Takeover::Refuse).is_none());
    cloud.faults.choose(None);
    let other = Hello { strategy: json!({"kind": "recreate"}), ..after };
    cloud.deploy(&other.declare(), &Wishes::default(), Takeover::Force).unwrap().unwrap();
    settled(&cloud, &other.declare());
}
