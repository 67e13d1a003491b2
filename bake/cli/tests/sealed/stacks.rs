//! What the commands about stacks say and how they end, with a stack whose one resource is computed: it needs neither
//! root nor a server.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::support::{Ran, Sealed};

const STACK: &str = "applications.shop.QA";
const OTHER: &str = "applications.shop.Production";
const PASSWORD: (&str, &str) = ("OLBAKE_PASSPHRASE", "of an example");
const SECRET: &str = "a password that nobody guesses";

/// `shop` with a verifier of a password, and `reader` that reads an output of it.
struct Shop(Sealed);

impl Shop {
    fn new() -> Self {
        let sealed = Sealed::empty();
        sealed.write(
            "stacks/applications/shop/stack.star",
            r#"
project(
    config = settings(name = "shop", fields = {
        "password": setting(secret, doc = "a password"),
        "rounds": setting(int, default = 4096, doc = "rounds of hashing", ge = 4096),
        "mode": setting(enum("open", "shut"), default = "open", doc = "a word"),
    }),
    stack = lambda c, ctx: _stack(c),
)

def _stack(c):
    admin = postgresql.verifier("admin", password = c.password, iterations = c.rounds)
    output("mode", c.mode)
    output("verifier", admin.verifier)
"#,
        );
        sealed.write("stacks/applications/shop/QA.toml", "");
        sealed.write(
            "stacks/substructure/reader/stack.star",
            r#"
project(
    config = settings(name = "reader", fields = {}),
    stack = lambda c, ctx: output("mode", ctx.stack("applications.shop.QA").mode),
)
"#,
        );
        sealed.write("stacks/substructure/reader/QA.toml", "");
        sealed.write("secret", SECRET);
        let shop = Self(sealed);
        shop.seal(STACK);
        shop
    }

    /// Writes the password into the configuration, sealed.
    fn seal(&self, stack: &str) {
        let script = format!("\"$0\" config --stack {stack} set --secret password <secret",);
        let done = std::process::Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_olbake")])
            .current_dir(self.0.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env(PASSWORD.0, PASSWORD.1)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let file = stack.replace('.', "/");
        let file = std::fs::read_to_string(self.0.path().join(format!("stacks/{file}.toml"))).unwrap();
        assert!(file.contains("secure = ") && !file.contains(SECRET), "{file}");
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let ran = self.0.olbake_with(arguments, &[PASSWORD]);
        assert!(!ran.text().contains(SECRET), "the secret is in {}", ran.text());
        ran
    }

    /// The same about the stack.
    fn of(&self, arguments: &[&str]) -> Ran {
        self.run(&[arguments, &["--stack", STACK]].concat())
    }

    fn deployed() -> Self {
        let shop = Self::new();
        ends(&shop.of(&["deploy", "--yes"]), 0, "1 action done");
        shop
    }
}

#[track_caller]
fn ends(ran: &Ran, code: i32, said: &str) {
    let text = ran.text();
    assert_eq!(ran.code, Some(code), "{text}");
    assert!(text.contains(said), "{said:?} is not in:\n{text}");
}

fn json(ran: &Ran) -> serde_json::Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.text()))
}

#[test]
fn from_preview_to_destroy() {
    let shop = Shop::new();
    ends(&shop.of(&["preview"]), 0, "+ create admin postgresql.verifier");
    ends(&shop.run(&["status"]), 0, "nothing is deployed");
    ends(&shop.of(&["status"]), 0, "nothing of `applications.shop.QA` is deployed");
    ends(&shop.of(&["outputs"]), 3, "`olbake deploy --stack applications.shop.QA`");
    ends(&shop.of(&["stack", "history"]), 0, "was never deployed");
    ends(&shop.of(&["deploy"]), 3, "`--yes` carries it out unasked");
    ends(&shop.of(&["deploy", "--yes"]), 0, "1 action done");
    ends(&shop.of(&["deploy", "--yes"]), 0, "");
    ends(&shop.of(&["outputs", "mode"]), 0, "----- stdout -----\nopen\n");
    ends(&shop.of(&["outputs", "mood"]), 3, "known names: mode, verifier");
    let preview = json(&shop.of(&["preview", "--json"]));
    assert_eq!((preview["actions"].as_array().unwrap().len(), preview["unchanged"].as_u64()), (0, Some(1)));
    ends(&shop.of(&["drift"]), 0, "");
    ends(&shop.of(&["refresh"]), 0, "everything is as it was written down");
    ends(&shop.of(&["state", "orphans"]), 0, "there is nothing that the state does not know of");
    let history = json(&shop.of(&["stack", "history", "--json"]));
    // The second deploy had nothing to do.
    assert_eq!((history.as_array().unwrap().len(), &history[0]["summary"]), (1, &"1 create".into()));
    ends(&shop.of(&["destroy", "--yes"]), 0, "1 action done");
    ends(&shop.run(&["status"]), 0, "nothing is deployed");
}

