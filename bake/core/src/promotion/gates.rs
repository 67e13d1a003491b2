//! The gates before a channel, and one function that judges them all: [`judge`].

use std::fmt;

use serde::{Deserialize, Serialize};

use super::approval::Approvals;
use super::channel::Channel;
use super::history::{ChannelRecord, Revocation, Stay, Why, stays};
use crate::time::{Timestamp, duration_text};
use crate::{Digest, ImageRef};

/// What must hold before a version enters a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "gate", rename_all = "snake_case")]
pub enum Gate {
    /// Neither the version nor anything it starts from is revoked. It is before every channel.
    NotRevoked,
    /// Its checks passed on a fresh boot, and there was at least one.
    Verified,
    /// It was in the channel before for a time, without a break, and was not rolled back there.
    Soaked {
        /// The time.
        seconds: u64,
    },
    /// So many people signed that they approve it for this channel.
    Approved {
        /// How many.
        signers: u32,
    },
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRevoked => f.write_str("not revoked"),
            Self::Verified => f.write_str("verified"),
            Self::Soaked { seconds } => write!(f, "soaked {}", duration_text(*seconds)),
            Self::Approved { signers: 1 } => f.write_str("1 approval"),
            Self::Approved { signers } => write!(f, "{signers} approvals"),
        }
    }
}

/// How the checks of a version's fresh boot ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// How many passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many were left out.
    pub skipped: usize,
}

/// The channel before the one that a version is to enter.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// The channel.
    pub channel: &'a Channel,
    /// Its history for the image, oldest first.
    pub history: &'a [ChannelRecord],
}

/// All that gates look at.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The version.
    pub digest: Digest,
    /// How its checks ended.
    pub checks: Checks,
    /// What it starts from, nearest first, as far as is known.
    pub ancestors: &'a [Digest],
    /// What is revoked, of the version and its ancestors at least.
    pub revocations: &'a [Revocation],
    /// The channel before; none before the first.
    pub before: Option<Before<'a>>,
    /// Who approved it for the channel.
    pub approvals: &'a Approvals,
    /// The time.
    pub now: Timestamp,
}

/// What a gate said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The gate.
    #[serde(flatten)]
    pub gate: Gate,
    /// Whether it holds.
    pub held: bool,
    /// Why, with numbers.
    pub reason: String,
    /// When it will hold, if nothing happens meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds_at: Option<Timestamp>,
}

/// Whether all gates hold.
pub fn held(verdicts: &[Verdict]) -> bool {
    verdicts.iter().all(|verdict| verdict.held)
}

/// What each gate says; [`Gate::NotRevoked`] comes first, whether it was asked for or not.
pub fn judge(gates: &[Gate], facts: &Facts<'_>) -> Vec<Verdict> {
    let others = gates.iter().filter(|gate| **gate != Gate::NotRevoked);
    std::iter::once(&Gate::NotRevoked)
        .chain(others)
        .map(|gate| {
            let Finding { held, reason, holds_at } = match gate {
                Gate::NotRevoked => not_revoked(facts),
                Gate::Verified => verified(facts.checks),
                Gate::Soaked { seconds } => soaked(*seconds, facts),
                Gate::Approved { signers } => approved(*signers, facts.approvals),
            };
            Verdict { gate: *gate, held, reason, holds_at }
        })
        .collect()
}

struct Finding {
    held: bool,
    reason: String,
    holds_at: Option<Timestamp>,
}

fn holds(reason: String) -> Finding {
    Finding { held: true, reason, holds_at: None }
}

fn fails(reason: String) -> Finding {
    Finding { held: false, reason, holds_at: None }
}

fn not_revoked(facts: &Facts<'_>) -> Finding {
    let revoked = |digest: &Digest| facts.revocations.iter().find(|revoked| revoked.digest == *digest);
    let found = std::iter::once(&facts.digest).chain(facts.ancestors).find_map(revoked);
    let Some(Revocation { schema: _, digest, image, by, at, why }) = found else {
        return holds(match facts.ancestors.len() {
            0 => "it is not revoked".to_owned(),
            1 => "neither it nor the version it starts from is revoked".to_owned(),
            count => format!("neither it nor any of the {count} versions it starts from is revoked"),
        });
    };
    let which = if *digest == facts.digest { "it".to_owned() } else { ancestor(image, *digest) };
    fails(format!("{which} was revoked by {by} at {at}: {why}"))
}

fn ancestor(image: &ImageRef, digest: Digest) -> String {
    format!("`{image}@{}`, which it starts from,", digest.short())
}

