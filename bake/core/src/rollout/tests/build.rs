//! Requests as short as the tests that need them.

use crate::digest::Digest;
use crate::rollout::{
    Captured, CheckName, Existing, Fronting, InstanceId, Millis, Options, Pace, Portion, Preflight, Release,
    Request, Strategy, Time,
};

pub(super) fn release(name: &str) -> Release {
    Release { image: Digest::of(name.as_bytes()), inputs: Digest::of(b"inputs") }
}

pub(super) fn existing(count: u32, name: &str) -> Vec<Existing> {
    let one = |number| Existing {
        id: InstanceId(format!("{name}-{number}")),
        release: release(name),
        since: Time(u64::from(number)),
        slot: None,
    };
    (1..=count).map(one).collect()
}

/// `size` instances of `a` become `desired` of `b`.
pub(super) fn upgrade(size: u32, desired: u32, strategy: Strategy) -> Request {
    Request {
        group: "web".to_owned(),
        prefix: "r1".to_owned(),
        from: Some(Captured { release: release("a"), size }),
        to: release("b"),
        desired,
        existing: existing(size, "a"),
        options: Options { strategy, ..Options::default() },
        fronting: Fronting::Balancer,
        checks: [CheckName("http".to_owned())].into(),
        hooks: [].into(),
        liens: [].into(),
        inherited_liens: [].into(),
        preflight: Preflight::CLEAR,
    }
}

pub(super) fn rolling(max_surge: u32, max_unavailable: u32) -> Strategy {
    Strategy::Rolling(Pace { max_surge, max_unavailable, ..Pace::default() })
}

pub(super) fn blue_green() -> Strategy {
    Strategy::BlueGreen {
        weights: vec![10, 50, 100],
        bake: Millis::from_secs(5),
        keep_old: Millis::from_secs(20),
    }
}

pub(super) fn canary() -> Strategy {
    Strategy::Canary {
        steps: vec![Portion::Instances(1), Portion::Percent(50)],
        bake: Millis::from_secs(5),
        pace: Pace::default(),
    }
}

pub(super) fn quorum() -> Strategy {
    Strategy::Quorum { member_check: None }
}
