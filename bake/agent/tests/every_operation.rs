//! Every action on a real root file system, four times: check, apply, apply, check. Check mode predicts exactly
//! what applying reports; applying again changes nothing; and what is there afterwards is asked of other programs.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeSet;

use olbake_core::operation::{
    Action, ArchiveFormat, Check, LinePlace, Ownership, PackageRequest, PackageState, Run, SealStep,
    TreeEntry, TreeEntryKind, UserAccount,
};
use olbake_core::report::Outcome;
use support::Machine;
use support::driver::{How, Told};
use support::plan::{Plan, argv, command, directory, line, owned, put, service, shell};

macro_rules! variants {
    ($($name:ident),* $(,)?) => {
        /// The names of all actions.
        const ALL: &[&str] = &[$(stringify!($name)),*];

        /// An action's name. A new action does not compile here before it has a row below.
        fn name(action: &Action) -> &'static str {
            match action {
                $(Action::$name { .. } => stringify!($name),)*
            }
        }
    };
}

variants!(
    AptPackages,
    AptRepo,
    AptUpgrade,
    AptHold,
    AptDebconf,
    FilePut,
    FileDirectory,
    FileLink,
    FileAbsent,
    FileLine,
    FileBlock,
    FileIni,
    FileArchive,
    FileTree,
    FileGenerated,
    FileAttributes,
    User,
    Group,
    Membership,
    AuthorizedKeys,
    Service,
    Hostname,
    Timezone,
    Sysctl,
    Hosts,
    Reboot,
    Run,
    Check,
    Seal,
    LeakScan,
);

/// A plan, how to prepare the machine for it, and a shell text that must hold afterwards.
struct Row {
    prepare: &'static str,
    plan: Plan,
    holds: &'static str,
}

fn files() -> Row {
    let mut plan = Plan::default();
    plan.put("/srv/a/new", "one\n");
    plan.put("/srv/changed", "a\nB\nc\n");
    plan.put("/srv/link", "a file now\n");
    let content = plan.content("secret=\u{e000}c.token\u{e001}\n");
    let id = plan.secret("c.token", "hunter2hunter2");
    let content = olbake_core::operation::Content { secrets: vec![id], ..content };
    plan.add(Action::FilePut {
        path: "/srv/secret".into(),
        content,
        ownership: owned("root", "adm", 0o640),
        validate: Some(argv(["grep", "-q", "secret=hunter2hunter2", "%s"])),
        only_if_absent: false,
    });
    let seed = plan.content("never written\n");
    plan.add(Action::FilePut {
        path: "/srv/changed".into(),
        content: seed,
        ownership: Ownership::default(),
        validate: None,
        only_if_absent: true,
    });
    plan.add(directory("/srv/d/e", owned("games", "adm", 0o750)));
    plan.add(Action::FileDirectory {
        path: "/srv/below".into(),
        ownership: owned("games", "games", 0o755),
        recursive: true,
    });
    plan.add(Action::FileLink { path: "/srv/l1".into(), target: "a/new".into(), force: false });
    plan.add(Action::FileLink { path: "/srv/l2".into(), target: "/etc".into(), force: true });
    plan.add(Action::FileAbsent { path: "/srv/old".into() });
    plan.add(Action::FileGenerated {
        path: "/srv/made/key".into(),
        argv: argv(["openssl", "rand", "-hex", "-out", "%s", "16"]),
        from_stdout: false,
        ownership: owned("root", "adm", 0o600),
    });
    plan.add(Action::FileGenerated {
        path: "/srv/made/out".into(),
        argv: argv(["uname", "-s"]),
        from_stdout: true,
        ownership: Ownership::default(),
    });
    Row {
        prepare: "cd /srv; printf 'a\\nb\\nc\\n' > changed; ln -s changed link; mkdir -p old/x below/y; touch old/x/y below/f; \
                  touch below/y/tool; chmod 0700 below/y/tool; chmod 0600 below/f; touch l2",
        plan,
        holds: "cd /srv; test \"$(cat a/new)\" = one; grep -qx B changed; test ! -L link -a -f link; \
                test \"$(stat -c '%a %U %G' secret)\" = '640 root adm'; grep -qx secret=hunter2hunter2 secret; \
                test \"$(stat -c '%a %U %G' d/e)\" = '750 games adm'; test \"$(stat -c %a below/f)\" = 644; \
                test \"$(stat -c '%a %U' below/y/tool)\" = '755 games'; test \"$(readlink l1)\" = a/new; test -L l2; \
                test ! -e old; test \"$(stat -c '%a %G' made/key)\" = '600 adm'; test \"$(wc -c < made/key)\" = 33; \
                test \"$(cat made/out)\" = Linux; test -z \"$(find / -xdev -name '.olbake*')\"",
    }
}

