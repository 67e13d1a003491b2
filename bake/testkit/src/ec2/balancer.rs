//! Load balancers that work: health checks against instances' addresses, and HAProxy for the requests.
//!
//! The proxy says what there is to be, as often as it likes ([`HostBalancers::apply`]); everything else follows. When
//! a check's result or what is to be changes, each balancer's HAProxy is told which targets it has now; only where
//! listeners or rules change, a new one takes over. A balancer listens on an
//! address of its own in 127.0.0.0/8: names of load balancers are answered by nobody here. HTTPS listeners are not
//! served. Main types: [`LoadBalancers`], [`HostBalancers`].

mod check;
mod haproxy;
mod health;
mod serve;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::body::BodyError;
use haproxy::Plan;
pub use health::Health;
use health::Record;
use serve::Serving;

/// All load balancers of a cloud, and where they send requests to; by their ARNs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancers {
    /// The balancers.
    pub balancers: BTreeMap<String, LoadBalancer>,
    /// The target groups.
    pub groups: BTreeMap<String, TargetGroup>,
}

/// One load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancer {
    /// Where it listens.
    pub listeners: Vec<Listener>,
}

/// A port, and what becomes of what arrives there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Tried in this order, for HTTP.
    pub rules: Vec<Rule>,
    /// For what no rule is for.
    pub default: Action,
}

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Requests.
    Http,
    /// Connections.
    Tcp,
}

/// A rule of a listener: holds where every list of conditions that is not empty has one that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Patterns of host names, with `*` and `?`.
    pub hosts: Vec<String>,
    /// Patterns of paths, with `*` and `?`.
    pub paths: Vec<String>,
    /// What then.
    pub action: Action,
}

/// What becomes of a request or connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to a target of these groups, with their shares: 0 to 999.
    Forward(BTreeMap<String, u16>),
    /// It is answered.
    Fixed {
        /// The status: 404.
        status: u16,
        /// What the body is.
        content_type: String,
        /// The body.
        body: String,
    },
    /// It is sent elsewhere.
    Redirect {
        /// 301 or 302.
        status: u16,
        /// Where: `https://other/path`.
        location: String,
    },
}

/// A target group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetGroup {
    /// How targets are found healthy.
    pub check: Check,
    /// How long a target that is taken out may still finish what it does.
    pub deregistration_delay: Duration,
    /// Who is in it.
    pub targets: BTreeSet<Target>,
}

/// How a target's health is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// HTTP asks for a path; TCP only connects.
    pub protocol: Protocol,
    /// The path.
    pub path: String,
    /// The port; absent: the one of the target.
    pub port: Option<u16>,
    /// The time between two checks.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How many good ones in a row make an unhealthy target healthy. A new one needs a single one.
    pub healthy_threshold: u16,
    /// How many bad ones in a row make it unhealthy.
    pub unhealthy_threshold: u16,
    /// Which statuses are good: `200-299,301`.
    pub matcher: String,
}

/// An instance, or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// As it was registered: an instance's id or an address.
    pub id: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// The load balancers of one test cloud. Clones are the same. Dropping the last one ends them.
#[derive(Clone)]
pub struct HostBalancers(Arc<Conductor>);

struct Conductor {
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    folder: Utf8PathBuf,
    wanted: Mutex<Wanted>,
    /// Rung when there may be other configurations to serve.
    bell: Notify,
}

/// What is to be, and what is known of it.
#[derive(Default)]
struct Wanted {
    balancers: LoadBalancers,
    records: BTreeMap<(String, Target), Record>,
    /// What could not be served, and why, since it was last tried.
    problems: BTreeMap<String, String>,
}

impl HostBalancers {
    /// The balancers of a cloud that has its files in a folder. To be called within a runtime.
    pub fn open(folder: &Utf8Path) -> Result<Self, BodyError> {
        let failed = format!("cannot make the folder of load balancers `{folder}`");
        std::fs::create_dir_all(folder).map_err(BodyError::because(failed))?;
        let state = State { folder: folder.to_owned(), wanted: Mutex::default(), bell: Notify::new() };
        let state = Arc::new(state);
        let task = tokio::spawn(conduct(Arc::clone(&state)));
        Ok(Self(Arc::new(Conductor { state, task })))
    }

    /// Makes these all there are. Returns before the first check of a new target, and before requests are served by
    /// it; see [`Self::health`].
    pub fn apply(&self, balancers: &LoadBalancers) {
        let state = &self.0.state;
        let mut wanted = state.wanted();
        wanted.balancers = balancers.clone();
        wanted.follow(state, Instant::now());
        drop(wanted);
        state.bell.notify_one();
    }