#[test]
fn status_and_list_tell_of_each_stack() {
    let shop = Shop::deployed();
    insta::assert_snapshot!(shop.run(&["status"]).text());
    let rows = json(&shop.run(&["status", "--json"]));
    assert_eq!(rows[0]["stack"], STACK);
    assert!(rows[0]["group"].is_null() && rows[0]["state"] == "deployed", "{rows}");
    ends(&shop.run(&["status", "--stack", "applications.shoop.QA"]), 3, "applications.shop.QA");
    ends(
        &shop.run(&["status", "--stack", "QA"]),
        3,
        "there are: applications.shop.QA, substructure.reader.QA",
    );
    ends(&shop.run(&["status", "--stack", "applications.shop.Qa"]), 3, "did you mean `QA`?");
    ends(&shop.run(&["stack", "list"]), 0, "substructure.reader.QA  -          -         never deployed");
    ends(&shop.run(&["deploy", "--yes"]), 3, "there are: applications.shop.QA, substructure.reader.QA");
}

#[test]
fn a_state_that_cannot_be_read_hides_its_own_stack_only() {
    let shop = Shop::deployed();
    shop.0.write("stacks/applications/shop/Production.toml", "");
    shop.seal(OTHER);
    ends(&shop.run(&["deploy", "--yes", "--stack", OTHER]), 0, "1 action done");
    let head = find(&shop.0.path().join(".olbake"), STACK, "HEAD");
    let whole = std::fs::read(&head).unwrap();
    std::fs::write(&head, &whole[..whole.len() / 2]).unwrap();
    for command in [&["status"][..], &["stack", "list"]] {
        let ran = shop.run(command);
        ends(&ran, 5, "applications.shop.QA");
        assert!(ran.stdout.contains(OTHER), "{}", ran.text());
    }
    for command in ["preview", "outputs", "refresh", "drift"] {
        ends(&shop.of(&[command]), 5, "HEAD");
    }
    ends(&shop.of(&["deploy", "--yes"]), 5, "HEAD");
    // What reads its outputs says so too, and is not at fault.
    ends(&shop.run(&["preview", "--stack", "substructure.reader.QA"]), 5, "error[unreadable]");
    assert_eq!(std::fs::read(&head).unwrap(), whole[..whole.len() / 2], "something was written over it");
    std::fs::write(&head, &whole).unwrap();
    ends(&shop.run(&["status"]), 0, "deployed");
}

/// A file below a folder whose path has a part of the stack's name in it.
fn find(folder: &std::path::Path, part: &str, name: &str) -> std::path::PathBuf {
    let mut next = vec![folder.to_owned()];
    while let Some(folder) = next.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                next.push(path);
            } else if path.ends_with(name) && path.to_str().unwrap().contains(part) {
                return path;
            }
        }
    }
    panic!("there is no `{name}` of `{part}`")
}

#[test]
fn a_plan_is_carried_out_as_it_was_or_not_at_all() {
    let shop = Shop::new();
    ends(&shop.of(&["preview", "--out", "plan.json"]), 0, "the plan is in `plan.json`");
    let other = ["deploy", "--plan", "plan.json", "--stack", "substructure.reader.QA"];
    ends(&shop.run(&other), 3, "the plan is of `applications.shop.QA`");
    ends(&shop.run(&["deploy", "--plan", "secret"]), 3, "is no plan of a stack");
    ends(&shop.run(&["deploy", "--plan", "nothing.json"]), 3, "cannot read the plan");
    ends(&shop.run(&["deploy", "--plan", "plan.json"]), 0, "1 action done");
    // The world has moved on since.
    ends(&shop.run(&["deploy", "--plan", "plan.json"]), 8, "plan");
}