fn texts() -> Row {
    let mut plan = Plan::default();
    plan.add(line("/srv/conf", "x=1"));
    plan.add(Action::FileLine {
        path: "/srv/conf".into(),
        line: "y=2".into(),
        matching: Some("^y=".into()),
        present: true,
        place: LinePlace::After("^a".into()),
        validate: Some(argv(["test", "-s", "%s"])),
        create: false,
        secrets: Vec::new(),
    });
    plan.add(Action::FileLine {
        path: "/srv/conf".into(),
        line: String::new(),
        matching: Some("^drop".into()),
        present: false,
        place: LinePlace::End,
        validate: None,
        create: false,
        secrets: Vec::new(),
    });
    let content = plan.content("in\nblock\n");
    plan.add(Action::FileBlock {
        path: "/srv/conf".into(),
        begin: "# {".into(),
        end: "# }".into(),
        content: Some(content),
        place: LinePlace::Start,
        validate: None,
        create: false,
    });
    for (section, key, value) in [("s", "k", Some("v")), ("t", "gone", None), ("", "top", Some("1"))] {
        plan.add(Action::FileIni {
            path: "/srv/ini".into(),
            section: section.into(),
            key: key.into(),
            value: value.map(str::to_owned),
            validate: None,
        });
    }
    Row {
        prepare: "printf 'a\\ny=1\\ndrop 1\\nb\\ndrop 2' > /srv/conf; printf '[t]\\ngone=1\\nstays=2\\n' > /srv/ini; chmod 600 /srv/ini",
        plan,
        holds: "test \"$(tr '\\n' '|' < /srv/conf)\" = '# {|in|block|# }|a|y=2|b|x=1|'; \
                test \"$(tr '\\n' '|' < /srv/ini)\" = 'top=1|[t]|stays=2||[s]|k=v|'; test \"$(stat -c %a /srv/ini)\" = 600",
    }
}

fn archive(plan: &mut Plan, bytes: Vec<u8>, path: &str, format: ArchiveFormat) {
    let content = plan.content(bytes);
    plan.add(Action::FileArchive {
        path: path.into(),
        content,
        format,
        strip: 1,
        members: Vec::new(),
        owner: Some("games".into()),
        group: None,
    });
}

