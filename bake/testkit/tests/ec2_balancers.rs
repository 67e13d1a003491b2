//! Load balancers of the test cloud send requests to the targets that are healthy, and to nobody else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to end")]

#[path = "common/bodies.rs"]
mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use common::{Place, can_run, public_image};
use olbake_testkit::ec2::balancer::{
    Action, Check, Health, HostBalancers, Listener, LoadBalancer, LoadBalancers, Protocol, Rule, Target,
    TargetGroup,
};
use olbake_testkit::ec2::body::{Bodies, Body};
use olbake_testkit::load::Load;

const PORT: u16 = 8000;
const BALANCER: &str = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:loadbalancer/app/web/1";

/// Serves the instance's name.
const SERVICE: &str = "hostname | sudo tee /srv/index.html && \
                       sudo systemd-run --unit=service python3 -m http.server 8000 --directory /srv";

fn target(body: &Body) -> Target {
    Target { id: body.instance.clone(), address: body.address, port: PORT }
}

fn group(targets: &[&Body]) -> TargetGroup {
    let check = Check {
        protocol: Protocol::Http,
        path: "/".into(),
        port: None,
        interval: Duration::from_millis(300),
        timeout: Duration::from_millis(5000),
        healthy_threshold: 2,
        unhealthy_threshold: 2,
        matcher: "200".into(),
    };
    let targets = targets.iter().map(|body| target(body)).collect();
    TargetGroup { check, deregistration_delay: Duration::from_secs(3600), targets }
}

/// One balancer with two groups, their targets and shares; a path of its own is answered by the balancer itself.
fn balancers(groups: [(&str, &[&Body], u16); 2]) -> LoadBalancers {
    let shares: BTreeMap<String, u16> =
        groups.iter().map(|(name, _, share)| ((*name).to_owned(), *share)).collect();
    let fixed = Action::Fixed { status: 418, content_type: "text/plain".into(), body: "it's short".into() };
    let listener = Listener {
        port: PORT,
        protocol: Protocol::Http,
        rules: vec![Rule { hosts: vec![], paths: vec!["/fixed/*".into()], action: fixed }],
        default: Action::Forward(shares),
    };
    LoadBalancers {
        balancers: [(BALANCER.to_owned(), LoadBalancer { listeners: vec![listener] })].into(),
        groups: groups.iter().map(|(name, targets, _)| ((*name).to_owned(), group(targets))).collect(),
    }
}

/// The whole answer to one request; empty where none came.
fn ask(address: SocketAddr, path: &str) -> String {
    let talk = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    talk().unwrap_or_default()
}

/// Who answers how many of some requests.
fn answers(address: SocketAddr, bodies: &[&Body]) -> Vec<usize> {
    let answers: Vec<String> = (0..80).map(|_| ask(address, "/")).collect();
    let name = |body: &Body| format!("ip-{}", body.address).replace('.', "-");
    bodies
        .iter()
        .map(|body| answers.iter().filter(|answer| answer.trim_end().ends_with(&name(body))).count())
        .collect()
}

/// Waits for a state; what it is seen as until then does not matter.
async fn until(balancers: &HostBalancers, group: &str, body: &Body, wanted: impl Fn(Health) -> bool) {
    let mut last = Health::Initial;
    for _ in 0..1200 {
        last = balancers.health(group, &target(body));
        if wanted(last) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{}: {last:?}, {:?}", body.instance, balancers.problem(BALANCER));
}

/// Waits until answers are as they are to be: a balancer is told a moment after a health is known.
async fn until_answers(address: SocketAddr, bodies: &[&Body], wanted: impl Fn(&[usize]) -> bool) {
    let mut last = Vec::new();
    for _ in 0..100 {
        last = answers(address, bodies);
        if wanted(&last) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_where_they_are_to_go_and_none_is_lost() {
    if !can_run() {
        return;
    }
    let image = public_image().await;
    let place = Place::new(4);
    let (one, two) = (place.body(11, &image.disk).await, place.body(12, &image.disk).await);
    tokio::join!(place.up(&one), place.up(&two));
    let served = HostBalancers::open(&place.path.join("balancers")).unwrap();
    let address = SocketAddr::from((served.address(BALANCER), PORT));
    assert_eq!(served.health("a", &target(&one)), Health::NotRegistered);
    served.apply(&balancers([("a", &[&one], 1), ("b", &[&two], 1)]));
    // Nothing listens there yet.
    until(&served, "a", &one, |health| matches!(health, Health::Unhealthy(_))).await;
    for body in [&one, &two] {
        place.ssh(body, "admin", SERVICE).unwrap();
    }
    until(&served, "a", &one, |health| health == Health::Healthy).await;
    until(&served, "b", &two, |health| health == Health::Healthy).await;

    // Shares of groups.
    let both = [&one, &two];
    until_answers(address, &both, |counts| counts == [40, 40]).await;
    let fixed = ask(address, "/fixed/one");
    assert!(fixed.starts_with("HTTP/1.1 418") && fixed.ends_with("it's short"), "{fixed}");
    let load = Load::start(address, "/", 50);
    served.apply(&balancers([("a", &[&one], 3), ("b", &[&two], 1)]));
    until_answers(address, &both, |counts| counts[0] > 50 && counts[1] > 10).await;
    served.apply(&balancers([("a", &[&one], 1), ("b", &[&two], 0)]));
    until_answers(address, &both, |counts| counts == [80, 0]).await;

    // One drains, and comes back.
    served.apply(&balancers([("a", &[&one, &two], 1), ("b", &[], 0)]));
    until(&served, "a", &two, |health| health == Health::Healthy).await;
    until_answers(address, &both, |counts| counts == [40, 40]).await;
    served.apply(&balancers([("a", &[&two], 1), ("b", &[], 0)]));
    assert_eq!(served.health("a", &target(&one)), Health::Draining);
    until_answers(address, &both, |counts| counts == [0, 80]).await;
    served.apply(&balancers([("a", &[&one, &two], 1), ("b", &[], 0)]));
    until(&served, "a", &one, |health| health == Health::Healthy).await;
    until_answers(address, &both, |counts| counts == [40, 40]).await;

    // One dies.
    place.bodies.end(&one.instance).await.unwrap();
    until(&served, "a", &one, |health| matches!(health, Health::Unhealthy(_))).await;
    until_answers(address, &both, |counts| counts == [0, 80]).await;
    let report = load.stop();
    assert!(report.sent > 100, "{report:?}");
    assert_eq!(report.failures, [], "of {}", report.sent);

    // Nothing is left to ask.
    served.apply(&LoadBalancers::default());
    let mut gone = false;
    for _ in 0..200 {
        gone = TcpStream::connect(address).is_err();
        if gone {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(gone, "it still listens");
}
