//! What all groups of instances have in common, whatever the provider: size, image, health checks, how they are
//! rolled out. [`properties`] adds them to a provider's type; [`Group`] reads them.

use std::collections::BTreeSet;

use olbake_core::Digest;
use olbake_core::rollout::{
    CheckName, Fronting, Millis, OnFailure, Options, Order, Pace, Portion, Release, Strategy,
};
use olbake_core::settings::{RecordField, Type};
use olbake_core::stack::catalog::{Change, TypeSchema};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Adds the common properties to a type of groups.
#[must_use]
pub fn properties(schema: TypeSchema) -> TypeSchema {
    schema
        .takes("image", image(), Change::Rollout, "the image that instances boot: `ctx.image(\"web\")`")
        .takes_or("size", Type::Int, json!(1), Change::InPlace, "instances")
        .takes_or("health", Type::List(Box::new(health())), json!([]), Change::InPlace, "checks that a healthy instance passes")
        .takes_or("strategy", strategy(), json!({"kind": "rolling", "max_surge": 1, "max_unavailable": 0, "order": "oldest_first", "weights": [10, 50, 100], "steps": ["1"], "bake": "10s", "keep_old": "10s", "member_check": null}), Change::InPlace, "in which order instances are replaced")
        .takes_or("rollout", bounds(), bounds_default(), Change::InPlace, "bounds of a rollout")
}

fn field(name: &str, ty: Type, default: Value) -> RecordField {
    RecordField { name: name.to_owned(), ty, default: Some(default) }
}

fn words(words: &[&str]) -> Type {
    Type::Enum(words.iter().map(|word| (*word).to_owned()).collect())
}

fn image() -> Type {
    Type::Record(vec![
        RecordField { name: "image".to_owned(), ty: Type::Str, default: None },
        field("variant", Type::Str.or_none(), Value::Null),
        RecordField { name: "digest".to_owned(), ty: Type::Str, default: None },
    ])
}

fn health() -> Type {
    Type::Record(vec![
        field("kind", words(&["http", "tcp", "command"]), json!("http")),
        field("name", Type::Str.or_none(), Value::Null),
        field("port", Type::Port.or_none(), Value::Null),
        field("path", Type::Str, json!("/")),
        field("status", Type::Int, json!(200)),
        field("contains", Type::Str.or_none(), Value::Null),
        field("command", Type::List(Box::new(Type::Str)), json!([])),
        field("timeout", Type::Duration, json!("2s")),
    ])
}

fn strategy() -> Type {
    Type::Record(vec![
        field("kind", words(&["rolling", "blue_green", "canary", "quorum", "recreate"]), json!("rolling")),
        field("max_surge", Type::Int, json!(1)),
        field("max_unavailable", Type::Int, json!(0)),
        field("order", words(&["oldest_first", "newest_first"]), json!("oldest_first")),
        field("weights", Type::List(Box::new(Type::Int)), json!([10, 50, 100])),
        field("steps", Type::List(Box::new(Type::Str)), json!(["1"])),
        field("bake", Type::Duration, json!("10s")),
        field("keep_old", Type::Duration, json!("10s")),
        field("member_check", Type::Str.or_none(), Value::Null),
    ])
}

const BOUNDS: [(&str, &str); 7] = [
    ("min_ready", "2s"),
    ("health_deadline", "300s"),
    ("unhealthy_after", "15s"),
    ("drain_timeout", "60s"),
    ("progress_deadline", "600s"),
    ("rollback_deadline", "1800s"),
    ("bake", "10s"),
];

fn bounds() -> Type {
    let times = BOUNDS.iter().map(|(name, default)| field(name, Type::Duration, json!(default)));
    let others = [
        field("max_failures", Type::Int, json!(0)),
        field("on_failure", words(&["roll_back", "hold"]), json!("roll_back")),
    ];
    Type::Record(times.chain(others).collect())
}

fn bounds_default() -> Value {
    let times = BOUNDS.iter().map(|(name, default)| ((*name).to_owned(), json!(default)));
    let others = [("max_failures".to_owned(), json!(0)), ("on_failure".to_owned(), json!("roll_back"))];
    Value::Object(times.chain(others).collect())
}

