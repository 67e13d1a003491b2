//! A process that changes a stack is killed at every call of journal and cloud; the next one finishes without a
//! person. Nothing is lost, nothing is doubled, nothing is left behind, and the state is sound after each kill.
#![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

use std::collections::BTreeSet;
use std::sync::Arc;

use olbake_core::Digest;
use olbake_core::rollout::Lien;
use olbake_core::stack::Declaration;
use olbake_core::stack::planner::Wishes;
use olbake_engine::state::Takeover;
use olbake_testkit::cloud::{Among, Chosen, Cloud, Extent, Fault, Nature, World};
use olbake_testkit::stacks::Hello;
use serde_json::{Value, json};

/// A change that is cut short everywhere.
struct Sweep {
    /// What is there before; none: nothing.
    before: Option<Hello>,
    /// What is to be; none: nothing.
    after: Option<Hello>,
    /// How many instances serve at least, and are there at most, whatever happens.
    bounds: Option<Extent>,
}

impl Sweep {
    fn declaration(&self) -> Declaration {
        self.after.clone().or(self.before.clone()).unwrap().declare()
    }

    fn wishes(&self) -> Wishes {
        Wishes { destroy: self.after.is_none(), ..Wishes::default() }
    }

    fn prepare(&self) -> Arc<Cloud> {
        let cloud = Cloud::new();
        cloud.settings().liens = BTreeSet::from([Lien::RaisedMaximum, Lien::SuspendedProcesses]);
        if let Some(Hello { import: Some(name), cidr, note, .. }) = self.after {
            let there = json!({"cidr": cidr, "note": note}).as_object().unwrap().clone();
            cloud.with(|world| world.foreign.insert(name.to_owned(), there));
        }
        if let Some(before) = &self.before {
            cloud.bring(&before.declare());
        }
        cloud.with(World::watch);
        cloud
    }

    /// What each call does that the change makes when nothing happens.
    fn calls(&self, prepared: &Cloud) -> Vec<Nature> {
        let cloud = prepared.fork();
        cloud.deploy(&self.declaration(), &self.wishes(), Takeover::Refuse).unwrap().unwrap();
        let calls = cloud.faults.boundaries();
        self.check(&cloud, "nothing went wrong");
        calls
    }

    fn check(&self, cloud: &Arc<Cloud>, when: &str) {
        let problems = cloud.check_settled(&self.declaration(), self.after.is_none());
        assert!(problems.is_empty(), "{when}: {problems:#?}\n{:#?}", last_calls(cloud));
        let Some(bounds) = self.bounds else { return };
        let extent = cloud.with(|world| world.extent(&"web".parse().unwrap())).unwrap();
        assert!(extent.least >= bounds.least && extent.most <= bounds.most, "{when}: {extent:?}");
    }

    /// Is killed at one call. None: what that leaves was left by another kill already.
    fn kill(&self, prepared: &Cloud, chosen: Chosen, left: &mut BTreeSet<Digest>) -> Option<Arc<Cloud>> {
        let cloud = prepared.fork();
        cloud.faults.choose(Some(chosen));
        let ended = cloud.deploy(&self.declaration(), &self.wishes(), Takeover::Refuse);
        assert!(ended.is_none(), "{chosen:?}: it went on to {ended:?}");
        left.insert(cloud.fingerprint()).then_some(cloud)
    }

    /// Goes on after a kill, by waiting for the lease to end or by force.
    fn go_on(&self, cloud: &Arc<Cloud>, chosen: Chosen) {
        let when = format!("killed at call {} ({:?})", chosen.number, chosen.fault);
        cloud.faults.choose(None);
        assert_eq!(cloud.state(&self.declaration()).lint(), Vec::<String>::new(), "{when}");
        let takeover = if chosen.number.is_multiple_of(2) { Takeover::Refuse } else { Takeover::Force };
        if takeover == Takeover::Refuse {
            cloud.let_leases_end();
        }
        let ended = cloud.deploy(&self.declaration(), &self.wishes(), takeover).unwrap();
        assert!(ended.is_ok(), "{when}: {ended:?}\n{:#?}", last_calls(cloud));
        self.check(cloud, &when);
    }

    fn run(&self) {
        let prepared = self.prepare();
        let mut left = BTreeSet::new();
        for (number, nature) in self.calls(&prepared).into_iter().enumerate() {
            for fault in faults(nature) {
                let chosen = Chosen { among: Among::Boundaries, number, fault: *fault };
                if let Some(cloud) = self.kill(&prepared, chosen, &mut left) {
                    self.go_on(&cloud, chosen);
                }
            }
        }
    }
}