fn verified(checks: Checks) -> Finding {
    let Checks { passed, failed, skipped } = checks;
    let count = |count: usize| if count == 1 { "1 check".to_owned() } else { format!("{count} checks") };
    match (passed, failed) {
        (0, 0) if skipped > 0 => fails(format!("no check ran: {} skipped", count(skipped))),
        (0, 0) => fails("it has no checks".to_owned()),
        (_, 0) => holds(format!("{} passed on a fresh boot", count(passed))),
        (_, failed) => fails(format!("{} of {} failed", failed, count(passed + failed))),
    }
}

fn soaked(wanted: u64, facts: &Facts<'_>) -> Finding {
    let Some(Before { channel, history }) = facts.before else {
        return fails("there is no channel before this one to soak in".to_owned());
    };
    let of = duration_text(wanted);
    let stays: Vec<Stay<'_>> =
        stays(history).into_iter().filter(|stay| stay.digest == facts.digest).collect();
    let Some(last) = stays.last() else {
        return fails(format!("soaked 0s of {of}: it never was in {channel}"));
    };
    if let Some(end) = last.ended_by.filter(|end| end.why == Why::RolledBack) {
        return fails(format!("{channel} was rolled back from it by {} at {}", end.by, end.at));
    }
    let length = |stay: &Stay<'_>| stay.ended_by.map_or(facts.now, |end| end.at).since(stay.from);
    let longest = stays.iter().map(length).max().unwrap_or(0);
    let so_far = format!("soaked {} of {of} in {channel}", duration_text(longest));
    if longest >= wanted {
        return holds(so_far);
    }
    match last.ended_by {
        Some(end) => fails(format!("{so_far}, until `{}` took its place at {}", end.digest.short(), end.at)),
        None => {
            let at = last.from.plus(wanted);
            Finding { holds_at: Some(at), ..fails(format!("{so_far}; holds at {at}")) }
        }
    }
}

fn approved(wanted: u32, approvals: &Approvals) -> Finding {
    let signers = approvals.signers();
    let mut reason = format!("{} of {wanted} approvals", signers.len());
    if !signers.is_empty() {
        let names: Vec<String> = signers.iter().map(ToString::to_string).collect();
        reason.push_str(&format!(": {}", names.join(", ")));
    }
    for refused in &approvals.refused {
        reason.push_str(&format!("; not counted: {refused}"));
    }
    let enough = u32::try_from(signers.len()).is_ok_and(|count| count >= wanted);
    if enough { holds(reason) } else { fails(reason) }
}

#[cfg(test)]
mod tests {
    use super::super::approval::Approval;
    use super::super::history::tests::{digest, history};
    use super::*;

    static NONE: Approvals = Approvals { accepted: Vec::new(), refused: Vec::new() };

    fn revoked(name: &str, image: &str) -> Revocation {
        Revocation {
            schema: 1,
            digest: digest(name),
            image: image.parse().unwrap(),
            by: "ann".to_owned(),
            at: Timestamp::from_seconds(60),
            why: "a hole".to_owned(),
        }
    }