#[test]
fn targets_and_replacements_are_names_that_there_are() {
    let shop = Shop::deployed();
    ends(&shop.of(&["preview", "--replace", "admin"]), 0, "admin");
    ends(&shop.of(&["preview", "--replace", "admim"]), 4, "admin");
    ends(&shop.of(&["preview", "--target", "admim"]), 4, "admin");
}

#[test]
fn the_passphrase_opens_the_secrets_and_can_be_changed() {
    let shop = Shop::new();
    let deploy = ["deploy", "--yes", "--stack", STACK];
    ends(&shop.0.olbake(&deploy), 3, "give it by OLBAKE_PASSPHRASE");
    let wrong = shop.0.olbake_with(&deploy, &[("OLBAKE_PASSPHRASE", "another")]);
    ends(&wrong, 3, "passphrase");
    ends(&shop.of(&["deploy", "--yes"]), 0, "1 action done");
    ends(&shop.of(&["config", "rewrap"]), 3, "OLBAKE_NEW_PASSPHRASE");
    let new = ("OLBAKE_NEW_PASSPHRASE", "of a new example");
    let rewrap = ["config", "rewrap", "--stack", STACK];
    ends(&shop.0.olbake_with(&rewrap, &[("OLBAKE_PASSPHRASE", "another"), new]), 3, "passphrase");
    ends(&shop.0.olbake_with(&rewrap, &[PASSWORD, new]), 0, "opened anew");
    ends(&shop.of(&["preview"]), 3, "passphrase");
    let preview = ["preview", "--stack", STACK];
    let unchanged = shop.0.olbake_with(&preview, &[("OLBAKE_PASSPHRASE", new.1)]);
    // Nothing that was deployed with the secret changes.
    ends(&unchanged, 0, "1 unchanged");
    assert!(!unchanged.text().contains("update"), "{}", unchanged.text());
}

#[test]
fn what_does_not_fit_is_not_set() {
    let shop = Shop::new();
    let file = || std::fs::read_to_string(shop.0.path().join("stacks/applications/shop/QA.toml")).unwrap();
    let before = file();
    for (key, value, said) in [
        ("rounds", "many", "expected"),
        ("rounds", "1", "must be at least 4096"),
        ("rounds.more", "1", "has no `rounds.more`"),
        ("mode", "opne", "did you mean `open`?"),
    ] {
        ends(&shop.of(&["config", "set", key, value]), 3, said);
        assert_eq!(file(), before, "{key} was set");
    }
    ends(&shop.of(&["config", "set", "rounds", "5000"]), 0, "");
    ends(&shop.of(&["config", "set", "mode", "shut"]), 0, "");
    assert!(file().contains("rounds = 5000") && file().contains("mode = \"shut\""), "{}", file());
    ends(&shop.of(&["config", "unset", "mode"]), 0, "");
    ends(&shop.of(&["config", "unset", "mode"]), 3, "does not set `mode`");
}

#[test]
fn configuration_and_graph_need_nothing_deployed() {
    let shop = Shop::new();
    for command in [&["config", "list"][..], &["graph", "--format", "mermaid"], &["graph", "--format", "dot"]]
    {
        let reader = [command, &["--stack", "substructure.reader.QA"]].concat();
        assert_eq!(shop.0.olbake(&reader).code, Some(0), "{}", shop.0.olbake(&reader).text());
    }
    insta::assert_snapshot!(shop.of(&["config", "list"]).text());
    ends(&shop.of(&["graph"]), 0, "<svg");
    ends(&shop.of(&["graph", "--format", "dot"]), 0, "admin");
    ends(&shop.run(&["preview", "--stack", "substructure.reader.QA"]), 4, "never deployed");
}

#[test]
fn a_policy_stands_against_a_plan() {
    let shop = Shop::new();
    shop.0.write(
        "policies/none.star",
        "def _none(plan):\n    for action in plan.actions:\n        deny(\"no %s here\" % action.type)\n\n\
         policy(name = \"none\", check = _none)\n",
    );
    ends(&shop.of(&["preview"]), 8, "no postgresql.verifier here");
    ends(&shop.of(&["deploy", "--yes"]), 8, "1 violation of the policies");
    ends(&shop.run(&["status"]), 0, "nothing is deployed");
}

