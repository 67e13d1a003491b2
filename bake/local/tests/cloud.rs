//! A local cloud on this host: instances behind a load balancer, under load, replaced and killed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to end")]

mod common;
#[path = "common/cloud.rs"]
mod helpers;

use std::net::SocketAddr;
use std::time::Duration;

use common::{base_disk, host};
use helpers::{GRACE, Load, PORT, TestCloud, ask, can_run, id};
use olbake_local::cloud::{Change, CloudError, InstanceSpec, Limits, Object, RecordSpec, State};

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_replaced_under_load_without_a_failed_request() {
    if !can_run() {
        return;
    }
    let test = TestCloud::new(1, base_disk().await).await;
    let (balancer, backend) = (id("lb"), id("web"));
    assert_eq!(test.cloud.ensure_balancer(test.balancer()).await.unwrap().change, Change::Created);
    let first = ["web-1", "web-2", "web-3"];
    let (one, two, three) =
        tokio::join!(test.serving(first[0]), test.serving(first[1]), test.serving(first[2]));
    for (name, address) in first.into_iter().zip([one, two, three]) {
        test.join(name, address).await;
    }
    let service = SocketAddr::from((test.network.gateway, PORT));
    let load = Load::on(service);
    load.go_on(200).await;
    for (old, new) in first.into_iter().zip(["web-4", "web-5", "web-6"]) {
        let address = test.serving(new).await;
        test.join(new, address).await;
        assert_eq!(test.cloud.drain(&balancer, &backend, &id(old)).await.unwrap(), Change::Updated);
        assert_eq!(test.cloud.drain(&balancer, &backend, &id(old)).await.unwrap(), Change::AsItIs);
        assert_eq!(test.cloud.await_drained(&balancer, &backend, &id(old), GRACE).await.unwrap(), 0);
        test.cloud.remove_member(&balancer, &backend, &id(old)).await.unwrap();
        test.cloud.terminate_instance(&id(old), GRACE).await.unwrap();
        load.go_on(100).await;
    }
    let (asked, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new(), "of {asked}");
    assert!(ask(service).await.unwrap().starts_with("web-"));
    assert_eq!(test.cloud.ensure_balancer(test.balancer()).await.unwrap().change, Change::AsItIs);
    test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_answers_later_than_it_is_asked_again_serves() {
    if !can_run() {
        return;
    }
    let test = TestCloud::new(6, base_disk().await).await;
    let balancer = test.balancer();
    let late = Duration::from_secs(2);
    assert!(balancer.health.interval < late && late < balancer.health.timeout);
    test.cloud.ensure_balancer(balancer).await.unwrap();
    let address = test.serving_after("web-1", late).await;
    test.join("web-1", address).await;
    let load = Load::on(SocketAddr::from((test.network.gateway, PORT)));
    load.go_on(24).await;
    let (asked, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new(), "of {asked}");
    test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_many_takes_the_disk_along() {
    if !can_run() {
        return;
    }
    let test = TestCloud::new(4, base_disk().await).await;
    let names = ["one", "two", "three", "four"];
    let before = test.cloud.list().await.unwrap();
    for _ in 0..3 {
        let mut tasks = tokio::task::JoinSet::new();
        for name in names {
            let (cloud, spec) = (test.cloud.clone(), test.spec(name));
            tasks.spawn(async move { cloud.ensure_instance(spec).await.map(drop) });
        }
        tasks.join_all().await.into_iter().for_each(|done| done.unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        for name in names {
            let cloud = test.cloud.clone();
            tasks.spawn(async move { cloud.terminate_instance(&id(name), std::time::Duration::ZERO).await });
        }
        tasks.join_all().await.into_iter().for_each(|done| done.unwrap());
        assert_eq!(test.cloud.list().await.unwrap(), before);
    }
    test.end().await;
}

/// The numbers of the host's processes with this name in the cloud's folder.
async fn processes(test: &TestCloud, name: &str) -> Vec<u32> {
    let found = test.cloud.list().await.unwrap().into_iter();
    found
        .filter_map(|found| match found.object {
            Object::Process(number, called) if called == name => Some(number),
            _ => None,
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_costs_nothing_or_comes_back() {
    if !can_run() {
        return;
    }
    let test = TestCloud::new(2, base_disk().await).await;
    test.cloud.ensure_balancer(test.balancer()).await.unwrap();
    let (one, two) = tokio::join!(test.serving("web-1"), test.serving("web-2"));
    test.join("web-1", one).await;
    test.join("web-2", two).await;
    let service = SocketAddr::from((test.network.gateway, PORT));

    // An instance: requests under way go to the other one.
    let load = Load::on(service);
    load.go_on(100).await;
    let pid = std::fs::read_to_string(test.folder.join("v1/instances/web-1/keeper.pid")).unwrap();
    assert!(host("kill", &["-9", pid.trim()]).0);
    load.go_on(200).await;
    let (asked, failures) = load.end().await;
    assert_eq!(failures, Vec::<String>::new(), "of {asked}");
    let view = test.cloud.inspect_instance(&id("web-1")).await.unwrap().unwrap();
    assert_eq!((view.state, view.address), (State::Stopped, Some(one)));
    assert!(matches!(
        test.cloud.exec(&id("web-1"), vec!["true".into()], GRACE).await,
        Err(CloudError::NotRunning { .. })
    ));
    // It comes back with what it wrote, and its address.
    assert_eq!(test.cloud.ensure_instance(test.spec("web-1")).await.unwrap().change, Change::Updated);
    assert_eq!(test.booted("web-1").await.address, Some(one));

    // The load balancer: its keeper starts it again, with the same members.
    let [haproxy] = processes(&test, "haproxy").await[..] else { panic!("one haproxy") };
    assert!(host("kill", &["-9", &haproxy.to_string()]).0);
    test.healthy("web-2").await;
    assert_eq!(ask(service).await.unwrap(), "web-2");
    assert_ne!(processes(&test, "haproxy").await, [haproxy]);
    // Its keeper: the next command starts it again.
    let balancer = id("lb");
    let pid = std::fs::read_to_string(test.folder.join("v1/balancers/lb/keeper.pid")).unwrap();
    assert!(host("kill", &["-9", pid.trim()]).0);
    while test.cloud.inspect_balancer(&balancer).await.unwrap().unwrap().up {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(test.cloud.ensure_balancer(test.balancer()).await.unwrap().change, Change::Updated);
    test.healthy("web-2").await;
    assert_eq!(ask(service).await.unwrap(), "web-2");
    test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_take_no_more_than_their_limits_which_can_change() {
    if !can_run() {
        return;
    }
    let test = TestCloud::new(5, base_disk().await).await;
    let unlimited = test.spec("web-1");
    let narrow = Limits { memory: Some(128 << 20), cpu_percent: Some(20) };
    let limited = InstanceSpec { limits: narrow, ..unlimited.clone() };
    assert_eq!(test.cloud.ensure_instance(limited.clone()).await.unwrap().change, Change::Created);
    test.booted("web-1").await;
    // As a service has it: a command from outside is not of the instance's group.
    let run = async |script: &str| {
        let argv = ["systemd-run", "--quiet", "--wait", "--pipe", "sh", "-c", script];
        test.cloud.exec(&id("web-1"), argv.map(str::to_owned).to_vec(), GRACE).await.unwrap()
    };
    // `tail` keeps in memory what it is to write at the end.
    let takes_memory = "head -c 300M /dev/zero | tail -c 300M | wc -c";
    let all = (300u64 << 20).to_string();
    assert_ne!(run(takes_memory).await.stdout.trim(), all);
    // Two seconds of a loop; the last line has what it was given of the processor: `0m0.391s 0m0.004s`.
    let told = run("timeout 2 sh -c 'while :; do :; done'; times").await.stdout;
    let seconds = |word: &str| word.strip_prefix("0m")?.strip_suffix('s')?.parse::<f64>().ok();
    let given: f64 = told.lines().last().unwrap().split(' ').filter_map(seconds).sum();
    assert!(0.0 < given && given < 1.0, "{told}");

    assert_eq!(test.cloud.ensure_instance(limited).await.unwrap().change, Change::AsItIs);
    assert_eq!(test.cloud.ensure_instance(unlimited).await.unwrap().change, Change::Updated);
    assert_eq!(run(takes_memory).await.stdout.trim(), all);
    test.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_in_the_network_and_follow_changes() {
    if !can_run() {
        return;
    }
    let test = TestCloud::new(3, base_disk().await).await;
    let view = test.launch("web-1").await;
    let mut spec = RecordSpec {
        id: id("db"),
        network: id("net"),
        name: "database.hello".into(),
        addresses: vec![view.address.unwrap()],
    };
    assert_eq!(test.cloud.ensure_record(spec.clone()).await.unwrap().change, Change::Created);
    assert_eq!(test.cloud.ensure_record(spec.clone()).await.unwrap().change, Change::AsItIs);
    let lookup =
        "resolvectl flush-caches; getent ahostsv4 database.hello | awk '{print $1}' | sort -u || true";
    let found = eventually(&test, lookup, &format!("{}\n", view.address.unwrap())).await;
    assert_eq!(found, format!("{}\n", view.address.unwrap()));
    spec.addresses = vec![test.network.gateway];
    assert_eq!(test.cloud.ensure_record(spec.clone()).await.unwrap().change, Change::Updated);
    let found = eventually(&test, lookup, &format!("{}\n", test.network.gateway)).await;
    assert_eq!(found, format!("{}\n", test.network.gateway));
    test.cloud.delete_record(&id("db")).await.unwrap();
    assert_eq!(eventually(&test, lookup, "").await, "");
    assert_eq!(test.cloud.inspect_record(&id("db")).await.unwrap(), None);
    test.end().await;
}

/// Runs a script until it writes what is expected, or for a while; the resolver reads its names a moment later.
async fn eventually(test: &TestCloud, script: &str, expected: &str) -> String {
    let mut found = String::new();
    for _ in 0..50 {
        found = test.shell("web-1", script).await;
        if found == expected {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    found
}
