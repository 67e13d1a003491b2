//! The cloud in memory keeps to what every provider has to keep to.
#![cfg(feature = "cloud")]
#![allow(clippy::unwrap_used, reason = "tests fail where something is amiss")]

use olbake_core::stack::Declaration;
use olbake_testkit::cloud::{Among, Chosen, Cloud, Fault};
use olbake_testkit::conformance::{Course, check};
use olbake_testkit::stacks::{output, resource, stack};
use serde_json::json;

#[test]
fn the_cloud_in_memory_conforms() {
    let cloud = Cloud::new();
    let (stacks, _) = cloud.process();
    let mut declaration = Declaration::new(stack());
    let network = output("network", "network_id");
    declaration.resources = vec![
        resource("network", "fake.network", &json!({"cidr": "10.0.0.0/24"})),
        resource("data", "fake.volume", &json!({"network": network})),
        resource("front", "fake.balancer", &json!({"network": network})),
    ];
    let lose = |_: &_| {
        cloud.faults.choose(Some(Chosen { among: Among::Objects, number: 0, fault: Fault::LoseAnswer }));
    };
    let changes = [("network", "note", json!("another")), ("front", "port", json!(81))];
    let course = Course { declaration: &declaration, changes: &changes, lose_an_answer: &lose };
    let provider = stacks.site.providers["fake"].clone();
    let found = cloud.run(async { check(&*provider, &course).await });
    assert_eq!(found, Some(Vec::new()));
}