/// The same few files in every format, made by the programs of this machine.
fn archives() -> Row {
    let directory = tempfile::tempdir().unwrap();
    let made = |program: &str, words: &[&str], file: &str| {
        support::run(std::process::Command::new(program).args(words).current_dir(directory.path()));
        std::fs::read(directory.path().join(file)).unwrap()
    };
    let script = "mkdir -p top/bin top/lib; echo run > top/bin/x; chmod 755 top/bin/x; echo lib > top/lib/l; \
                  ln -s ../lib/l top/bin/link; ln top/lib/l top/lib/hard; chmod 700 top/lib; seq 1 50000 > top/large";
    made("sh", &["-c", &format!("{script}; touch done")], "done");
    let mut plan = Plan::default();
    let tar = |flag: &str, file: &str| made("tar", &["-c", flag, "-f", file, "top"], file);
    archive(&mut plan, tar("--format=gnu", "a.tar"), "/opt/tar", ArchiveFormat::Tar);
    archive(&mut plan, tar("--gzip", "a.tgz"), "/opt/gz", ArchiveFormat::TarGz);
    archive(&mut plan, tar("--xz", "a.txz"), "/opt/xz", ArchiveFormat::TarXz);
    archive(
        &mut plan,
        zstd::encode_all(&tar("--format=pax", "b.tar")[..], 3).unwrap(),
        "/opt/zst",
        ArchiveFormat::TarZst,
    );
    made("zip", &["-q", "-r", "-y", "a.zip", "top"], "a.zip");
    archive(
        &mut plan,
        std::fs::read(directory.path().join("a.zip")).unwrap(),
        "/opt/zip",
        ArchiveFormat::Zip,
    );
    let content = plan.content(tar("--format=ustar", "c.tar"));
    plan.add(Action::FileArchive {
        path: "/opt/part".into(),
        content,
        format: ArchiveFormat::Tar,
        strip: 1,
        members: vec!["bin".into()],
        owner: None,
        group: None,
    });
    Row {
        prepare: "mkdir -p /opt/tar/bin; echo old > /opt/tar/bin/x",
        plan,
        holds: "for d in tar gz xz zst zip; do cd /opt/$d; test \"$(cat bin/x)\" = run; test -x bin/x; \
                test \"$(readlink bin/link)\" = ../lib/l; test \"$(cat lib/hard)\" = lib; \
                test \"$(stat -c '%a %U' lib)\" = '700 games'; test \"$(wc -l < large)\" = 50000; done; \
                test \"$(stat -c %h /opt/tar/lib/hard)\" = 2; test -e /opt/part/bin/x; test ! -e /opt/part/lib",
    }
}

fn tree() -> Row {
    let mut plan = Plan::default();
    let content = plan.content("body\n");
    let entry = |path: &str, kind: TreeEntryKind| TreeEntry { path: path.into(), kind };
    plan.add(Action::FileTree {
        path: "/srv/tree".into(),
        entries: vec![
            entry("d", TreeEntryKind::Directory { mode: 0o750 }),
            entry("d/f", TreeEntryKind::File { content, mode: 0o640 }),
            entry("l", TreeEntryKind::Link { target: "d/f".into() }),
        ],
        delete: true,
        owner: Some("games".into()),
        group: None,
    });
    Row {
        prepare: "mkdir -p /srv/tree/gone/deep /srv/tree/d; touch /srv/tree/d/gone",
        plan,
        holds: "cd /srv/tree; test \"$(find . | sort | tr '\\n' ' ')\" = '. ./d ./d/f ./l '; \
                test \"$(stat -c '%a %U' d/f)\" = '640 games'; test \"$(cat l)\" = body; test \"$(stat -c %U l)\" = games",
    }
}

