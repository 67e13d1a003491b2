//! Declarations of stacks for tests and benchmarks, in the cloud of [`crate::cloud`].

use std::path::Path;
use std::{fs, io};

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
    /// What the network is called that somebody else made and that is to be taken in.
    pub import: Option<&'static str>,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            cidr: "10.0.0.0/24",
            note: "first",
            image: "one",
            size: 3,
            strategy: json!({"kind": "rolling"}),
            import: None,
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
        let Self { cidr, note, image, size, strategy, import } = self;
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
        declaration.resources[0].import = import.map(str::to_owned);
        declaration.resources[3].depends_on.insert("data".parse().expect("it is a resource's name"));
        declaration.outputs.insert("group".to_owned(), output("web", "group_id"));
        declaration
    }
}

/// Writes a workspace whose one stack, [`stack`], has many resources of the kinds that real stacks have: a network
/// for every hundred, and volumes, balancers and networks on it that use its outputs.
pub fn write_many(root: &Path, count: usize) -> io::Result<()> {
    let project = root.join("stacks/applications/hello");
    fs::create_dir_all(&project)?;
    fs::write(root.join("olbake.toml"), "")?;
    fs::write(project.join("QA.toml"), "")?;
    fs::write(project.join("stack.star"), MANY.replace("COUNT", &count.to_string()))
}

const MANY: &str = r#"
NOTE = "of many resources, each of which says as much about itself as most do, and no more than that"

def _one(number, network):
    if number % 3 == 0:
        fake.volume("volume-" + str(number), network = network.network_id, megabytes = number)
    elif number % 3 == 1:
        fake.balancer("balancer-" + str(number), network = network.network_id, port = 1024 + number % 60000)
    else:
        fake.network("inner-" + str(number), cidr = f"{network.network_id}/{number}", note = NOTE)

def stack(c, ctx):
    for hundred in range(COUNT // 100):
        network = fake.network("network-" + str(hundred), cidr = "10." + str(hundred) + ".0.0/16", note = NOTE)
        for rest in range(1, 100):
            _one(hundred * 100 + rest, network)

project(stack = stack)
"#;

/// Properties with the outputs put in that a state knows.
pub fn resolved(state: &StackState, inputs: &Map<String, Value>) -> Map<String, Value> {
    let known = |reference: &Reference| reference.in_map(&state.resources.get(&reference.resource)?.outputs);
    inputs.iter().map(|(name, input)| (name.clone(), value::resolve(input, &known))).collect()
}