    fn facts(now: u64) -> Facts<'static> {
        Facts {
            digest: digest("a"),
            checks: Checks { passed: 3, failed: 0, skipped: 1 },
            ancestors: &[],
            revocations: &[],
            before: None,
            approvals: &NONE,
            now: Timestamp::from_seconds(now),
        }
    }

    /// What one gate says, with a mark for whether it holds.
    fn say(gate: Gate, facts: &Facts<'_>) -> String {
        let verdict = judge(&[gate], facts).pop().unwrap();
        assert_eq!(verdict.gate, gate);
        format!("{} {}", if verdict.held { "+" } else { "-" }, verdict.reason)
    }

    #[test]
    fn revoked_versions_and_ancestors_are_found() {
        let plain = facts(0);
        assert_eq!(say(Gate::NotRevoked, &plain), "+ it is not revoked");
        let line = [digest("base"), digest("root")];
        let (own, other) = ([revoked("a", "web")], [revoked("b", "web"), revoked("root", "base")]);
        let with = |ancestors, revocations| Facts { ancestors, revocations, ..plain };
        let check = |ancestors, revocations, expect: &str| {
            assert_eq!(say(Gate::NotRevoked, &with(ancestors, revocations)), expect);
        };
        check(&line, &[], "+ neither it nor any of the 2 versions it starts from is revoked");
        check(&line[..1], &other, "+ neither it nor the version it starts from is revoked");
        check(&line, &own, "- it was revoked by ann at 1970-01-01T00:01:00Z: a hole");
        let short = digest("root").short();
        let expect = format!(
            "- `base@{short}`, which it starts from, was revoked by ann at 1970-01-01T00:01:00Z: a hole"
        );
        check(&line, &other, &expect);
    }

    #[test]
    fn verified_means_that_checks_ran_and_passed() {
        let check = |passed, failed, skipped, expect: &str| {
            let checks = Checks { passed, failed, skipped };
            assert_eq!(say(Gate::Verified, &Facts { checks, ..facts(0) }), expect);
        };
        check(12, 0, 2, "+ 12 checks passed on a fresh boot");
        check(1, 0, 0, "+ 1 check passed on a fresh boot");
        check(11, 1, 0, "- 1 of 12 checks failed");
        check(0, 0, 2, "- no check ran: 2 checks skipped");
        check(0, 0, 0, "- it has no checks");
    }

    #[test]
    fn soaking_is_the_longest_stay_that_was_not_rolled_back() {
        let channel: Channel = "QA".parse().unwrap();
        let check = |text: &str, now: u64, expect: &str| {
            let history = history(text);
            let before = Some(Before { channel: &channel, history: &history });
            let facts = Facts { before, ..facts(now) };
            let said = say(Gate::Soaked { seconds: 3600 }, &facts);
            assert_eq!(said.replace(&digest("b").short(), "B"), expect, "{text}");
        };
        check("", 0, "- soaked 0s of 1h: it never was in QA");
        check("b@1", 9000, "- soaked 0s of 1h: it never was in QA");
        check("a@0", 600, "- soaked 10m of 1h in QA; holds at 1970-01-01T01:00:00Z");
        check("a@0", 3599, "- soaked 59m59s of 1h in QA; holds at 1970-01-01T01:00:00Z");
        check("a@0", 3600, "+ soaked 1h of 1h in QA");
        check("a@60 a@3000", 3660, "+ soaked 1h of 1h in QA");
        check(
            "a@0 b@600",
            9000,
            "- soaked 10m of 1h in QA, until `B` took its place at 1970-01-01T00:10:00Z",
        );
        check("a@0 b@3600", 9000, "+ soaked 1h of 1h in QA");
        check("a@0 b@3600 a@4000", 4060, "+ soaked 1h of 1h in QA");
        check("b@0 a@10 !b@7200", 9000, "- QA was rolled back from it by ann at 1970-01-01T02:00:00Z");
        check("b@0 a@10 !b@7200 a@7300", 7360, "+ soaked 1h59m of 1h in QA");
        // A clock that is ahead gives nothing away.
        check("a@5000", 60, "- soaked 0s of 1h in QA; holds at 1970-01-01T02:23:20Z");
        let first = facts(0);
        let expect = "- there is no channel before this one to soak in";
        assert_eq!(say(Gate::Soaked { seconds: 0 }, &first), expect);
    }

    #[test]
    fn each_person_approves_once() {
        let approval = |key: &str, principals: &[&str]| Approval {
            key: key.to_owned(),
            fingerprint: format!("SHA256:{key}"),
            principals: principals.iter().map(|name| (*name).to_owned()).collect(),
        };
        let check = |accepted: Vec<Approval>, refused: &[&str], expect: &str| {
            let refused = refused.iter().map(|text| (*text).to_owned()).collect();
            let approvals = Approvals { accepted, refused };
            let facts = Facts { approvals: &approvals, ..facts(0) };
            assert_eq!(say(Gate::Approved { signers: 2 }, &facts), expect);
        };
        check(vec![], &[], "- 0 of 2 approvals");
        check(vec![approval("1", &["ann"])], &[], "- 1 of 2 approvals: ann");
        check(vec![approval("1", &["ann"]), approval("1", &["ann"])], &[], "- 1 of 2 approvals: ann");
        check(vec![approval("1", &["ann"]), approval("2", &["ann"])], &[], "- 1 of 2 approvals: ann");
        check(vec![approval("1", &["ann"]), approval("2", &["bob"])], &[], "+ 2 of 2 approvals: ann, bob");
        let refused = ["a signature by a key that is not allowed"];
        let expect = "- 1 of 2 approvals: ann; not counted: a signature by a key that is not allowed";
        check(vec![approval("1", &["ann"])], &refused, expect);
    }

    #[test]
    fn every_gate_is_reported_and_revocation_is_always_asked_for() {
        let gates = [Gate::Verified, Gate::Soaked { seconds: 5 }, Gate::Approved { signers: 1 }];
        let facts = Facts { checks: Checks::default(), ..facts(0) };
        let verdicts = judge(&gates, &facts);
        let found: Vec<(String, bool)> =
            verdicts.iter().map(|verdict| (verdict.gate.to_string(), verdict.held)).collect();
        let expect =
            [("not revoked", true), ("verified", false), ("soaked 5s", false), ("1 approval", false)];
        assert_eq!(found, expect.map(|(gate, held)| (gate.to_owned(), held)));
        assert!(!held(&verdicts));
        assert!(held(&judge(&[], &facts)));
        let text = serde_json::to_string(&verdicts).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Verdict>>(&text).unwrap(), verdicts);
    }
}
