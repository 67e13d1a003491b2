//! What the driver sees each time it asks: the group as it is, and what a person wishes.
//!
//! An observation may be incomplete. An instance without a row is *unknown*: nothing is concluded from it, and
//! nothing is done that counts on it; one that is truly gone has a row that says [`Phase::Absent`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::request::{CheckName, InstanceId};
use super::step::Shares;
use crate::digest::Digest;

/// The group as it is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// A row for each instance that could be asked for: all of [`super::Rollout::watched`].
    pub instances: BTreeMap<InstanceId, Seen>,
    /// How the balancer divides traffic now between the two releases, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<Shares>,
    /// What the operator wishes; it is asked for at every turn and remembered by the driver.
    #[serde(default)]
    pub wish: Wish,
}

/// One instance as it is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// As the provider says.
    pub phase: Phase,
    /// What each check says; a check without a row is unknown.
    #[serde(default)]
    pub checks: BTreeMap<CheckName, Verdict>,
    /// The image that the instance itself says it runs.
    #[serde(default)]
    pub digest: Option<Digest>,
    /// As the load balancer says; ignored where there is none.
    #[serde(default)]
    pub attachment: Attachment,
}

impl Seen {
    /// An instance that is surely not there.
    pub fn absent() -> Self {
        Self { phase: Phase::Absent, checks: BTreeMap::new(), digest: None, attachment: Attachment::Out }
    }
}

/// An instance as its provider sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is surely not there.
    Absent,
    /// It was started and is not up yet.
    Booting,
    /// It is up.
    Running,
    /// It is there and does not run: crashed, powered off, left from before a reboot.
    Stopped,
}

/// What a check says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It holds.
    Passing,
    /// It does not hold.
    Failing,
    /// It was not asked, or could not be.
    #[default]
    Unknown,
}

/// An instance as the load balancer sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "attachment")]
pub enum Attachment {
    /// The balancer could not be asked.
    #[default]
    Unknown,
    /// It is not among those that are given traffic.
    Out,
    /// It is, with whatever weight, and the balancer's own check says this. A weight of 0 is not draining: the new
    /// set of a blue-green rollout is attached so, and must be seen to be well before it is given any traffic.
    In {
        /// The balancer's own check.
        serving: Verdict,
    },
    /// It is given no new connections.
    Draining {
        /// How many connections it still has.
        connections: u32,
    },
}

/// What the operator wishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// That it goes on.
    #[default]
    Go,
    /// That nothing new is begun; what is under way comes to rest.
    Pause,
    /// That it goes back to what ran before. Once wished, not unwished.
    Abort,
    /// That it stops where it is. Once wished, not unwished.
    AbortAndHold,
}
