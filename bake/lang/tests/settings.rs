//! Settings of every type, as recipes see them.

mod common;

use common::{inputs, make, one, plan, problems};
use insta::assert_snapshot;

const EVERY_TYPE: &str = r##"
Plugin = record(repository = str, version = field(str | None, None), ports = list[port])

S = settings(name = "c", fields = {
    "text": setting(str, default = "a", len = (1, 3), regex = "[a-z]+", doc = "d"),
    "whole": setting(int, default = 1, one_of = [1, 2, 3], doc = "d"),
    "truth": setting(bool, default = False, doc = "d"),
    "number": setting(float, default = 0.5, ge = 0, doc = "d"),
    "place": setting(path, default = "/srv", doc = "d"),
    "link": setting(url, default = "https://example.org/", doc = "d"),
    "time": setting(duration, default = "1m30s", doc = "d"),
    "size": setting(bytesize, default = "1KiB", doc = "d"),
    "release": setting(version, default = "2.6.2-5", doc = "d"),
    "host": setting(hostname, default = "a.example.org", doc = "d"),
    "address": setting(ip, default = "::1", doc = "d"),
    "network": setting(cidr, default = "10.0.0.0/8", doc = "d"),
    "listen": setting(port, default = 80, doc = "d"),
    "bits": setting(mode, default = "0640", doc = "d"),
    "level": setting(enum("low", "high"), default = "low", doc = "d"),
    "names": setting(list[str], default = [], check = hostname, doc = "d"),
    "tags": setting(set[str], default = ["b", "a", "b"], doc = "d"),
    "labels": setting(map[str, list[int]], default = {"b": [2], "a": [1]}, doc = "d"),
    "limits": setting(dict[str, int] | None, default = None, doc = "d"),
    "plugins": setting(list[Plugin], default = [{"repository": "x", "ports": [1]}], doc = "d"),
    "either": setting(int | enum("auto") | None, default = "auto", doc = "d"),
    "later": setting(deferred, default = "{{ vault }}", doc = "d"),
    "even": setting(int, default = 2, check = lambda v: v % 2 == 0 or "must be even", doc = "d"),
    "total": setting(int, computed = lambda s: s.whole + s.even, doc = "d"),
    "double": setting(int, computed = lambda s: s.total * 2, doc = "d"),
})

def install(s, m):
    seen = [s.text, s.whole, s.truth, s.number, s.place, s.link, s.time, s.size, s.release, s.host, s.address, s.network]
    seen += [s.listen, s.bits, s.level, s.names, s.tags, s.labels, s.limits, s.plugins[0].ports, s.plugins[0].version]
    seen += [s.either, s.later, s.even, s.total, s.double]
    files.content("/etc/seen", "\n".join([repr(x) for x in seen]))
    kept = [str(5), int("5"), bool(1), float(2), list((1, 2)), dict(a = 1), sorted(set([2, 1])), map(lambda x: x + 1, [1])]
    files.content("/etc/kept", "\n".join([str(x) for x in kept]))
    path, version, mode = "own", "names", "win"
    files.content("/etc/names", f"{path} {version} {mode}")

component(name = "c", settings = S, install = install)
"##;

fn texts(arguments: &str) -> String {
    let made = one(EVERY_TYPE, arguments);
    let planned = plan(&made, &inputs());
    let contents = planned.plan.layers[0].operations.iter().flat_map(|operation| operation.action.contents());
    let texts: Vec<String> = contents
        .map(|content| String::from_utf8_lossy(&planned.inline[&content.digest]).into_owned())
        .collect();
    texts.join("\n----\n")
}

#[test]
fn defaults_of_every_type() {
    assert_snapshot!(texts(""));
}

