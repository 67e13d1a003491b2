//! What a session withstands: damaged blobs, kills, cancels, a closed stream, failures; and that the result depends
//! on none of the orders in which operations may run.

mod support;

use olbake_core::operation::{Action, LinePlace, PackageRequest, PackageState, Run, UserAccount};
use olbake_core::protocol::{FromAgent, ToAgent};
use olbake_core::report::Outcome;
use support::Machine;
use support::driver::{How, Session, Then};
use support::plan::{Plan, argv, command, directory, id, line, owned, put, service, shell};

/// Operations of many kinds, dependent and independent, none of which needs a network.
fn mixed() -> Plan {
    let mut plan = Plan::default();
    plan.add(Action::Group { name: "app".into(), present: true, gid: None, system: true });
    plan.add(Action::User {
        name: "app".into(),
        account: Some(UserAccount {
            home: Some("/var/lib/app".into()),
            create_home: true,
            system: true,
            ..UserAccount::default()
        }),
    });
    plan.add(directory("/srv/app", owned("app", "app", 0o750)));
    for name in ["a", "b", "c"] {
        let content = plan.content(format!("{name}\n"));
        let Action::FilePut { path, content, .. } = put(&format!("/srv/app/{name}"), content) else {
            unreachable!()
        };
        let ownership = owned("app", "root", 0o640);
        plan.add(Action::FilePut { path, content, ownership, validate: None, only_if_absent: false });
        plan.put(&format!("/srv/free/{name}/deep"), name);
    }
    for number in 0..3 {
        plan.add(line("/srv/lines", &format!("line {number}")));
    }
    plan.add(Action::FileLink { path: "/srv/link".into(), target: "app/a".into(), force: false });
    plan.put(
        "/etc/systemd/system/app.service",
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n",
    );
    plan.add(service("app.service", true));
    plan.add(Action::FileAbsent { path: "/srv/app/c".into() });
    plan.add(Action::Run(Box::new(Run {
        creates: Some("/srv/counted".into()),
        ..shell("ls /srv/free | wc -l > /srv/counted.new; mv /srv/counted.new /srv/counted")
    })));
    plan.add(Action::Hosts { address: "10.0.0.9".into(), names: vec!["nine".into()] });
    plan.add(Action::FileIni {
        path: "/srv/ini".into(),
        section: "s".into(),
        key: "k".into(),
        value: Some("v".into()),
        validate: None,
    });
    plan
}

#[test]
fn every_schedule_gives_the_same_tree() {
    if support::skip() {
        return;
    }
    let plan = mixed();
    let reference = Machine::new();
    assert_eq!(reference.apply(&plan, "run").summary().changed, plan.operations.len());
    let expected = reference.tree();
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..6 {
        let machine = Machine::new();
        let told = machine.agent(&plan, &How { shuffle: Some(seed), ..How::apply("run") });
        assert_eq!(told.summary().failed + told.summary().not_run, 0, "{told:#?}");
        orders.insert(told.reports.iter().map(|report| report.id.clone()).collect::<Vec<_>>());
        support::assert_same_tree(&expected, &machine.tree(), &format!("seed {seed}"));
    }
    assert!(orders.len() > 1, "the seeds gave one order only");
}

#[test]
fn a_kill_at_any_operation_is_resumed_to_the_same_tree() {
    if support::skip() {
        return;
    }
    let plan = mixed();
    let reference = Machine::new();
    reference.apply(&plan, "run");
    let expected = reference.tree();
    let how = How { shuffle: Some(1), ..How::apply("run") };
    for number in 1..=plan.operations.len() {
        let machine = Machine::new();
        let target = id(number);
        let killed = machine.agent_then(&plan, &how, |message| match message {
            FromAgent::Started { id } if *id == target => Then::Kill,
            _ => Then::GoOn,
        });
        assert!(killed.summary.is_none());
        let told = machine.agent(&plan, &how);
        let summary = told.summary();
        assert_eq!((summary.failed, summary.not_run), (0, 0), "killed at {target}: {told:#?}");
        for report in &killed.reports {
            assert!(told.report(&report.id).resumed, "{} ended before the kill and ran again", report.id);
        }
        support::assert_same_tree(&expected, &machine.tree(), &format!("killed at {target}"));
    }
}

#[test]
fn what_changed_before_a_kill_still_counts_as_changed() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    let mut plan = Plan::default();
    plan.put("/srv/a", "a");
    plan.add(command(["sleep", "60"]));
    plan.add(command(["touch", "/srv/handled"])).when_changed = vec![id(1)];
    let killed = machine.agent_then(&plan, &How::apply("run"), |message| match message {
        FromAgent::Started { id: started } if *started == id(2) => Then::Kill,
        _ => Then::GoOn,
    });
    assert_eq!(killed.reports.len(), 1);
    let Action::Run(sleep) = &mut plan.operations[1].action else { unreachable!() };
    sleep.argv = argv(["true"]);
    let told = machine.apply(&plan, "run");
    assert_eq!(told.summary().changed, 3);
    assert!(machine.holds("test -e /srv/handled"));
    let other = machine.apply(&plan, "another run");
    assert!(other.reports.iter().all(|report| !report.resumed));
    assert_eq!(other.report(&id(3)).outcome, Outcome::Skipped);
}