fn attributes() -> Row {
    let all = |path: &str| Action::FileAttributes {
        path: path.into(),
        ownership: Ownership::default(),
        acl: Vec::new(),
        capabilities: None,
        immutable: None,
        recursive: false,
    };
    let mut plan = Plan::default();
    let Action::FileAttributes { path, .. } = all("/srv/acl") else { unreachable!() };
    plan.add(Action::FileAttributes {
        path,
        ownership: owned("root", "adm", 0o640),
        acl: vec!["u:games:rX".into(), "g:adm:r".into()],
        capabilities: None,
        immutable: None,
        recursive: false,
    });
    plan.add(Action::FileAttributes {
        path: "/srv/dir".into(),
        ownership: Ownership::default(),
        acl: vec!["u:games:rwX".into(), "d:u:games:rwX".into()],
        capabilities: None,
        immutable: None,
        recursive: true,
    });
    plan.add(Action::FileAttributes {
        path: "/srv/tool".into(),
        ownership: Ownership { mode: Some(0o755), ..Ownership::default() },
        acl: Vec::new(),
        capabilities: Some("cap_net_bind_service=ep".into()),
        immutable: None,
        recursive: false,
    });
    plan.add(Action::FileAttributes {
        path: "/srv/still".into(),
        ownership: owned("games", "games", 0o600),
        acl: Vec::new(),
        capabilities: None,
        immutable: Some(true),
        recursive: false,
    });
    Row {
        prepare: "cd /srv; touch acl tool still; mkdir -p dir/sub; touch dir/sub/f",
        plan,
        holds: "cd /srv; getfacl -c acl | grep -qx user:games:r--; getfacl -c dir/sub/f | grep -q '^user:games:rw-'; \
                getfacl -c dir/sub | grep -qx default:user:games:rwx; getcap tool | grep -q cap_net_bind_service=ep; \
                lsattr still | grep -q '^....i'; test \"$(stat -c %U still)\" = games",
    }
}

fn accounts() -> Row {
    let mut plan = Plan::default();
    let hash = plan.secret("users.hash", "$6$salt$hashhashhashhash");
    plan.add(Action::Group { name: "made".into(), present: true, gid: Some(4321), system: false });
    plan.add(Action::Group { name: "other".into(), present: true, gid: None, system: true });
    plan.add(Action::Group { name: "unwanted".into(), present: false, gid: None, system: false });
    plan.add(Action::User {
        name: "ada".into(),
        account: Some(UserAccount {
            uid: Some(4444),
            group: Some("made".into()),
            groups: Some(vec!["other".into(), "adm".into()]),
            home: Some("/home/ada".into()),
            create_home: true,
            shell: Some("/bin/bash".into()),
            comment: Some("Ada L".into()),
            system: false,
            password_hash: Some(hash),
        }),
    });
    plan.add(Action::User {
        name: "svc".into(),
        account: Some(UserAccount {
            home: Some("/var/lib/svc".into()),
            system: true,
            ..UserAccount::default()
        }),
    });
    plan.add(Action::User {
        name: "there".into(),
        account: Some(UserAccount {
            shell: Some("/bin/sh".into()),
            groups: Some(vec!["made".into()]),
            home: Some("/home/there".into()),
            create_home: true,
            ..UserAccount::default()
        }),
    });
    plan.add(Action::User { name: "goes".into(), account: None });
    plan.add(Action::Membership { user: "svc".into(), groups: vec!["made".into(), "adm".into()] });
    plan.add(Action::AuthorizedKeys {
        user: "ada".into(),
        keys: vec!["ssh-ed25519 AAAA ada".into()],
        exclusive: true,
    });
    plan.add(Action::AuthorizedKeys {
        user: "root".into(),
        keys: vec!["ssh-ed25519 BBBB b".into()],
        exclusive: false,
    });
    let content = plan.content("hers\n");
    plan.add(Action::FilePut {
        path: "/home/ada/file".into(),
        content,
        ownership: owned("ada", "made", 0o600),
        validate: None,
        only_if_absent: false,
    });
    plan.add(Action::Run(Box::new(Run {
        argv: argv(["sh", "-c", "id -un > ~/me; id -Gn >> ~/me"]),
        user: Some("ada".into()),
        creates: Some("/home/ada/me".into()),
        ..Run::default()
    })));
    Row {
        prepare: "groupadd unwanted; useradd -M goes; useradd -M -s /bin/false there; mkdir -m 700 -p /root/.ssh; \
                  echo 'ssh-rsa old' > /root/.ssh/authorized_keys",
        plan,
        holds: "test \"$(getent passwd ada)\" = 'ada:x:4444:4321:Ada L:/home/ada:/bin/bash'; \
                getent shadow ada | grep -q '^ada:$6$salt$hashhashhashhash:'; id -Gn ada | grep -q other; \
                test -e /home/ada/.bashrc; no getent group unwanted; no getent passwd goes; id -Gn svc | grep -q made; \
                test \"$(getent passwd there | cut -d: -f7)\" = /bin/sh; test \"$(stat -c '%a %U' /home/there)\" = '755 there'; \
                test \"$(stat -c '%a %U %G' /home/ada/.ssh/authorized_keys)\" = '600 ada made'; \
                test \"$(cat /root/.ssh/authorized_keys | wc -l)\" = 2; test \"$(stat -c %U /home/ada/file)\" = ada; \
                test \"$(head -1 /home/ada/me)\" = ada; grep -q other /home/ada/me",
    }
}

