//! A rollout in virtual time, against a seeded model of a fleet: what would happen, and how long it would take.
//!
//! The machine is the real one; only what it drives is a model ([`Fleet`]). `olbake deploy --simulate` prints
//! the timeline; the property tests drive the same model through restarts and worse. Equal requests, models and
//! seeds give equal timelines: every draw is a function of the seed and of what it is drawn for, never of the
//! order of draws. Main function: [`simulate`].

mod fleet;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::observe::{Observation, Wish};
use super::outcome::{Outcome, Report};
use super::request::{PreflightError, Request};
use super::state::Rollout;
use super::step::{Shares, Step};
use super::time::{Millis, Time};

pub use fleet::{Census, Fleet};

/// How a fleet behaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Model {
    /// What all draws depend on.
    pub seed: u64,
    /// How long a step takes that only asks the provider or the balancer.
    pub step: Spread,
    /// How long a hook runs.
    pub hook: Spread,
    /// From launch until the instance is up.
    pub boot: Spread,
    /// From up until its checks pass.
    pub warm_up: Spread,
    /// How long connections of a detached instance last.
    pub drain: Spread,
    /// How long the balancer takes to notice that an attached instance is well.
    pub balancer_lag: Spread,
    /// How often a step fails; half of these were done all the same.
    pub step_fails: PerMille,
    /// How often an instance's row is missing from an observation.
    pub unseen: PerMille,
    /// Instances of the old release.
    pub old: Behaviour,
    /// Instances of the new release.
    pub new: Behaviour,
}

/// How instances of a release behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Behaviour {
    /// How many do not boot.
    pub boot_fails: PerMille,
    /// How many boot and never pass their checks.
    pub unhealthy: PerMille,
    /// How many run another image than they were launched with.
    pub other_image: PerMille,
    /// How many crash later.
    pub crashes: PerMille,
    /// How many fail their checks later, without crashing.
    pub sickens: PerMille,
    /// How many are killed later, by somebody else.
    pub killed: PerMille,
    /// How long after boot those that crash, sicken or are killed do so.
    pub later: Spread,
}

/// So many of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PerMille(pub u16);

/// A time between two bounds, each as likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// At least.
    pub least: Millis,
    /// At most.
    pub most: Millis,
}

impl Default for Spread {
    fn default() -> Self {
        Self::seconds(1, 60)
    }
}

impl Spread {
    /// Between so many seconds.
    pub const fn seconds(least: u64, most: u64) -> Self {
        Self { least: Millis::from_secs(least), most: Millis::from_secs(most) }
    }

    /// Always the same.
    pub const fn exactly(lapse: Millis) -> Self {
        Self { least: lapse, most: lapse }
    }
}

impl Default for Model {
    fn default() -> Self {
        Self {
            seed: 0,
            step: Spread { least: Millis(100), most: Millis(800) },
            hook: Spread::seconds(1, 5),
            boot: Spread::seconds(4, 9),
            warm_up: Spread::seconds(1, 3),
            drain: Spread::seconds(0, 5),
            balancer_lag: Spread::seconds(1, 3),
            step_fails: PerMille(0),
            unseen: PerMille(0),
            old: Behaviour::default(),
            new: Behaviour::default(),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Simulation {
    /// The group over time, a row for each change.
    pub timeline: Vec<Row>,
    /// The steps that were begun, and when.
    pub steps: Vec<(Time, Step)>,
    /// How it ended; absent: it had not ended when the simulation was broken off.
    pub outcome: Option<Outcome>,
    /// What became of everything.
    pub report: Report,
}

/// The group at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// When, since the beginning.
    pub at: Time,
    /// The instances, counted.
    #[serde(flatten)]
    pub census: Census,
    /// How traffic is divided, once it was.
    pub shares: Option<Shares>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, census: Census { serving, old, new, pending }, shares } = self;
        write!(
            f,
            "{:>7} | serving {serving:>2} | old {old:>2} | new {new:>2} | pending {pending:>2}",
            at.to_string()
        )?;
        shares.map_or(Ok(()), |shares| write!(f, " | {shares}"))
    }
}

/// The timeline, a row a line, and the outcome.
impl fmt::Display for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.timeline {
            writeln!(f, "{row}")?;
        }
        match &self.outcome {
            Some(outcome) => write!(f, "{outcome}"),
            None => f.write_str("did not end"),
        }
    }
}

/// No rollout takes so many turns; a simulation that does is broken off.
const TURNS: usize = 200_000;

/// Runs a rollout from its beginning to its end in virtual time.
pub fn simulate(request: Request, model: Model) -> Result<Simulation, PreflightError> {
    let mut now = Time(0);
    let mut fleet = Fleet::new(model, &request);
    let mut rollout = Rollout::begin(request, now)?;
    let (mut timeline, mut steps) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        for (id, result) in fleet.settle(now) {
            rollout.done(id, &result, now);
        }
        let decision = rollout.next(&observe(&fleet, now), now);
        record(&mut timeline, Row { at: now, census: fleet.census(now), shares: fleet.shares() });
        for step in decision.steps {
            fleet.begin(&step, now);
            steps.push((now, step));
        }
        let Some(next) = [decision.wait_until, fleet.next_change(now)].into_iter().flatten().min() else {
            break;
        };
        if decision.finished.is_some() {
            break;
        }
        now = next;
    }
    Ok(Simulation { timeline, steps, outcome: rollout.outcome().cloned(), report: rollout.report() })
}

fn observe(fleet: &Fleet, now: Time) -> Observation {
    fleet.observe(now, Wish::Go)
}

fn record(timeline: &mut Vec<Row>, row: Row) {
    match timeline.last_mut() {
        Some(last) if (last.census, last.shares) == (row.census, row.shares) => {}
        Some(last) if last.at == row.at => *last = row,
        _ => timeline.push(row),
    }
}
