//! What must hold for all inputs: keys follow meaning, and layers of settings keep their order.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use camino::Utf8Path;
use common::{inputs, make, one, plan};
use olbake_core::Digest;
use olbake_core::plan::Plan;
use olbake_lang::Workspace;
use proptest::prelude::*;

/// A recipe whose lines, comments and order of keys vary while it means the same.
fn recipe(blank_lines: usize, comment: &str, swap: bool, value: &str) -> String {
    let space = "\n".repeat(blank_lines);
    let comment = comment.replace(['\n', '\r', '\u{e000}', '\u{e001}'], " ");
    let (one, other) = ("\"After\": \"network.target\"", "\"Description\": \"x\"");
    let keys = if swap { format!("{other}, {one}") } else { format!("{one}, {other}") };
    let (env_one, env_other) = ("\"A\": \"1\"", "\"B\": \"2\"");
    let env = if swap { format!("{env_other}, {env_one}") } else { format!("{env_one}, {env_other}") };
    format!(
        "{space}# {comment}\nS = settings(name = \"c\", fields = {{\"value\": setting(str, doc = \"{blank_lines}\")}})\n{space}\
         def install(s, m):\n    # {comment}\n    apt.packages([\"bb\", \"aa\"])\n{space}    files.content(\"/etc/a\", s.value)\n\
         def units(s, m):\n    systemd.unit(\"u.service\", content = {{\"Unit\": {{{keys}}}}})\n    run.command([\"true\"], env = {{{env}}})\n\
         def verify(s, m):\n    check.file(\"/etc/a\")\n\
         component(name = \"c\", settings = S, install = install, units = units, verify = verify)\n# {value:?}\n"
    )
}

