//! What a channel pointed to, when and why; and what was revoked. Main types: [`ChannelRecord`] and [`Revocation`].

use serde::{Deserialize, Serialize};

use super::channel::Channel;
use super::gates::Verdict;
use crate::time::Timestamp;
use crate::{Digest, ImageRef};

/// Why a channel came to point to a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Why {
    /// It was what another channel pointed to.
    Promoted {
        /// That channel.
        from: Channel,
    },
    /// A person or script named its digest.
    Set,
    /// It came from a bake for this channel.
    Baked,
    /// The channel went back to it.
    RolledBack,
}

/// An entry of a channel's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelRecord {
    /// The version of this form.
    pub schema: u32,
    /// The image or variant.
    pub image: ImageRef,
    /// The channel.
    pub channel: Channel,
    /// Its number, from 1 on without gaps.
    pub sequence: u64,
    /// The version that the channel points to from here on.
    pub digest: Digest,
    /// The version that it pointed to before.
    pub previous: Option<Digest>,
    /// The digest of the entry before, as text: what was written is not changed unnoticed.
    pub follows: Option<Digest>,
    /// Who did it, as they said.
    pub by: String,
    /// When, by the clock of whoever did it.
    pub at: Timestamp,
    /// Why.
    pub why: Why,
    /// Why, in their words.
    pub reason: Option<String>,
    /// What the gates said.
    pub evidence: Vec<Verdict>,
}

/// A version that must not be deployed any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// The version of this form.
    pub schema: u32,
    /// The version.
    pub digest: Digest,
    /// Its image.
    pub image: ImageRef,
    /// Who revoked it, as they said.
    pub by: String,
    /// When, by their clock.
    pub at: Timestamp,
    /// Why.
    pub why: String,
}

/// A time during which a channel pointed to one version without a break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stay<'a> {
    /// The version.
    pub digest: Digest,
    /// Since when.
    pub from: Timestamp,
    /// The entry that ended it; none while it lasts.
    pub ended_by: Option<&'a ChannelRecord>,
}

/// The stays of a history, oldest first.
pub fn stays(history: &[ChannelRecord]) -> Vec<Stay<'_>> {
    let mut stays: Vec<Stay<'_>> = Vec::new();
    for record in history {
        match stays.last_mut() {
            Some(stay) if stay.digest == record.digest => continue,
            Some(stay) => stay.ended_by = Some(record),
            None => {}
        }
        stays.push(Stay { digest: record.digest, from: record.at, ended_by: None });
    }
    stays
}

/// The versions that a channel can go back to, nearest first, each once.
///
/// A version that was rolled back from is not among them: going back a second time goes further back, and not
/// forward again to what was bad.
pub fn rollback_targets(history: &[ChannelRecord]) -> Vec<Digest> {
    let mut line: Vec<Digest> = Vec::new();
    for record in history {
        let place = line.iter().position(|digest| *digest == record.digest);
        match (&record.why, place) {
            (Why::RolledBack, Some(place)) => line.truncate(place + 1),
            (_, Some(place)) => {
                line.remove(place);
                line.push(record.digest);
            }
            (_, None) => line.push(record.digest),
        }
    }
    line.pop();
    line.reverse();
    line
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::promotion) fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    /// A history from `name@second`, with `!` in front of what was rolled back to.
    pub(in crate::promotion) fn history(text: &str) -> Vec<ChannelRecord> {
        let mut records: Vec<ChannelRecord> = Vec::new();
        for word in text.split_whitespace() {
            let (name, second) = word.split_once('@').unwrap();
            let (why, name) = match name.strip_prefix('!') {
                Some(name) => (Why::RolledBack, name),
                None => (Why::Set, name),
            };
            records.push(ChannelRecord {
                schema: 1,
                image: "web".parse().unwrap(),
                channel: "QA".parse().unwrap(),
                sequence: records.len() as u64 + 1,
                digest: digest(name),
                previous: records.last().map(|record| record.digest),
                follows: None,
                by: "ann".to_owned(),
                at: Timestamp::from_seconds(second.parse().unwrap()),
                why,
                reason: None,
                evidence: Vec::new(),
            });
        }
        records
    }

    #[test]
    fn going_back_goes_back_further_each_time() {
        let check = |text: &str, expect: &[&str]| {
            let expect: Vec<Digest> = expect.iter().map(|name| digest(name)).collect();
            assert_eq!(rollback_targets(&history(text)), expect, "{text}");
        };
        check("", &[]);
        check("a@1", &[]);
        check("a@1 b@2 c@3", &["b", "a"]);
        check("a@1 b@2 c@3 !b@4", &["a"]);
        check("a@1 b@2 c@3 !b@4 !a@5", &[]);
        check("a@1 b@2 c@3 !b@4 d@5", &["b", "a"]);
        check("a@1 b@2 a@3", &["b"]);
        check("a@1 b@2 b@3", &["a"]);
        check("a@1 b@2 !a@3 !b@4", &["a"]);
    }

    #[test]
    fn stays_of_one_version_run_together() {
        let history = history("a@1 a@3 b@5 !a@9");
        let found: Vec<(Digest, u64, Option<u64>)> = stays(&history)
            .iter()
            .map(|stay| (stay.digest, stay.from.seconds(), stay.ended_by.map(|end| end.at.seconds())))
            .collect();
        let expect = [(digest("a"), 1, Some(5)), (digest("b"), 5, Some(9)), (digest("a"), 9, None)];
        assert_eq!(found, expect);
    }
}