#[test]
fn values_from_the_environment() {
    let made = one(EVERY_TYPE, "");
    let mut inputs = inputs();
    let variables = [
        ("C_WHOLE", "3"),
        ("C_TRUTH", "yes"),
        ("C_NUMBER", "1.5"),
        ("C_TIME", "2h"),
        ("C_SIZE", "4 MiB"),
        ("C_LISTEN", "443"),
        ("C_BITS", "0o600"),
        ("C_NAMES", "a.example, b.example"),
        ("C_TAGS", "z,y,z"),
        ("C_LABELS__C", "[3, 4]"),
        ("C_LIMITS", "{\"a\": 1}"),
        ("C_EITHER", "7"),
        ("C_EVEN", "4"),
    ];
    inputs.environment =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let planned = plan(&made, &inputs);
    let read: olbake_core::plan::Plan = serde_json::from_str(&planned.plan.to_json()).expect("a plan");
    assert_eq!(read, planned.plan);
    let lines =
        planned.plan.layers[0].settings.iter().map(|(name, setting)| format!("{name} = {}", setting.value));
    assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn every_rule_speaks() {
    let arguments = ", text = \"A1bcd\", whole = 4, number = -1, place = \"srv\", link = \"example\", time = \"soon\", \
                     size = \"big\", release = \"v\", host = \"a b\", address = \"1.2.3\", network = \"10.0.0.0\", listen = 0, \
                     bits = \"999\", level = \"hgih\", names = [\"ok.example\", \"-\"], tags = [1], labels = {\"a\": 1}, \
                     plugins = [{\"repo\": \"x\"}], either = \"no\", total = 5";
    assert_snapshot!(problems(&one(EVERY_TYPE, &arguments.replace(", ", ",\n    ")), &inputs()));
    let mut text = problems(&one(EVERY_TYPE, ", even = 3"), &inputs());
    text.push_str(&problems(&one(EVERY_TYPE, ", truth = \"yes\", whole = 1.5, text = None"), &inputs()));
    assert_snapshot!(text);
}

/// Two components share what a file declares; each layer counts more than the one before it.
#[test]
fn a_component_has_values_of_its_own_for_shared_settings() {
    let shared = r#"
def service(name):
    return settings(name = name, fields = {
        "listen": setting(port, default = 80, doc = "d"),
        "limits": setting(map[str, int], default = {"open": 1}, doc = "d"),
        "token": setting(secret | None, default = None, doc = "d"),
    })
"#
    .replace(", default = None", "");
    let component = |name: &str, values: &str| {
        format!(
            "load(\"//lib/service.star\", \"service\")\n\
             def install(s, m): files.content(\"/etc/{name}\", \"%d\" % s.listen)\n\
             component(\n    name = \"{name}\",\n    settings = service(\"{name}\"),\n    values = {values},\n    install = install,\n)\n"
        )
    };
    let image = r#"
image(
    name = "web",
    base = debian("bookworm"),
    components = [use("//components/c"), use("//components/d", listen = 82)],
    variants = {"large": {"d": {"listen": 83}}},
)
"#;
    let with = |values: &str| {
        make(&[
            ("lib/service.star", &shared),
            ("components/c/component.star", &component("c", values)),
            ("components/d/component.star", &component("d", r#"{"listen": 81, "limits": {"open": 2}}"#)),
            ("images/web/image.star", image),
        ])
    };
    let made = with("{}");
    let mut inputs = inputs();
    inputs.dotenv = Some((".env".to_owned(), "D_LISTEN=84\n".to_owned()));
    inputs.environment = [("D_LISTEN".to_owned(), "85".to_owned())].into();
    inputs.sets = vec!["d.listen=86".to_owned()];
    let large =
        made.workspace.plan(&"web/large".parse().unwrap(), &inputs).unwrap_or_else(|found| panic!("{found}"));
    let of = |layer: usize, name: &str| large.plan.layers[layer].settings[name].clone();
    let said: Vec<String> =
        of(1, "listen").provenance.iter().map(|from| format!("{} {}", from.layer, from.value)).collect();
    assert_eq!(
        said,
        ["default 80", "component 81", "image 82", "variant 83", ".env 84", "environment 85", "--set 86"]
    );
    assert_eq!(
        of(1, "listen").provenance[1].span.as_ref().unwrap().location().to_string(),
        "components/d/component.star:6:16"
    );
    assert_eq!((of(0, "listen").value, of(1, "limits").value), (80.into(), serde_json::json!({"open": 2})));
    let reference =
        made.workspace.settings_reference(&"d".parse().unwrap()).unwrap_or_else(|found| panic!("{found}"));
    assert!(reference.contains("| `listen` | `port` | `81` |"), "{reference}");

    let wrong = with(r#"{"listne": 1, "listen": "x", "token": "plain"}"#);
    assert_snapshot!(problems(&wrong, &common::inputs()));
    assert_snapshot!(problems(&with("[1]"), &common::inputs()));
}

/// Where values come from can be asked of an image that cannot be planned: that is when people ask.
#[test]
fn settings_are_explained_whatever_is_wrong() {
    let component = r#"
S = settings(name = "c", fields = {
    "fine": setting(int, default = 1, doc = "d"),
    "wrong": setting(int, default = 1, doc = "d"),
}, validate = [("fine is one", lambda s: s.fine == 1)])
def install(s, m): fail("nothing works")
component(name = "c", settings = S, install = install)
"#;
    let made = one(component, ", fine = 2, wrong = \"x\"");
    let mut inputs = inputs();
    inputs.sets = vec!["c.fine=3".to_owned()];
    let web = "web".parse().expect("a name");
    assert!(made.workspace.plan(&web, &inputs).is_err());
    let explained = made.workspace.settings(&web, &inputs).unwrap_or_else(|found| panic!("{found}"));
    let (name, settings) = &explained.layers[0];
    let said: Vec<String> =
        settings["fine"].provenance.iter().map(|from| format!("{} {}", from.layer, from.value)).collect();
    assert_eq!((name.as_str(), said), ("c", ["default 1", "image 2", "--set 3"].map(str::to_owned).to_vec()));
    assert!(!settings.contains_key("wrong"));
    assert_eq!(explained.problems.0.len(), 1, "{}", explained.problems);
    assert!(made.workspace.settings(&"none".parse().expect("a name"), &inputs).is_err());
}
