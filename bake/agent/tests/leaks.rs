//! The leak scan on a real root file system: it finds what was planted, each by its path, and nothing else.

mod support;

use olbake_core::operation::{Action, SealStep};
use olbake_core::report::Outcome;
use support::Machine;
use support::plan::Plan;

const SECRET: &str = "correct horse/battery+staple";

fn scan(allow: &[&str]) -> Plan {
    let mut plan = Plan::default();
    plan.secret("c.token", SECRET);
    plan.add(Action::LeakScan { allow: allow.iter().map(Into::into).collect(), searched: None });
    plan
}

fn sealed() -> Machine {
    let machine = Machine::new();
    let told = machine.apply(&Plan::of(SealStep::ALL.map(|step| Action::Seal { step })), "seal");
    assert_eq!(told.summary().failed, 0);
    machine
}

#[test]
fn a_sealed_debian_has_no_leaks() {
    if support::skip() {
        return;
    }
    let told = sealed().apply(&scan(&[]), "scan");
    assert_eq!(told.only().outcome, Outcome::Ok, "{told:#?}");
}

#[test]
fn what_was_planted_is_found_and_named() {
    if support::skip() {
        return;
    }
    let machine = sealed();
    let planted = [
        ("openssl genpkey -algorithm ed25519 -out /srv/key.pem", "/srv/key.pem: a private key"),
        ("openssl genrsa -traditional 1024 > /opt/old.key", "/opt/old.key: a private key"),
        (
            "printf '{\"key\": \"%s\"}' \"$(openssl genpkey -algorithm ed25519 | sed ':a;N;$!ba;s/\\n/\\\\n/g')\" > /srv/key.json",
            "/srv/key.json: a private key",
        ),
        ("ssh-keygen -q -t ed25519 -N '' -f /root/id", "/root/id: a private key"),
        (
            "printf '%s' 'x correct horse/battery+staple y' > /var/lib/plain",
            "/var/lib/plain: the secret `c.token` (plain)",
        ),
        (
            "printf '%s' 'u:correct horse/battery+staple' | base64 > /var/lib/b64",
            "/var/lib/b64: the secret `c.token` (base64)",
        ),
        (
            "echo correct%20horse%2Fbattery%2Bstaple > /var/lib/url",
            "/var/lib/url: the secret `c.token` (URL-encoded)",
        ),
        (
            "ln -s '/correct horse/battery+staple' /var/lib/l",
            "/var/lib/l: the secret `c.token` (plain) in a name",
        ),
        (
            "{ head -c 262130 /dev/zero; printf '%s' 'correct horse/battery+staple'; } > /srv/large",
            "/srv/large: the secret `c.token` (plain)",
        ),
        (
            "echo 0123456789abcdef0123456789abcdef > /etc/machine-id",
            "/etc/machine-id: the machine-id of the build",
        ),
        (
            "ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key",
            "/etc/ssh/ssh_host_ed25519_key: an SSH host key",
        ),
        ("mkdir -p /var/lib/cloud/instances/i", "/var/lib/cloud/instances: cloud-init's state of the build"),
        ("echo ls > /root/.bash_history", "/root/.bash_history: a history"),
        (
            "mkdir -p /root/.ssh; echo 'ssh-ed25519 A olbake-builder' > /root/.ssh/authorized_keys",
            "/root/.ssh/authorized_keys: a key of the builder",
        ),
        ("touch /etc/.olbake-tmp-0123", "/etc/.olbake-tmp-0123: a temporary file of olbake's"),
    ];
    for (plant, _) in planted {
        machine.sh(plant);
    }
    let told = machine.apply(&scan(&[]), "scan");
    let output = told.only().failure.as_ref().unwrap().output.clone().unwrap();
    let found: Vec<&str> = output.lines().collect();
    for (_, line) in planted {
        assert!(found.contains(&line), "{line} is not in {output}");
    }
    // The host key is one by its path and by its text.
    assert_eq!(found.len(), planted.len() + 1, "{output}");
    assert!(!told.raw.contains("correct horse/"));
    let all = ["/srv", "/opt/old.key", "/root", "/var/lib", "/etc"];
    assert_eq!(machine.apply(&scan(&all), "allowed").only().outcome, Outcome::Ok);
}

#[test]
fn what_only_looks_like_a_leak_is_passed_over() {
    if support::skip() {
        return;
    }
    let machine = sealed();
    machine.sh(
        "echo '-----BEGIN PRIVATE KEY-----' > /srv/doc; echo '(your key here)' >> /srv/doc; \
         printf 'correct horse/battery+stapl' > /srv/almost; \
         mkdir -p /tmp/p/DEBIAN /tmp/p/usr/share/doc/t; openssl genpkey -algorithm ed25519 -out /tmp/p/usr/share/doc/t/key.pem; \
         printf 'Package: t\\nVersion: 1\\nArchitecture: all\\nMaintainer: t <t@example.org>\\nDescription: t\\n' > /tmp/p/DEBIAN/control; \
         (cd /tmp/p; find usr -type f -exec md5sum {} + > DEBIAN/md5sums); \
         dpkg-deb --build --root-owner-group /tmp/p /tmp/t.deb; dpkg -i /tmp/t.deb; rm -rf /tmp/p /tmp/t.deb; rm -f /var/log/*.log",
    );
    let told = machine.apply(&scan(&[]), "scan");
    assert_eq!(told.only().outcome, Outcome::Ok, "{told:#?}");
    machine.sh("echo >> /usr/share/doc/t/key.pem");
    let told = machine.apply(&scan(&[]), "scan 2");
    let output = told.only().failure.as_ref().unwrap().output.clone().unwrap();
    assert_eq!(
        output, "/usr/share/doc/t/key.pem: a private key",
        "a changed file is not its package's any more"
    );
}

#[test]
fn what_was_searched_before_is_read_only_where_it_is_another_file_now() {
    if support::skip() {
        return;
    }
    let machine = sealed();
    machine.sh("openssl genpkey -algorithm ed25519 -out /srv/same.key; cp -p /srv/same.key /srv/other.key; \
         mkdir -p /var/before/srv; ln /srv/same.key /var/before/srv/; cp -p /srv/other.key /var/before/srv/");
    let mut plan = Plan::default();
    let allow = vec!["/var/before".into()];
    plan.add(Action::LeakScan { allow, searched: Some("/var/before".into()) });
    let told = machine.apply(&plan, "scan");
    let output = told.only().failure.as_ref().unwrap().output.clone().unwrap();
    assert_eq!(output, "/srv/other.key: a private key");
}