fn units() -> Row {
    let mut plan = Plan::default();
    plan.put(
        "/etc/systemd/system/mine.service",
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\nAlias=own.service\n",
    );
    plan.put(
        "/etc/systemd/system/on@.service",
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n",
    );
    plan.add(service("mine.service", true));
    plan.add(service("on@eth0.service", true));
    plan.add(service("ssh.service", false));
    let Action::Service { restart_on, reload_on, .. } = service("x", true) else { unreachable!() };
    plan.add(Action::Service {
        unit: "getty@tty1.service".into(),
        enabled: None,
        masked: Some(true),
        running: None,
        restart_on,
        reload_on,
    });
    Row {
        prepare: "systemctl enable ssh.service; systemctl is-enabled ssh.service",
        plan,
        holds: "test \"$(systemctl is-enabled mine.service)\" = enabled; test -L /etc/systemd/system/own.service; \
                test \"$(systemctl is-enabled on@eth0.service)\" = enabled; \
                test \"$(systemctl is-enabled ssh.service)\" = disabled; \
                test \"$(systemctl is-enabled getty@tty1.service)\" = masked",
    }
}

fn host() -> Row {
    let mut plan = Plan::default();
    plan.add(Action::Hostname { name: "web-1".into() });
    plan.add(Action::Timezone { zone: "Europe/Berlin".into() });
    plan.add(Action::Sysctl {
        key: "net.core.somaxconn".into(),
        value: "512".into(),
        path: "/etc/sysctl.d/50-x.conf".into(),
    });
    plan.add(Action::Sysctl {
        key: "vm.swappiness".into(),
        value: "1".into(),
        path: "/etc/sysctl.d/50-x.conf".into(),
    });
    plan.add(Action::Reboot { required: true });
    plan.add(Action::Reboot { required: false });
    plan.add(Action::Hosts { address: "10.1.2.3".into(), names: vec!["db".into(), "db.internal".into()] });
    Row {
        prepare: "rm -f /etc/localtime",
        plan,
        holds: "test \"$(cat /etc/hostname)\" = web-1; test \"$(date -d 2024-07-01T00:00Z +%Z)\" = CEST; \
                test \"$(cat /etc/timezone)\" = Europe/Berlin; test \"$(wc -l < /etc/sysctl.d/50-x.conf)\" = 2; \
                test \"$(getent hosts db.internal | cut -d' ' -f1)\" = 10.1.2.3",
    }
}