#[test]
fn images_that_may_not_be_deployed_say_why() {
    let shop = Shop::new();
    shop.0.write(
        "stacks/applications/shop/stack.star",
        "project(\n    config = settings(name = \"shop\", fields = {}),\n    \
         stack = lambda c, ctx: output(\"image\", ctx.image(\"web\").digest),\n)\n",
    );
    shop.0.write("images/web/image.star", "image(components = [])\n");
    shop.0.write("stacks/applications/shop/QA.toml", "");
    ends(&shop.of(&["preview"]), 4, "web");
    shop.0.write("stacks/applications/shop/QA.toml", "[channels]\nweb = \"Prodution\"\n");
    ends(&shop.of(&["preview"]), 4, "did you mean `Production`?");
}

#[test]
fn without_a_group_there_is_no_rollout() {
    let shop = Shop::deployed();
    ends(&shop.of(&["rollout", "status"]), 3, "the stack has no group of instances");
    ends(&shop.of(&["rollout", "pause"]), 3, "the stack has no group of instances");
    ends(&shop.of(&["deploy", "--simulate"]), 0, "no rollout to simulate");
    ends(&shop.of(&["deploy", "--simulate", "--fail", "boot=120"]), 2, "up to 100");
    ends(&shop.of(&["deploy", "--fail", "boot"]), 2, "--simulate");
    ends(&shop.of(&["stack", "unlock"]), 0, "nobody holds");
}

#[test]
fn a_stack_in_other_hands_is_left_alone_and_whoever_lost_it_stops() {
    let shop = Shop::new();
    shop.0.write(
        "stacks/applications/shop/stack.star",
        r#"
project(
    config = settings(name = "shop", fields = {"password": setting(secret, doc = "a password")}),
    stack = lambda c, ctx: _stack(c),
)

def _stack(c):
    for n in range(20):
        postgresql.verifier("user%d" % n, password = c.password, iterations = 20000)
"#,
    );
    let arguments = ["deploy", "--yes", "--json", "--stack", STACK];
    let mut first = shop
        .0
        .command(&arguments, &[PASSWORD])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = BufReader::new(first.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(events.any(|line| line.contains("\"action_done\"")), "it did nothing");
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &first.id().to_string()]).status();
        assert!(sent.unwrap().success());
    };
    // Stopped between two writes: in the midst of one it would hold the store's own lock too.
    loop {
        signal("-STOP");
        // Until all its threads do.
        std::thread::sleep(Duration::from_millis(100));
        let locks = std::fs::read_dir(shop.0.path().join(".olbake/state/.locks")).unwrap().flatten();
        if locks.map(|lock| File::open(lock.path()).unwrap()).all(|lock| lock.try_lock().is_ok()) {
            break;
        }
        signal("-CONT");
        std::thread::sleep(Duration::from_millis(2));
    }

    let refused = shop.of(&["deploy", "--yes"]);
    ends(&refused, 8, "`applications.shop.QA` is held by");
    ends(&refused, 8, "deploy");
    ends(&shop.of(&["deploy", "--yes", "--wait", "1"]), 8, "is held by");
    ends(&shop.of(&["preview"]), 0, "+ create");
    ends(&shop.of(&["stack", "unlock"]), 0, "it no longer is");

    // It wakes, and finds that it has nothing more to say.
    signal("-CONT");
    let rest: Vec<String> = events.collect();
    let ended = shop.0.ran(&arguments, first.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(8), "{rest:?}\n{}", ended.text());
    assert!(rest.last().unwrap().contains("was taken over"), "{rest:?}");
    let done = rest.iter().filter(|line| line.contains("\"action_done\"")).count();
    assert!(done < 18, "it went on to its end");

    // Whoever has it now goes on from what was written down.
    ends(&shop.of(&["deploy", "--yes"]), 0, "done");
    let outputs = json(&shop.of(&["preview", "--json"]));
    assert_eq!((outputs["actions"].as_array().unwrap().len(), outputs["unchanged"].as_u64()), (0, Some(20)));
}
