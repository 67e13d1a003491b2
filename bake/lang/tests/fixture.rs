//! The fixture workspace, planned whole.

use camino::Utf8Path;
use olbake_core::plan::Architecture;
use olbake_lang::{Inputs, Workspace};

fn workspace() -> Workspace {
    let own = std::env::var("CARGO_MANIFEST_DIR").expect("cargo runs tests");
    let root = Utf8Path::new(&own).join("tests/fixtures/workspace");
    Workspace::load(&root).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn the_plan_of_web() {
    let web = workspace().plan(&"web".parse().unwrap(), &Inputs::offline(Architecture::Amd64));
    let web = web.unwrap_or_else(|problems| panic!("{problems}"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&web.plan).unwrap());
    let texts: Vec<String> =
        web.inline.values().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
    insta::assert_snapshot!(texts.join("\n--------\n"));
}

#[test]
fn everything_is_clean() {
    let found = workspace().check(&Inputs::offline(Architecture::Amd64));
    assert!(found.0.is_empty(), "{found}");
}
