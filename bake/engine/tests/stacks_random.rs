//! Any declaration after any other, through the real executor, with and without a kill in the middle: afterwards there
//! is nothing to do, and the cloud has what is declared and nothing else.
#![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

use olbake_core::stack::Declaration;
use olbake_core::stack::planner::Wishes;
use olbake_engine::state::Takeover;
use olbake_testkit::cloud::{Among, Chosen, Cloud, Fault};
use olbake_testkit::stacks::{output, resource, stack};
use proptest::prelude::*;
use serde_json::json;

/// How many resources there can be; those of even numbers can carry others.
const PLACES: usize = 8;

/// Resources that stand on those before them.
fn any_declaration() -> impl Strategy<Value = Declaration> {
    let one = (0_u8..3, 0_u8..3, any::<bool>(), 0..PLACES, proptest::collection::btree_set(0..PLACES, 0..3));
    proptest::collection::vec(proptest::option::of(one), PLACES).prop_map(|places| {
        let mut declaration = Declaration::new(stack());
        for (number, place) in places.iter().enumerate() {
            let Some((kind, value, note, on, after)) = place else { continue };
            let network = |on: usize| on.is_multiple_of(2) && on < number && places[on].is_some();
            let note = note.then_some("n");
            let name = format!("r{number}");
            let mut made = match (number % 2, *kind, network(*on)) {
                (0, _, true) => {
                    let below = output(&format!("r{on}"), "network_id");
                    let cidr = format!("{}/{value}", below.as_str().unwrap());
                    resource(&name, "fake.network", &json!({"cidr": cidr, "note": note}))
                }
                (0, _, false) | (_, 0, false) => {
                    resource(&name, "fake.network", &json!({"cidr": value.to_string(), "note": note}))
                }
                (_, 1, true) => {
                    let network = output(&format!("r{on}"), "network_id");
                    resource(&name, "fake.volume", &json!({"network": network, "megabytes": value}))
                }
                (_, _, true) => {
                    let network = output(&format!("r{on}"), "network_id");
                    resource(
                        &name,
                        "fake.balancer",
                        &json!({"network": network, "port": 80 + u16::from(*value)}),
                    )
                }
                _ => continue,
            };
            let there = |before: &&usize| {
                **before < number
                    && declaration.resources.iter().any(|r| r.name.as_str() == format!("r{before}"))
            };
            made.depends_on =
                after.iter().filter(there).map(|before| format!("r{before}").parse().unwrap()).collect();
            declaration.resources.push(made);
        }
        declaration
    })
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::HangBefore),
        Just(Fault::HangHalfway),
        Just(Fault::HangAfter),
        Just(Fault::Fail),
        Just(Fault::LoseAnswer)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_carried_out_leaves_nothing_to_do(
        first in any_declaration(),
        second in any_declaration(),
        third in any_declaration(),
        number in 0_usize..24,
        fault in fault(),
    ) {
        let cloud = Cloud::new();
        cloud.bring(&first);
        prop_assert_eq!(cloud.check_settled(&first, false), Vec::<String>::new());
        // The second goes wrong somewhere, and then the third is wanted.
        cloud.faults.choose(Some(Chosen { among: Among::Objects, number, fault }));
        drop(cloud.deploy(&second, &Wishes::default(), Takeover::Refuse));
        cloud.faults.choose(None);
        prop_assert_eq!(cloud.state(&second).lint(), Vec::<String>::new());
        let ended = cloud.deploy(&third, &Wishes::default(), Takeover::Force).unwrap();
        prop_assert!(ended.is_ok(), "{:?}", ended);
        prop_assert_eq!(cloud.check_settled(&third, false), Vec::<String>::new());
    }
}
