//! Declarations of stacks for tests and benchmarks, in the cloud of [`crate::cloud`].

use olbake_core::Digest;
use olbake_core::stack::declare::Declared;
use olbake_core::stack::value::{self, Reference};
use olbake_core::stack::{Declaration, StackName, StackState};
use serde_json::{Map, Value, json};

use crate::cloud::catalog;

/// The name of the stack.
pub fn stack() -> StackName {
    "applications.hello.QA".parse().expect("it is a stack's name")
}

/// The placeholder of an output.
pub fn output(resource: &str, name: &str) -> Value {
    let resource = resource.parse().expect("it is a resource's name");
    Value::String(Reference { resource, output: name.to_owned() }.marker())
}

/// A resource, its properties in canonical form.
///
/// # Panics
/// Where the properties do not fit the type.
pub fn resource(name: &str, ty: &str, inputs: &Value) -> Declared {
    let ty = ty.parse().expect("it is a type's name");
    let schema = catalog().get(&ty).expect("the cloud has the type").clone();
    let inputs =
        schema.coerce(inputs.as_object().expect("properties have names")).expect("they fit the type");
    Declared::new(name.parse().expect("it is a resource's name"), ty, inputs)
}

/// A group behind a balancer, a volume, and a network around them.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// The network's addresses: other ones are another network.
    pub cidr: &'static str,
    /// The network's note.
    pub note: &'static str,
    /// The image of the group.
    pub image: &'static str,
    /// Its size.
    pub size: u32,
    /// Its strategy.
    pub strategy: Value,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            cidr: "10.0.0.0/24",
            note: "first",
            image: "one",
            size: 3,
            strategy: json!({"kind": "rolling"}),
        }
    }
}

/// The digest of an image.
pub fn image(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

impl Hello {
    /// The declaration.
    pub fn declare(&self) -> Declaration {
        let Self { cidr, note, image, size, strategy } = self;
        let network = output("network", "network_id");
        let mut declaration = Declaration::new(stack());
        declaration.resources = vec![
            resource("network", "fake.network", &json!({"cidr": cidr, "note": note})),
            resource("data", "fake.volume", &json!({"network": network})),
            resource("front", "fake.balancer", &json!({"network": network})),
            resource(
                "web",
                "fake.group",
                &json!({
                    "network": network,
                    "load_balancer": output("front", "balancer_id"),
                    "image": {"image": "web", "digest": self::image(image)},
                    "size": size,
                    "health": [{"port": 80}],
                    "strategy": strategy,
                    "rollout": {
                        "min_ready": "1s", "health_deadline": "20s", "unhealthy_after": "3s",
                        "drain_timeout": "5s", "bake": "3s",
                    },
                }),
            ),
        ];
        declaration.resources[3].depends_on.insert("data".parse().expect("it is a resource's name"));
        declaration.outputs.insert("group".to_owned(), output("web", "group_id"));
        declaration
    }
}

/// A stack of many resources of the kinds that real stacks have: a network for every hundred, and rules, volumes and
/// balancers on it that use its outputs.
pub fn many(count: usize) -> Declaration {
    let mut declaration = Declaration::new(stack());
    declaration.resources = (0..count).map(one_of_many).collect();
    declaration
}

fn one_of_many(number: usize) -> Declared {
    let around = format!("network-{:05}", number / 100);
    let network = output(&around, "network_id");
    let note = format!("resource {number} of many, which says as much about itself as most do, and no more");
    match number % 100 {
        0 => resource(
            &around,
            "fake.network",
            &json!({"cidr": format!("10.{}.0.0/16", number / 100), "note": note}),
        ),
        rest if rest % 3 == 0 => {
            let name = format!("volume-{number:05}");
            resource(&name, "fake.volume", &json!({"network": network, "megabytes": number}))
        }
        rest if rest % 3 == 1 => {
            let name = format!("balancer-{number:05}");
            resource(&name, "fake.balancer", &json!({"network": network, "port": 1024 + number % 60_000}))
        }
        _ => {
            let name = format!("inner-{number:05}");
            let cidr = format!("{}/{number}", network.as_str().unwrap_or_default());
            resource(&name, "fake.network", &json!({"cidr": cidr, "note": note}))
        }
    }
}

/// Properties with the outputs put in that a state knows.
pub fn resolved(state: &StackState, inputs: &Map<String, Value>) -> Map<String, Value> {
    let known = |reference: &Reference| reference.in_map(&state.resources.get(&reference.resource)?.outputs);
    inputs.iter().map(|(name, input)| (name.clone(), value::resolve(input, &known))).collect()
}