    /// The health of a target in a group, as EC2 would tell it.
    pub fn health(&self, group: &str, target: &Target) -> Health {
        let wanted = self.0.state.wanted();
        let record = wanted.records.get(&(group.to_owned(), target.clone()));
        record.map_or(Health::NotRegistered, |record| record.health(Instant::now()))
    }

    /// Where a balancer is, given its ARN; it need not exist.
    pub fn address(&self, balancer: &str) -> Ipv4Addr {
        address(&self.0.state.folder, balancer)
    }

    /// Why a balancer is not served as it is to be; `None`: it is, or soon will be.
    pub fn problem(&self, balancer: &str) -> Option<String> {
        self.0.state.wanted().problems.get(balancer).cloned()
    }
}

impl Drop for Conductor {
    fn drop(&mut self) {
        self.task.abort();
        // The checks hold the state.
        self.state.wanted().records.clear();
    }
}

impl State {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what a check said.
    fn checked(&self, group: &str, target: &Target, result: Result<(), health::Reason>) {
        let mut wanted = self.wanted();
        let Some(check) = wanted.balancers.groups.get(group).map(|group| group.check.clone()) else { return };
        let Some(record) = wanted.records.get_mut(&(group.to_owned(), target.clone())) else { return };
        if record.checked(&check, result) {
            self.bell.notify_one();
        }
    }
}

impl Wanted {
    /// Brings records to what is to be: new targets are checked, those that left drain and are forgotten.
    fn follow(&mut self, state: &Arc<State>, now: Instant) {
        let used = self.balancers.groups_in_use();
        for (name, group) in &self.balancers.groups {
            for target in &group.targets {
                let record = self.records.entry((name.clone(), target.clone())).or_insert_with(Record::new);
                record.register();
                if !used.contains(name) {
                    record.stop_checks();
                } else if !record.is_checked_by(&group.check) {
                    let checks =
                        check::go_on(Arc::clone(state), name.clone(), target.clone(), group.check.clone());
                    record.start_checks(group.check.clone(), checks);
                }
            }
        }
        let groups = &self.balancers.groups;
        self.records.retain(|(name, target), record| {
            let Some(group) = groups.get(name) else { return false };
            if !group.targets.contains(target) {
                record.deregister(now + group.deregistration_delay);
            }
            !record.is_gone(now)
        });
    }

    /// The targets of a group that get requests: the healthy ones, or if there is none, those that were found not to
    /// be; never one that nothing is known of yet.
    fn usable<'a>(&'a self, group: &'a str) -> Vec<&'a Target> {
        let of = |wanted: fn(&Record) -> bool| -> Vec<&Target> {
            let records = self.records.iter().filter(|((name, _), record)| name == group && wanted(record));
            records.map(|((_, target), _)| target).collect()
        };
        let healthy = of(Record::is_healthy);
        if healthy.is_empty() { of(Record::is_unhealthy) } else { healthy }
    }
}

impl LoadBalancers {
    fn groups_in_use(&self) -> BTreeSet<String> {
        let listeners = self.balancers.values().flat_map(|balancer| &balancer.listeners);
        let actions = listeners.flat_map(|listener| {
            listener.rules.iter().map(|rule| &rule.action).chain(std::iter::once(&listener.default))
        });
        actions
            .filter_map(|action| match action {
                Action::Forward(groups) => Some(groups.keys().cloned()),
                Action::Fixed { .. } | Action::Redirect { .. } => None,
            })
            .flatten()
            .collect()
    }
}

/// Serves what is to be served, again whenever that may have changed.
async fn conduct(state: Arc<State>) {
    let mut serving: BTreeMap<String, Serving> = BTreeMap::new();
    loop {
        let plans = plans(&state);
        serving.retain(|balancer, _| plans.contains_key(balancer));
        for (balancer, plan) in plans {
            let folder = state.folder.join(Digest::of(balancer.as_bytes()).short());
            let one = serving.entry(balancer.clone()).or_insert_with(|| Serving::new(folder));
            let served = one.serve(plan).await;
            let mut wanted = state.wanted();
            match served {
                Ok(()) => wanted.problems.remove(&balancer),
                Err(problem) => wanted.problems.insert(balancer, problem),
            };
        }
        state.bell.notified().await;
    }
}

fn plans(state: &State) -> BTreeMap<String, Plan> {
    let wanted = state.wanted();
    let balancers = wanted.balancers.balancers.iter();
    balancers
        .map(|(name, balancer)| {
            (name.clone(), haproxy::plan(balancer, address(&state.folder, name), &wanted))
        })
        .collect()
}

/// An address that nothing else on the host is likely to have: none of the first or the last.
fn address(folder: &Utf8Path, balancer: &str) -> Ipv4Addr {
    let digest = Digest::of(format!("{folder} {balancer}").as_bytes());
    let [a, b, c, ..] = *digest.as_bytes();
    Ipv4Addr::new(127, 16 + a % 224, b, 1 + c % 254)
}