fn planned(recipe: &str, value: &str) -> Plan {
    plan(&one(recipe, &format!(", value = {value:?}")), &inputs()).plan
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn keys_follow_what_a_recipe_means(blank in 0_usize..4, comment in "[^\\PC]{0,20}|\\PC{0,20}", swap: bool, value in "[a-z]{1,8}") {
        let plain = planned(&recipe(0, "", false, ""), &value);
        let moved = planned(&recipe(blank, &comment, swap, ""), &value);
        prop_assert_eq!(plain.key, moved.key);
        prop_assert_eq!(plain.layers[0].key, moved.layers[0].key);
        let other = planned(&recipe(0, "", false, ""), &format!("{value}x"));
        prop_assert_ne!(plain.key, other.key);
    }

    /// Nor does it depend on threads, on what was planned before, or on the order in which a folder lists its files.
    #[test]
    fn a_plan_does_not_depend_on_the_order_of_anything(
        files in proptest::collection::vec((0_usize..4, "[a-z]{1,6}", any::<bool>()), 1..6),
        uses in proptest::collection::vec(proptest::collection::vec(any::<prop::sample::Index>(), 0..4), 1..5),
        seed: u64,
    ) {
        let mut written = Vec::new();
        for (index, (folder, text, shell)) in files.iter().enumerate() {
            let path = format!("/etc/f{folder}/{index}");
            let run = if *shell { format!("    run.command([\"touch\", {path:?}], writes = [{path:?}])\n") } else { String::new() };
            let star = format!(
                "def install(s, m):\n    apt.packages([\"p{folder}\", \"{text}-x\"])\n    files.content({path:?}, {text:?})\n{run}\
                 def verify(s, m):\n    check.file({path:?})\ncomponent(name = \"c{index}\", install = install, verify = verify)\n"
            );
            written.push((format!("components/c{index}/component.star"), star));
        }
        for (index, chosen) in uses.iter().enumerate() {
            let mut components: Vec<usize> = chosen.iter().map(|one| one.index(files.len())).collect();
            let mut seen = std::collections::BTreeSet::new();
            components.retain(|one| seen.insert(*one));
            let list: Vec<String> = components.iter().map(|one| format!("use(\"//components/c{one}\")")).collect();
            let base = if index == 0 { "debian(\"bookworm\")".to_owned() } else { format!("\"//images/i{}\"", (index - 1) / 2) };
            let list = list.join(", ");
            let star = format!("image(name = \"i{index}\", base = {base}, components = [{list}], variants = {{\"v\": {{}}}})\n");
            written.push((format!("images/i{index}/image.star"), star));
        }
        let all = |order: &[(String, String)], reverse: bool| {
            let files: Vec<(&str, &str)> = order.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect();
            let made = make(&files);
            let mut images = made.workspace.images();
            if reverse {
                images.reverse();
            }
            let texts = |planned: Vec<(olbake_core::ImageRef, Result<olbake_lang::Planned, _>)>| -> BTreeMap<String, String> {
                let text = |planned: Result<olbake_lang::Planned, olbake_core::diagnostic::Diagnostics>| {
                    let planned = planned.unwrap_or_else(|problems| panic!("{problems}"));
                    format!("{}{:?}{:?}", planned.plan.to_json(), planned.inline, planned.warnings)
                };
                planned.into_iter().map(|(image, planned)| (image.to_string(), text(planned))).collect()
            };
            let once = texts(made.workspace.plan_all(&images, &inputs()));
            let again = texts(made.workspace.plan_all(&images, &inputs()));
            assert_eq!(once, again);
            once
        };
        let forward = all(&written, false);
        let mut turned = written.clone();
        let middle = usize::try_from(seed % written.len() as u64).unwrap();
        turned.rotate_left(middle);
        turned.reverse();
        prop_assert_eq!(forward, all(&turned, true));
    }

    #[test]
    fn the_highest_layer_that_speaks_is_in_force(
        image: Option<u16>, variant: Option<u16>, dotenv: Option<u16>, environment: Option<u16>, set: Option<u16>,
    ) {
        let component = "S = settings(name = \"c\", fields = {\"n\": setting(int, default = -1, doc = \"d\")})\n\
                         def install(s, m):\n    files.content(\"/etc/n\", str(s.n))\n\
                         component(name = \"c\", settings = S, install = install)\n";
        let argument = image.map_or_else(String::new, |n| format!(", n = {n}"));
        let inner = variant.map_or_else(String::new, |n| format!("\"n\": {n}"));
        let star = format!(
            "image(name = \"web\", base = debian(\"bookworm\"), components = [use(\"//components/c\"{argument})], \
             variants = {{\"v\": {{\"c\": {{{inner}}}}}}})\n"
        );
        let made = make(&[("components/c/component.star", component), ("images/web/image.star", &star)]);
        let mut inputs = inputs();
        inputs.dotenv = dotenv.map(|n| (".env".to_owned(), format!("C_N={n}\n")));
        inputs.environment = environment.map(|n| ("c_n".to_owned(), n.to_string())).into_iter().collect();
        inputs.sets = set.map(|n| format!("web/v:c.n={n}")).into_iter().collect();
        let plan = made.workspace.plan(&"web/v".parse().unwrap(), &inputs).unwrap().plan;
        let spoken = [("image", image), ("variant", variant), (".env", dotenv), ("environment", environment), ("--set", set)];
        let mut expected = vec![("default".to_owned(), -1)];
        expected.extend(spoken.iter().filter_map(|(layer, n)| Some(((*layer).to_owned(), i64::from((*n)?)))));
        let setting = &plan.layers[0].settings["n"];
        let found: Vec<(String, i64)> =
            setting.provenance.iter().map(|one| (one.layer.clone(), one.value.as_i64().unwrap())).collect();
        prop_assert_eq!(setting.value.as_i64(), expected.last().map(|(_, n)| *n));
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn two_hundred_images_are_planned_alike_whatever_the_order() {
    let folder = tempfile::Builder::new().prefix("lang-").tempdir_in("/var/tmp").unwrap();
    olbake_testkit::workspace::generate(folder.path(), 200, 5).unwrap();
    let root = Utf8Path::from_path(folder.path()).unwrap();
    let workspace = Workspace::load(root).unwrap();
    let mut images = workspace.images();
    assert_eq!(images.len(), 200);
    let keys =
        |planned: Vec<(olbake_core::ImageRef, Result<olbake_lang::Planned, _>)>| -> BTreeMap<String, Digest> {
            planned
                .into_iter()
                .map(|(image, planned): (_, Result<_, olbake_core::diagnostic::Diagnostics>)| {
                    (image.to_string(), planned.unwrap_or_else(|problems| panic!("{problems}")).plan.key)
                })
                .collect()
        };
    let forward = keys(workspace.plan_all(&images, &inputs()));
    images.reverse();
    let backward = keys(Workspace::load(root).unwrap().plan_all(&images, &inputs()));
    assert_eq!(forward, backward);
    // Every image gives ports that no other gives.
    let distinct: std::collections::BTreeSet<&Digest> = forward.values().collect();
    assert_eq!(distinct.len(), 200);
    // One image planned alone is the same as among the others.
    let alone = Workspace::load(root).unwrap().plan(&images[7], &inputs()).unwrap();
    assert_eq!(alone.plan.key, forward[&images[7].to_string()]);
}

#[test]
fn the_key_follows_the_version_of_a_secret_and_holds_no_value() {
    let component = "S = settings(name = \"c\", fields = {\"token\": setting(secret, source = \"env:TOKEN\", doc = \"d\")})\n\
                     def install(s, m):\n    files.content(\"/etc/token\", \"t=\" + s.token, mode = 0o600)\n\
                     component(name = \"c\", settings = S, install = install)\n";
    let made = one(component, "");
    let with = |version: &'static [u8]| {
        let mut inputs = inputs();
        inputs.environment.insert("C_TOKEN".into(), "hunter2".into());
        inputs.secret_version = Arc::new(move |source| {
            assert_eq!(source, "env:C_TOKEN");
            Ok(Some(Digest::of(version)))
        });
        plan(&made, &inputs)
    };
    let (one, same, other) = (with(b"1"), with(b"1"), with(b"2"));
    assert_eq!(one.plan.key, same.plan.key);
    assert_ne!(one.plan.key, other.plan.key);
    assert!(!one.plan.to_json().contains("hunter2"));
    assert_eq!(one.inline.values().next().unwrap().as_ref(), "t=\u{e000}c.token\u{e001}".as_bytes());
    let mut unreadable = inputs();
    unreadable.secret_version = Arc::new(|_| Err("`TOKEN` is not set".to_owned()));
    let problems = made.workspace.plan(&"web".parse().unwrap(), &unreadable).unwrap_err();
    assert_eq!(problems.0[0].code, "secret-unreadable");
}
