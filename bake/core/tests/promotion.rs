//! Properties of gates and of ways back, over random histories.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use olbake_core::Digest;
use olbake_core::promotion::{
    Approvals, Before, Channel, ChannelRecord, Checks, Facts, Gate, Why, judge, rollback_targets, stays,
};
use olbake_core::time::Timestamp;
use proptest::prelude::*;

/// Entries as (version, seconds since the one before, rolled back).
fn histories() -> impl Strategy<Value = Vec<ChannelRecord>> {
    let entry = (0_u8..4, 0_u64..500, any::<bool>());
    prop::collection::vec(entry, 0..9).prop_map(|entries| {
        let mut records: Vec<ChannelRecord> = Vec::new();
        for (version, later, back) in entries {
            let last = records.last();
            records.push(ChannelRecord {
                schema: 1,
                image: "web".parse().unwrap(),
                channel: "QA".parse().unwrap(),
                sequence: last.map_or(1, |record| record.sequence + 1),
                digest: Digest::of(&[version]),
                previous: last.map(|record| record.digest),
                follows: None,
                by: "ann".to_owned(),
                at: last.map_or(Timestamp::from_seconds(0), |record| record.at).plus(later),
                why: if back { Why::RolledBack } else { Why::Set },
                reason: None,
                evidence: Vec::new(),
            });
        }
        records
    })
}

fn soak(history: &[ChannelRecord], seconds: u64, now: Timestamp) -> (bool, Option<Timestamp>) {
    let channel: Channel = "QA".parse().unwrap();
    let facts = Facts {
        digest: Digest::of(&[0]),
        checks: Checks::default(),
        ancestors: &[],
        revocations: &[],
        before: Some(Before { channel: &channel, history }),
        approvals: &Approvals::default(),
        now,
    };
    let verdict = judge(&[Gate::Soaked { seconds }], &facts).pop().unwrap();
    (verdict.held, verdict.holds_at)
}

proptest! {
    #[test]
    fn a_way_back_leads_to_what_was_there_before(history in histories()) {
        let targets = rollback_targets(&history);
        let current = history.last().map(|record| record.digest);
        for (place, target) in targets.iter().enumerate() {
            prop_assert!(Some(*target) != current, "a way back to where it is");
            prop_assert!(!targets[..place].contains(target), "a version twice");
            prop_assert!(history.iter().any(|record| record.digest == *target));
        }
    }

    #[test]
    fn what_was_rolled_back_from_is_no_way_back(history in histories(), version in 0_u8..4) {
        let mut history = history;
        let Some(target) = rollback_targets(&history).first().copied() else { return Ok(()) };
        let bad = history.last().unwrap().clone();
        let at = bad.at.plus(1);
        history.push(ChannelRecord {
            sequence: bad.sequence + 1,
            digest: target,
            previous: Some(bad.digest),
            at,
            why: Why::RolledBack,
            ..bad.clone()
        });
        prop_assert!(!rollback_targets(&history).contains(&bad.digest));
        // Nor when something else entered since.
        let next = Digest::of(&[version]);
        if next != bad.digest {
            history.push(ChannelRecord { sequence: bad.sequence + 2, digest: next, why: Why::Set, at, ..bad.clone() });
            prop_assert!(!rollback_targets(&history).contains(&bad.digest));
        }
    }

    #[test]
    fn stays_cover_a_history_without_gaps(history in histories()) {
        let stays = stays(&history);
        let linked = stays.windows(2).all(|pair| {
            pair[0].digest != pair[1].digest && pair[0].ended_by.is_some_and(|end| end.at == pair[1].from)
        });
        prop_assert!(linked, "a gap, or one version in two stays");
        prop_assert_eq!(stays.last().map(|stay| stay.digest), history.last().map(|record| record.digest));
        prop_assert!(stays.last().is_none_or(|stay| stay.ended_by.is_none()));
    }

    #[test]
    fn a_soak_that_holds_goes_on_holding_and_comes_when_it_is_said(
        history in histories(), seconds in 0_u64..900, later in 0_u64..900,
    ) {
        let now = history.last().map_or(Timestamp::default(), |record| record.at).plus(later);
        let (held, holds_at) = soak(&history, seconds, now);
        if held {
            prop_assert!(soak(&history, seconds, now.plus(1)).0);
            prop_assert!(seconds == 0 || soak(&history, seconds - 1, now).0);
            prop_assert_eq!(holds_at, None);
        }
        if let Some(at) = holds_at {
            prop_assert!(at > now);
            prop_assert!(soak(&history, seconds, at).0);
            prop_assert!(!soak(&history, seconds, Timestamp::from_seconds(at.seconds() - 1)).0);
        }
    }
}