#[test]
fn damaged_and_missing_blobs_are_refused() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    let mut plan = Plan::default();
    plan.put("/srv/a", "right");
    let digest = *plan.blobs.keys().next().unwrap();
    let mut session = Session::open(&machine);
    session.start(&plan.operations, &plan.secrets, &How::apply("run"));
    session.blob(digest, b"wrong");
    session.say(&ToAgent::Ready);
    let told = session.finish(&plan, |_| Then::GoOn);
    assert!(told.fault.as_ref().is_some_and(|fault| fault.contains("damaged")), "{told:#?}");
    let nothing = Plan { blobs: Default::default(), ..plan.clone() };
    let told = machine.apply(&nothing, "run");
    assert!(told.fault.as_ref().is_some_and(|fault| fault.contains("did not come")), "{told:#?}");
    assert!(!machine.holds("test -e /srv/a"));
    assert_eq!(machine.apply(&plan, "run").summary().changed, 1);
}

#[test]
fn a_blob_is_asked_for_only_when_it_is_missing() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    let mut plan = Plan::default();
    plan.put("/srv/a", vec![b'x'; 300_000]);
    let mut session = Session::open(&machine);
    session.start(&plan.operations, &plan.secrets, &How::apply("run"));
    for (digest, bytes) in &plan.blobs {
        session.blob(*digest, bytes);
    }
    session.say(&ToAgent::Ready);
    let told = session.finish(&plan, |message| {
        assert!(!matches!(message, FromAgent::Need { .. }));
        Then::GoOn
    });
    assert_eq!(told.summary().changed, 1);
}

fn long(text: &str) -> Plan {
    let mut plan = Plan::of([Action::Run(Box::new(shell(text)))]);
    plan.put("/srv/after", "x");
    plan
}

#[test]
fn a_cancel_ends_the_command_and_starts_nothing() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    let plan = long("echo started; sleep 600; touch /srv/survived");
    let told = machine.agent_then(&plan, &How::apply("run"), |message| match message {
        FromAgent::Output { line, .. } if line == "started" => Then::Cancel,
        _ => Then::GoOn,
    });
    assert!(told.cancelled);
    assert_eq!((told.summary().failed, told.summary().not_run), (1, 1));
    assert_eq!(told.failure(), "cancelled");
    assert!(!machine.holds("test -e /srv/after -o -e /srv/survived"));
}

#[test]
fn a_closed_stream_ends_agent_and_commands() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    let plan = long("trap 'touch /srv/ended' TERM; echo started; sleep 600 & wait");
    // `finish` waits for the agent's end.
    machine.agent_then(&plan, &How::apply("run"), |message| match message {
        FromAgent::Output { line, .. } if line == "started" => Then::Close,
        _ => Then::GoOn,
    });
    assert!(machine.holds("test -e /srv/ended -a ! -e /srv/after"));
}

#[test]
fn a_failing_command_is_told_as_typed_with_its_end() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    let mut plan =
        Plan::of([command(["sh", "-c", "for i in $(seq 100); do echo line $i; done; echo why >&2; exit 3"])]);
    plan.put("/srv/after", "x");
    let told = machine.apply(&plan, "run");
    let failure = told.reports[0].failure.as_ref().unwrap();
    assert_eq!(failure.status.as_deref(), Some("exit status 3"));
    assert!(failure.command.as_ref().unwrap().starts_with("sh -c 'for i in $(seq 100)"));
    let output = failure.output.as_ref().unwrap();
    assert!(
        output.contains("line 100") && output.contains("why") && !output.contains("line 10\n"),
        "{output}"
    );
    assert_eq!(told.summary().not_run, 1);
    assert_eq!(told.lines.len(), 101);
    let missing = machine.apply(&Plan::of([command(["no-such-thing"])]), "run 2");
    assert_eq!(missing.failure(), "there is no program `no-such-thing` on the machine");
}

#[test]
fn failures_stop_the_run_or_only_what_depends_on_them() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    let mut plan = Plan::default();
    plan.add(directory("/etc/passwd", owned("root", "root", 0o755)));
    plan.put("/etc/passwd/below", "x");
    plan.put("/srv/free", "x");
    let how = How { shuffle: None, ..How::apply("run") };
    let told = machine.agent(&plan, &How { keep_going: true, ..how });
    assert_eq!(
        (told.summary().failed, told.summary().not_run, told.summary().changed),
        (1, 1, 1),
        "{told:#?}"
    );
    assert_eq!(told.failure(), "`/etc/passwd` is to be a directory, and is a file: remove it first");
}