/// The common properties of a group.
#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    /// The image that instances boot.
    pub image: Image,
    /// How many.
    pub size: u32,
    /// The checks that a healthy one passes.
    pub health: Vec<Health>,
    strategy: RawStrategy,
    rollout: Bounds,
    /// What stands in front of them; none: nothing.
    #[serde(default)]
    pub load_balancer: Option<Value>,
}

/// The image of a group.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Image {
    /// Its name.
    pub image: String,
    /// Its variant.
    pub variant: Option<String>,
    /// The version.
    pub digest: Digest,
}

/// A check of a group's instances.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Health {
    /// How it asks.
    pub kind: HealthKind,
    name: Option<String>,
    /// The port that it asks, for HTTP and TCP.
    pub port: Option<u16>,
    /// The path that it asks for.
    pub path: String,
    /// The status that is well.
    pub status: u16,
    /// A text that the answer has in it.
    pub contains: Option<String>,
    /// The command that is run on the instance.
    pub command: Vec<String>,
    #[serde(deserialize_with = "duration")]
    timeout: Millis,
}

/// How a check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthKind {
    /// A request.
    Http,
    /// A connection.
    Tcp,
    /// A command on the instance.
    Command,
}

#[derive(Clone, Debug, Deserialize)]
struct RawStrategy {
    kind: String,
    max_surge: u32,
    max_unavailable: u32,
    order: Order,
    weights: Vec<u8>,
    steps: Vec<String>,
    #[serde(deserialize_with = "duration")]
    bake: Millis,
    #[serde(deserialize_with = "duration")]
    keep_old: Millis,
    member_check: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Bounds {
    #[serde(deserialize_with = "duration")]
    min_ready: Millis,
    #[serde(deserialize_with = "duration")]
    health_deadline: Millis,
    #[serde(deserialize_with = "duration")]
    unhealthy_after: Millis,
    #[serde(deserialize_with = "duration")]
    drain_timeout: Millis,
    #[serde(deserialize_with = "duration")]
    progress_deadline: Millis,
    #[serde(deserialize_with = "duration")]
    rollback_deadline: Millis,
    #[serde(deserialize_with = "duration")]
    bake: Millis,
    max_failures: u32,
    on_failure: OnFailure,
}

/// A duration in its canonical form: `90s`, `1500ms`.
fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
    let text = String::deserialize(deserializer)?;
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').unwrap_or(&text), 1000),
    };
    let number: u64 =
        number.parse().map_err(|_| serde::de::Error::custom(format!("`{text}` is no duration")))?;
    Ok(Millis(number.saturating_mul(unit)))
}

impl Health {
    /// What the rollout calls it.
    pub fn name(&self) -> CheckName {
        CheckName(self.name.clone().unwrap_or_else(|| match self.kind {
            HealthKind::Http => format!("http :{}{}", self.port.unwrap_or(80), self.path),
            HealthKind::Tcp => format!("tcp :{}", self.port.unwrap_or_default()),
            HealthKind::Command => self.command.join(" "),
        }))
    }

    /// How long it may take.
    pub fn timeout(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.timeout.0)
    }
}

impl Group {
    /// Reads the common properties of a group's complete inputs. The error says which does not fit.
    pub fn read(inputs: &Map<String, Value>) -> Result<Self, String> {
        let group: Self =
            serde_json::from_value(Value::Object(inputs.clone())).map_err(|error| error.to_string())?;
        let wrong = group.health.iter().find_map(|health| match health.kind {
            HealthKind::Http | HealthKind::Tcp if health.port.is_none() => {
                Some("`health`: a check by http or tcp needs a `port`")
            }
            HealthKind::Command if health.command.is_empty() => {
                Some("`health`: a check by command needs a `command`")
            }
            _ => None,
        });
        wrong.map_or(Ok(group), |wrong| Err(wrong.to_owned()))
    }

    /// The image among a release's properties.
    pub fn image_of(properties: &Map<String, Value>) -> Option<Digest> {
        properties.get("image")?.get("digest")?.as_str()?.parse().ok()
    }

    /// The release, given the digest of the properties that make one.
    pub fn release(&self, inputs: Digest) -> Release {
        Release { image: self.image.digest, inputs }
    }