fn commands() -> Row {
    let mut plan = Plan::default();
    let script = plan.content("#!/bin/bash\nset -e\nread word\necho \"$1 $word $TOKEN\" > /srv/script\n");
    let stdin = plan.content("from-stdin\n");
    let token = plan.secret("run.token", "s3cr3t-value");
    plan.add(Action::Run(Box::new(Run {
        argv: argv(["an argument"]),
        script: Some(script),
        stdin: Some(stdin),
        env: [("TOKEN".to_owned(), token.marker())].into(),
        secrets: vec![token],
        creates: Some("/srv/script".into()),
        ..Run::default()
    })));
    plan.add(Action::Run(Box::new(Run {
        unless: Some(argv(["test", "-e", "/srv/shell"])),
        ..shell("echo $((20 + 22)) > /srv/shell")
    })));
    plan.add(Action::Run(Box::new(Run {
        argv: argv(["sh", "-c", "test -e /srv/flag && exit 0; touch /srv/flag; exit 7"]),
        only_if: Some(argv(["test", "!", "-e", "/srv/flag"])),
        ok_codes: vec![0],
        changed_codes: vec![7],
        cwd: Some("/srv".into()),
        ..Run::default()
    })));
    Row {
        prepare: "true",
        plan,
        holds: "test \"$(cat /srv/script)\" = 'an argument from-stdin s3cr3t-value'; test \"$(cat /srv/shell)\" = 42; \
                test -e /srv/flag; test -z \"$(find /run/olbake-work /tmp -name '*script*')\"",
    }
}

/// Packages of a source in a directory, made on the machine: no network.
const PACKAGES: &str = r#"
mkdir -p /srv/repo; cd /srv/repo
make() { # name version [postinst]
    mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/doc/$1
    printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: t\n' $1 $2 > /tmp/p/DEBIAN/control
    echo $2 > /tmp/p/usr/share/doc/$1/version
    printf '#!/bin/sh\n%s\n' "${3:-true}" > /tmp/p/DEBIAN/postinst; chmod 755 /tmp/p/DEBIAN/postinst
    dpkg-deb --build --root-owner-group /tmp/p $1_$2.deb > /dev/null
    { cat /tmp/p/DEBIAN/control; printf 'Filename: ./%s_%s.deb\nSize: %s\nSHA256: %s\n\n' $1 $2 $(stat -c %s $1_$2.deb) $(sha256sum $1_$2.deb | cut -d' ' -f1); } >> Packages
    rm -rf /tmp/p
}
make tool 1; make tool 2; make tool 3; make daemon 1 'sh /usr/sbin/policy-rc.d && touch /srv/started || true'; make oldone 1; make asks 1; make held 1; make held 2; make rises 1; make rises 2
rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
"#;

fn packages() -> Row {
    let mut plan = Plan::default();
    let sources = plan.content("Types: deb\nURIs: file:/srv/repo\nSuites: ./\nTrusted: yes\nSigned-By: /etc/apt/keyrings/local.gpg\n");
    let key = plan.content(b"\x99\x01 not a real key: the source is trusted as it is");
    let keyring = Some(("/etc/apt/keyrings/local.gpg".into(), key));
    plan.add(Action::AptRepo { name: "local".into(), sources, keyring });
    plan.add(Action::AptDebconf {
        package: "asks".into(),
        question: "asks/mode".into(),
        kind: "string".into(),
        value: "quiet one".into(),
    });
    let request = |name: &str, state: PackageState| PackageRequest { name: name.into(), state };
    plan.add(Action::AptPackages {
        packages: vec![
            request("daemon", PackageState::Present),
            request("oldone", PackageState::Absent),
            request("tool", PackageState::Version("2".into())),
        ],
        recommends: false,
        start_services: false,
    });
    plan.add(Action::AptHold { packages: vec!["held".into()], held: true });
    Row {
        prepare: "dpkg -i /srv/repo/oldone_1.deb /srv/repo/held_1.deb >/dev/null",
        plan,
        holds: "test \"$(dpkg-query -W -f '${Version}' tool)\" = 2; dpkg -s daemon | grep -q 'install ok installed'; \
                no dpkg-query -L oldone; test ! -e /srv/started; test ! -e /usr/sbin/policy-rc.d; \
                test \"$(apt-mark showhold)\" = held; debconf-show asks | grep -q 'asks/mode: quiet one'",
    }
}