impl Sweep {
    /// Is killed at some calls, and who goes on is killed at some calls too, before a third finishes.
    fn run_twice(&self) {
        let prepared = self.prepare();
        let calls = self.calls(&prepared).len();
        let mut left = BTreeSet::new();
        let after = |number| Chosen { among: Among::Boundaries, number, fault: Fault::HangAfter };
        for first in (0..calls).step_by(6) {
            for second in (0..).map(|step| step * 9 + first % 9) {
                let cloud = prepared.fork();
                cloud.faults.choose(Some(after(first)));
                assert!(cloud.deploy(&self.declaration(), &self.wishes(), Takeover::Refuse).is_none());
                cloud.faults.choose(Some(after(second)));
                let ended = cloud.deploy(&self.declaration(), &self.wishes(), Takeover::Force);
                if let Some(ended) = ended {
                    assert!(ended.is_ok(), "killed at {first}: {ended:?}");
                    break;
                }
                if left.insert(cloud.fingerprint()) {
                    self.go_on(&cloud, after(second));
                }
            }
        }
    }
}

/// How a process can be killed at a call: not to hear what was read is the same as not to ask.
fn faults(nature: Nature) -> &'static [Fault] {
    match nature {
        Nature::Read => &[Fault::HangBefore],
        Nature::Journal | Nature::Instance => &[Fault::HangBefore, Fault::HangAfter],
        Nature::Object => &[Fault::HangBefore, Fault::HangHalfway, Fault::HangAfter],
    }
}

fn last_calls(cloud: &Arc<Cloud>) -> Vec<String> {
    let calls = cloud.faults.calls();
    calls[calls.len().saturating_sub(60)..]
        .iter()
        .map(|call| format!("{}: {}", call.process, call.what))
        .collect()
}

fn with(strategy: Value) -> Hello {
    Hello { strategy, ..Hello::default() }
}

#[test]
fn create() {
    Sweep { before: None, after: Some(Hello::default()), bounds: None }.run();
}

/// What somebody else made is taken in once, and never made a second time.
#[test]
fn import() {
    let after = Hello { import: Some("net-1"), ..Hello::default() };
    Sweep { before: None, after: Some(after), bounds: None }.run();
}

#[test]
fn destroy() {
    Sweep { before: Some(Hello::default()), after: None, bounds: None }.run();
}

/// A new network takes everything along: balancer and group are made first, the volume goes first.
#[test]
fn replace() {
    let after = Hello { cidr: "10.1.0.0/24", ..Hello::default() };
    Sweep { before: Some(Hello::default()), after: Some(after), bounds: None }.run();
}

#[test]
fn replace_twice() {
    let after = Hello { cidr: "10.1.0.0/24", ..Hello::default() };
    Sweep { before: Some(Hello::default()), after: Some(after), bounds: None }.run_twice();
}

#[test]
fn rolling_twice() {
    let after = Hello { image: "two", ..Hello::default() };
    let bounds = Some(Extent { least: 3, most: 4 });
    Sweep { before: Some(Hello::default()), after: Some(after), bounds }.run_twice();
}

#[test]
fn update() {
    let after = Hello { note: "second", size: 4, ..Hello::default() };
    let bounds = Some(Extent { least: 3, most: 4 });
    Sweep { before: Some(Hello::default()), after: Some(after), bounds }.run();
}

fn roll(strategy: &Value, least: usize, most: usize) {
    let before = with(strategy.clone());
    let after = Hello { image: "two", ..before.clone() };
    Sweep { before: Some(before), after: Some(after), bounds: Some(Extent { least, most }) }.run();
}

#[test]
fn rolling() {
    roll(&json!({"kind": "rolling"}), 3, 4);
}

#[test]
fn blue_green() {
    roll(&json!({"kind": "blue_green", "weights": [50, 100], "bake": "1s", "keep_old": "1s"}), 3, 6);
}

#[test]
fn canary() {
    roll(&json!({"kind": "canary", "steps": ["1"], "bake": "1s"}), 3, 4);
}

#[test]
fn quorum() {
    roll(&json!({"kind": "quorum"}), 2, 3);
}

#[test]
fn recreate() {
    roll(&json!({"kind": "recreate"}), 0, 3);
}