    /// The checks' names.
    pub fn checks(&self) -> BTreeSet<CheckName> {
        self.health.iter().map(Health::name).collect()
    }

    /// Whether something stands in front of the instances.
    pub fn fronting(&self) -> Fronting {
        match self.load_balancer {
            Some(_) => Fronting::Balancer,
            None => Fronting::Nothing,
        }
    }

    /// Bounds and manners of its rollouts.
    pub fn options(&self) -> Result<Options, String> {
        let Bounds {
            min_ready,
            health_deadline,
            unhealthy_after,
            drain_timeout,
            progress_deadline,
            rollback_deadline,
            bake,
            max_failures,
            on_failure,
        } = self.rollout.clone();
        Ok(Options {
            strategy: self.strategy.read()?,
            min_ready,
            health_deadline,
            unhealthy_after,
            drain_timeout,
            progress_deadline,
            rollback_deadline,
            bake,
            max_failures,
            on_failure,
            ..Options::default()
        })
    }
}

impl RawStrategy {
    fn read(&self) -> Result<Strategy, String> {
        let Self { kind, max_surge, max_unavailable, order, weights, steps, bake, keep_old, member_check } =
            self.clone();
        let pace = Pace { max_surge, max_unavailable, order };
        Ok(match kind.as_str() {
            "rolling" => Strategy::Rolling(pace),
            "blue_green" => Strategy::BlueGreen { weights, bake, keep_old },
            "canary" => {
                let steps = steps.iter().map(|step| portion(step)).collect::<Result<_, _>>()?;
                Strategy::Canary { steps, bake, pace }
            }
            "quorum" => Strategy::Quorum { member_check: member_check.map(CheckName) },
            "recreate" => Strategy::Recreate,
            other => return Err(format!("`strategy`: there is no strategy `{other}`")),
        })
    }
}

/// A part of a group: `2`, `25%`.
fn portion(text: &str) -> Result<Portion, String> {
    let wrong = |_| format!("`strategy.steps`: `{text}` is neither a number of instances nor a percentage");
    match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse().map(Portion::Percent).map_err(wrong),
        None => text.trim().parse().map(Portion::Instances).map_err(wrong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(given: &Value) -> Map<String, Value> {
        properties(TypeSchema::group("a group")).coerce(given.as_object().unwrap()).unwrap()
    }

    fn image() -> Value {
        json!({"image": "web", "digest": Digest::of(b"web")})
    }

    #[test]
    fn defaults_make_a_group() {
        let group = Group::read(&complete(&json!({"image": image()}))).unwrap();
        assert_eq!(group.options().unwrap(), Options::default());
        assert_eq!((group.size, group.fronting()), (1, Fronting::Nothing));
    }

    #[test]
    fn strategies_are_read() {
        let with = |strategy: Value| {
            let group = Group::read(&complete(&json!({"image": image(), "strategy": strategy}))).unwrap();
            group.options().map(|options| options.strategy)
        };
        assert_eq!(
            with(json!({"kind": "canary", "steps": ["1", "50%"], "bake": "1m"})).unwrap(),
            Strategy::Canary {
                steps: vec![Portion::Instances(1), Portion::Percent(50)],
                bake: Millis::from_secs(60),
                pace: Pace::default(),
            }
        );
        assert!(with(json!({"kind": "canary", "steps": ["some"]})).unwrap_err().contains("`some`"));
        assert_eq!(with(json!({"kind": "recreate"})), Ok(Strategy::Recreate));
    }

    #[test]
    fn checks_are_named_after_what_they_ask() {
        let group = Group::read(&complete(&json!({
            "image": image(),
            "health": [{"port": 80, "path": "/health"}, {"kind": "command", "command": ["pg_isready", "-q"]}],
        })))
        .unwrap();
        let names: Vec<String> = group.health.iter().map(|health| health.name().0).collect();
        assert_eq!(names, ["http :80/health", "pg_isready -q"]);
        let portless = complete(&json!({"image": image(), "health": [{"kind": "tcp"}]}));
        assert!(Group::read(&portless).unwrap_err().contains("needs a `port`"));
    }
}