fn upgrades() -> Row {
    let plan = Plan::of([
        Action::AptPackages {
            packages: vec![PackageRequest { name: "tool".into(), state: PackageState::Latest }],
            recommends: true,
            start_services: true,
        },
        Action::AptUpgrade { full: false },
    ]);
    Row {
        prepare: "dpkg -i /srv/repo/tool_1.deb /srv/repo/rises_1.deb >/dev/null; \
                  echo 'deb [trusted=yes] file:/srv/repo ./' > /etc/apt/sources.list",
        plan,
        holds: "test \"$(dpkg-query -W -f '${Version}' tool)\" = 3; test \"$(dpkg-query -W -f '${Version}' rises)\" = 2",
    }
}

fn checks() -> Row {
    let check = |check: Check| Action::Check(check);
    let command = |argv: Vec<String>, exit_code: i32, text: Option<&str>| Check::Command {
        argv,
        user: Some("games".into()),
        exit_code,
        stdout_contains: text.map(str::to_owned),
        within_seconds: 1,
    };
    let plan = Plan::of([
        check(command(argv(["id", "-un"]), 0, Some("games"))),
        check(command(argv(["false"]), 1, None)),
        check(Check::File {
            path: "/etc/passwd".into(),
            present: true,
            kind: Some("file".into()),
            ownership: owned("root", "0", 0o644),
            contains: Some("root:".into()),
        }),
        check(Check::File {
            path: "/nowhere".into(),
            present: false,
            kind: None,
            ownership: Ownership::default(),
            contains: None,
        }),
        check(Check::Package { name: "dpkg".into(), version: None }),
        check(Check::Unit {
            unit: "ssh.service".into(),
            active: None,
            enabled: Some(true),
            within_seconds: 0,
        }),
        check(Check::Port { port: 1, address: "127.0.0.1".into(), open: false, within_seconds: 0 }),
        check(Check::User {
            name: "root".into(),
            groups: vec!["root".into()],
            shell: Some("/bin/bash".into()),
            home: Some("/root".into()),
        }),
    ]);
    Row { prepare: "systemctl enable ssh.service", plan, holds: "true" }
}

fn end() -> Row {
    let mut plan = Plan::of(SealStep::ALL.map(|step| Action::Seal { step }));
    plan.secret("c.token", "hunter2hunter2");
    plan.secret("c.short", "ab");
    plan.add(Action::LeakScan { allow: vec!["/srv/allowed".into()], searched: None });
    Row {
        prepare: "echo 0123456789abcdef0123456789abcdef > /etc/machine-id; ssh-keygen -A >/dev/null; \
                  mkdir -p /var/lib/cloud/instances/i-1 /var/lib/cloud/seed /var/log/journal/abc /var/lib/dhcp /var/lib/systemd; \
                  touch /var/log/journal/abc/system.journal /var/log/cloud-init.log /var/lib/dhcp/dhclient.leases; \
                  echo x > /var/log/wtmp; echo ls > /root/.bash_history; echo seed > /var/lib/systemd/random-seed; \
                  echo x > /var/tmp/left; echo x > /tmp/left; ln -s /a /var/tmp/link; touch /var/cache/apt/archives/x.deb; \
                  openssl genpkey -algorithm ed25519 -out /srv/allowed 2>/dev/null",
        plan,
        holds: "test -e /etc/machine-id -a ! -s /etc/machine-id; no test -e /etc/ssh/ssh_host_rsa_key.pub; test -d /var/lib/cloud/seed; \
                for p in /var/lib/cloud/instances /var/log/cloud-init.log /var/log/journal/abc /root/.bash_history; do no test -e $p; done; \
                test -e /var/log/wtmp -a ! -s /var/log/wtmp; for p in /var/lib/systemd/random-seed /var/lib/dhcp/dhclient.leases; do no test -e $p; done; \
                test -z \"$(ls -A /tmp /var/tmp | grep -v :)\"; no test -e /var/cache/apt/archives/x.deb",
    }
}