#[test]
fn timeouts_retries_and_lists_of_codes() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    let run = |run: Run| Plan::of([Action::Run(Box::new(run))]);
    let told = machine.apply(&run(Run { timeout_seconds: Some(1), ..shell("sleep 600 & sleep 600") }), "1");
    assert_eq!(told.reports[0].failure.as_ref().unwrap().status.as_deref(), Some("stopped after 1 s"));
    let told = machine
        .apply(&run(Run { retries: 1, ..shell("test -e /srv/again || { touch /srv/again; exit 1; }") }), "2");
    assert_eq!(told.only().outcome, Outcome::Changed);
    let told = machine.apply(&run(Run { changed_codes: vec![9], ok_codes: vec![0], ..shell("exit 0") }), "3");
    assert_eq!(told.only().outcome, Outcome::Ok);
}

#[test]
fn a_refused_validation_leaves_the_file_as_it_was() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    machine.sh("echo old > /srv/conf; chmod 600 /srv/conf");
    let before = machine.tree();
    let mut plan = Plan::default();
    let content = plan.content("new\n");
    let Action::FilePut { path, content, ownership, .. } = put("/srv/conf", content) else { unreachable!() };
    let validate = Some(argv(["sh", "-c", "echo bad config in $0; grep -q old $0", "%s"]));
    plan.add(Action::FilePut { path, content, ownership, validate, only_if_absent: false });
    let told = machine.apply(&plan, "run");
    assert!(told.failure().contains("refused the new `/srv/conf`"), "{told:#?}");
    assert!(
        told.only()
            .failure
            .as_ref()
            .unwrap()
            .output
            .as_ref()
            .unwrap()
            .contains("bad config in /srv/.olbake-tmp-")
    );
    support::assert_same_tree(&before, &machine.tree(), "a refused file");
}

#[test]
fn a_package_that_is_not_there_is_named() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    machine.sh(
        "mkdir /srv/repo; printf 'Package: nginx\\nVersion: 1\\nArchitecture: all\\nFilename: ./x.deb\\nSize: 1\\nSHA256: 00\\n' \
         > /srv/repo/Packages; rm -f /etc/apt/sources.list.d/*; echo 'deb [trusted=yes] file:/srv/repo ./' > /etc/apt/sources.list",
    );
    let install = |name: &str, state: PackageState| {
        let packages = vec![PackageRequest { name: name.into(), state }];
        Plan::of([Action::AptPackages { packages, recommends: false, start_services: false }])
    };
    let told = machine.apply(&install("nginz", PackageState::Present), "1");
    let expected = "there is no package `nginz` in the machine's package sources; did you mean `nginx`?";
    assert_eq!(told.failure(), expected);
    let told = machine.agent(&install("nginz", PackageState::Present), &How::check());
    assert_eq!(told.failure(), expected);
    let told = machine.apply(&install("nginx", PackageState::Version("9".into())), "2");
    let expected = "the package `nginx` is not in the machine's package sources in version 9; they offer 1";
    assert_eq!(told.failure(), expected);
    assert!(!machine.holds("test -e /usr/sbin/policy-rc.d"));
}

#[test]
fn no_secret_leaves_the_machine() {
    if support::skip() {
        return;
    }
    let machine = Machine::new();
    let value = "p&ss w'rd\"42";
    let mut plan = Plan::default();
    let token = plan.secret("c.token", value);
    let text = "printf '%s\\n' \"$T\"; printf %s \"x$T\" | base64; echo \"$T\" >&2; echo p%26ss%20w%27rd%2242; cat \"/nowhere/$T\"; exit 1";
    plan.add(Action::Run(Box::new(Run {
        env: [("T".to_owned(), token.marker())].into(),
        secrets: vec![token.clone()],
        ..shell(text)
    })));
    let told = machine.apply(&plan, "run");
    assert!(told.lines.iter().filter(|line| line.contains("***")).count() >= 4, "{told:#?}");
    let mut plan = Plan::default();
    plan.secret("c.token", value);
    let content = plan.content(format!("a={}\n", token.marker()));
    let content = olbake_core::operation::Content { secrets: vec![token.clone()], ..content };
    plan.add(put("/srv/secret", content));
    plan.add(Action::FileLine {
        path: "/srv/line".into(),
        line: format!("b={}", token.marker()),
        matching: None,
        present: true,
        place: LinePlace::End,
        validate: None,
        create: true,
        secrets: vec![token],
    });
    let second = machine.apply(&plan, "run 2");
    assert_eq!(second.summary().changed, 2);
    machine.sh("grep -qxF \"a=p&ss w'rd\\\"42\" /srv/secret; grep -qxF \"b=p&ss w'rd\\\"42\" /srv/line");
    let raw = told.raw + &second.raw + &machine.sh("cat /run/olbake-work/journal*");
    for form in ["p&ss", "w'rd", "cCZzcyB3J3JkIjQy", "p%26ss", "3MgdydyZCI0"] {
        assert!(!raw.contains(form), "{form} in {raw}");
    }
}