fn rows() -> Vec<(&'static str, Row)> {
    vec![
        ("files", files()),
        ("texts", texts()),
        ("archives", archives()),
        ("tree", tree()),
        ("attributes", attributes()),
        ("accounts", accounts()),
        ("units", units()),
        ("host", host()),
        ("commands", commands()),
        ("packages", packages()),
        ("upgrades", upgrades()),
        ("checks", checks()),
        ("end", end()),
    ]
}

#[test]
fn every_action_has_a_row() {
    let covered: BTreeSet<&str> = rows()
        .iter()
        .flat_map(|(_, row)| row.plan.operations.iter().map(|operation| name(&operation.action)))
        .collect();
    let missing: Vec<_> = ALL.iter().filter(|name| !covered.contains(*name)).collect();
    assert!(missing.is_empty(), "actions without a row: {missing:?}");
}

/// What a run said, without times: the outcome and changes of each operation.
fn said(told: &Told) -> Vec<String> {
    assert_eq!(told.fault, None);
    let mut lines: Vec<String> = told
        .reports
        .iter()
        .map(|report| format!("{} {:?} {:?} {:?}", report.id, report.outcome, report.changes, report.failure))
        .collect();
    lines.sort();
    lines
}

/// A check cannot see what packages and commands bring; where it knows that, it says so.
fn assert_predicted(row: &str, predicted: &Told, applied: &Told) {
    for report in &applied.reports {
        let before = predicted.report(&report.id);
        let unknown = before
            .changes
            .iter()
            .any(|change| change.to.as_deref().is_some_and(|to| to.starts_with("known only")));
        let waits = before.reason.as_deref().is_some_and(|reason| reason.starts_with("earlier operations"));
        if !unknown && !waits {
            assert_eq!(before.outcome, report.outcome, "{row}: {} {before:#?}\n{report:#?}", report.id);
            assert_eq!(before.changes, report.changes, "{row}: {}", report.id);
        }
    }
}

fn four_times(name: &str, row: &Row) {
    let machine = Machine::new();
    if matches!(name, "packages" | "upgrades") {
        machine.sh(PACKAGES);
    }
    machine.sh(row.prepare);
    let before = machine.tree();
    let predicted = machine.agent(&row.plan, &How::check());
    support::assert_same_tree(&before, &machine.tree(), &format!("{name}: checking changed the machine"));
    let applied = machine.apply(&row.plan, "first");
    assert!(
        applied.reports.iter().all(|report| report.outcome != Outcome::Failed),
        "{name}: {:#?}",
        said(&applied)
    );
    assert_predicted(name, &predicted, &applied);
    machine.sh(&format!(
        "no() {{ if \"$@\" > /dev/null 2>&1; then echo \"unexpected: $*\"; exit 1; fi; }}; set -x; {}",
        row.holds
    ));
    let again = machine.apply(&row.plan, "second");
    assert_eq!((again.summary().changed, again.summary().failed), (0, 0), "{name}: {:#?}", said(&again));
    let after = machine.agent(&row.plan, &How::check());
    assert_eq!((after.summary().changed, after.summary().failed), (0, 0), "{name}: {:#?}", said(&after));
}

#[test]
fn check_predicts_apply_and_the_second_apply_changes_nothing() {
    if support::skip() {
        return;
    }
    let only = std::env::var("ROW").ok();
    for (name, row) in rows().into_iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name))
    {
        four_times(name, &row);
    }
}

/// Most operations of the tables above find something to change.
#[test]
fn the_first_apply_changes_what_it_should() {
    if support::skip() {
        return;
    }
    let mut plan = Plan::of([command(["true"])]);
    plan.put("/srv/x", "x");
    let told = Machine::new().apply(&plan, "run");
    assert_eq!(told.summary().changed, 2);
    let content = plan.content("y");
    let operation = plan.add(put("/srv/y", content));
    operation.when_changed = vec![support::plan::id(9)];
    let told = Machine::new().apply(&plan, "run");
    assert_eq!((told.summary().changed, told.summary().skipped), (2, 1));
}
