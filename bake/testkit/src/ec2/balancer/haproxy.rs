//! HAProxy's configuration for a load balancer.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::{Action, Listener, LoadBalancer, Protocol, Rule, Target, Wanted};

/// The largest weight of a server.
const HEAVIEST: u64 = 256;

/// A target that does not accept is known after a second, and the request goes to another one.
const DEFAULTS: &str = "
defaults
    log global
    option dontlognull
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout queue 10s
    timeout http-request 10s
    timeout http-keep-alive 10s
    retries 3
    option redispatch 1
";

/// Connections to targets are not kept: one that a target closes just when a request is on its way would cost that
/// request. What failed is tried again where repeating it does no harm.
const HTTP: &str = "    option http-server-close
    option forwardfor
    http-request disable-l7-retry if !METH_GET !{ method HEAD OPTIONS PUT DELETE TRACE }
    retry-on conn-failure empty-response response-timeout 502 503
";

/// What is alive is HAProxy's own business too: who died since the last check is not asked meanwhile.
const CHECKS: &str = "    default-server check inter 500ms fastinter 200ms downinter 300ms rise 1 fall 2\n";

/// What a balancer is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// The configuration, with a line [`servers_of`] in each backend that has targets: they change without it.
    pub(super) template: String,
    /// The targets of these backends, with their weights.
    pub(super) backends: BTreeMap<String, BTreeMap<Target, u16>>,
}

/// The line in whose place the servers of a backend are.
pub(super) fn servers_of(backend: &str) -> String {
    format!("    # servers of {backend}\n")
}

/// What a balancer is to do, by what is known now.
pub(super) fn plan(balancer: &LoadBalancer, address: Ipv4Addr, wanted: &Wanted) -> Plan {
    let delay = wanted.balancers.groups.values().map(|group| group.deregistration_delay).max();
    let mut text = format!(
        "# Written by olbake.\nglobal\n    stats socket unix@admin.sock mode 600 level admin expose-fd listeners\n    \
         hard-stop-after {}ms\n    log stdout format raw local0 notice\n{DEFAULTS}",
        delay.unwrap_or_default().max(Duration::from_millis(1)).as_millis()
    );
    let mut plan = Plan { template: std::mem::take(&mut text), backends: BTreeMap::new() };
    for listener in &balancer.listeners {
        add_listener(&mut plan, listener, address, wanted);
    }
    plan
}

fn add_listener(plan: &mut Plan, listener: &Listener, address: Ipv4Addr, wanted: &Wanted) {
    let Listener { port, protocol, rules, default } = listener;
    let mode = match protocol {
        Protocol::Http => "http",
        Protocol::Tcp => "tcp",
    };
    let mut frontend = format!("\nfrontend port-{port}\n    mode {mode}\n    bind {address}:{port}\n");
    let mut actions = Vec::new();
    let rules = if *protocol == Protocol::Http { &rules[..] } else { &[] };
    for (number, Rule { hosts, paths, action }) in rules.iter().enumerate() {
        let name = format!("port-{port}-rule-{number}");
        let mut conditions = Vec::new();
        for (kind, patterns, sample) in
            [("host", hosts, "req.hdr(host),field(1,:),lower"), ("path", paths, "path")]
        {
            if patterns.is_empty() {
                continue;
            }
            let acl = format!("{kind}-{number}");
            for pattern in patterns {
                let pattern = if kind == "host" { pattern.to_lowercase() } else { pattern.clone() };
                let line = format!("    acl {acl} {sample} -m reg {}\n", quoted(&expression(&pattern)));
                frontend += &line;
            }
            conditions.push(acl);
        }
        let condition = if conditions.is_empty() { "TRUE".to_owned() } else { conditions.join(" ") };
        let line = format!("    use_backend {name} if {condition}\n");
        frontend += &line;
        actions.push((name, action));
    }
    let name = format!("port-{port}-default");
    let line = format!("    default_backend {name}\n");
    frontend += &line;
    actions.push((name, default));
    plan.template += &frontend;
    for (name, action) in actions {
        plan.template += &format!("\nbackend {name}\n    mode {mode}\n");
        add_action(plan, name, mode, action, wanted);
    }
}

fn add_action(plan: &mut Plan, name: String, mode: &str, action: &Action, wanted: &Wanted) {
    let line = match action {
        Action::Forward(groups) => {
            plan.template += "    balance roundrobin\n";
            if mode == "http" {
                plan.template += HTTP;
            }
            plan.template += CHECKS;
            let line = servers_of(&name);
            let targets = servers(groups, wanted).into_iter();
            plan.backends.insert(name, targets.map(|(target, weight)| (target.clone(), weight)).collect());
            line
        }
        Action::Fixed { status, content_type, body } => format!(
            "    http-request return status {status} content-type {} string {}\n",
            quoted(content_type),
            quoted(body)
        ),
        Action::Redirect { status, location } => {
            format!("    http-request redirect location {} code {status}\n", quoted(location))
        }
    };
    plan.template += &line;
}

/// The targets of groups, each with its part of its group's share. A group without a target has its share taken by
/// the others.
fn servers<'a>(groups: &'a BTreeMap<String, u16>, wanted: &'a Wanted) -> Vec<(&'a Target, u16)> {
    let shares: Vec<(Vec<&Target>, u64)> = groups
        .iter()
        .filter(|(_, share)| **share > 0)
        .map(|(group, share)| (wanted.usable(group), u64::from(*share)))
        .filter(|(targets, _)| !targets.is_empty())
        .collect();
    let part = |targets: &[&Target], share: u64| share * 1_000_000 / targets.len() as u64;
    let largest = shares.iter().map(|(targets, share)| part(targets, *share)).max().unwrap_or(1).max(1);
    shares
        .into_iter()
        .flat_map(|(targets, share)| {
            let weight = (part(&targets, share) * HEAVIEST / largest).clamp(1, HEAVIEST);
            let weight = u16::try_from(weight).expect("a weight is small");
            targets.into_iter().map(move |target| (target, weight))
        })
        .collect()
}

/// A pattern with `*` and `?` as a regular expression.
fn expression(pattern: &str) -> String {
    let mut expression = "^".to_owned();
    for character in pattern.chars() {
        match character {
            '*' => expression += ".*",
            '?' => expression.push('.'),
            c if c.is_ascii_alphanumeric() || "/_".contains(c) => expression.push(c),
            c => {
                expression.push('\\');
                expression.push(c);
            }
        }
    }
    expression.push('$');
    expression
}

/// A word of HAProxy's, in which nothing has a meaning.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ec2::balancer::health::{Reason, Record};
    use crate::ec2::balancer::{Check, TargetGroup};

    fn target(number: u8) -> Target {
        Target { id: format!("i-{number}"), address: Ipv4Addr::new(10, 0, 0, number), port: 80 }
    }

    fn check() -> Check {
        Check {
            protocol: Protocol::Http,
            path: "/".into(),
            port: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy_threshold: 1,
            unhealthy_threshold: 1,
            matcher: "200".into(),
        }
    }

    /// Groups with targets, of which `true` ones are healthy.
    fn wanted(groups: &[(&str, &[(u8, bool)])]) -> Wanted {
        let mut wanted = Wanted::default();
        for (name, targets) in groups {
            for (number, healthy) in *targets {
                let mut record = Record::new();
                record.checked(&check(), if *healthy { Ok(()) } else { Err(Reason::Failed) });
                wanted.records.insert(((*name).to_owned(), target(*number)), record);
            }
            let group = TargetGroup {
                check: check(),
                deregistration_delay: Duration::from_secs(7),
                targets: targets.iter().map(|(number, _)| target(*number)).collect(),
            };
            wanted.balancers.groups.insert((*name).to_owned(), group);
        }
        wanted
    }

    fn weights(groups: &[(&str, u16)], wanted: &Wanted) -> Vec<(u8, u16)> {
        let groups = groups.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect();
        let servers = servers(&groups, wanted);
        servers.iter().map(|(target, weight)| (target.address.octets()[3], *weight)).collect()
    }

    #[test]
    fn groups_have_their_shares_however_many_targets_they_have() {
        let wanted = wanted(&[("a", &[(1, true), (2, true)]), ("b", &[(3, true)])]);
        assert_eq!(weights(&[("a", 1), ("b", 1)], &wanted), [(1, 128), (2, 128), (3, 256)]);
        assert_eq!(weights(&[("a", 90), ("b", 10)], &wanted), [(1, 256), (2, 256), (3, 56)]);
        assert_eq!(weights(&[("a", 1), ("b", 0)], &wanted), [(1, 256), (2, 256)]);
        assert_eq!(weights(&[("b", 0)], &wanted), []);
    }

    #[test]
    fn only_healthy_targets_are_asked_while_there_is_one() {
        let wanted = wanted(&[("a", &[(1, true), (2, false)]), ("b", &[(3, false)]), ("c", &[])]);
        assert_eq!(weights(&[("a", 1)], &wanted), [(1, 256)]);
        assert_eq!(weights(&[("b", 1)], &wanted), [(3, 256)]);
        assert_eq!(weights(&[("a", 1), ("c", 5)], &wanted), [(1, 256)]);
    }

    #[test]
    fn patterns_are_taken_literally_but_for_two_characters() {
        assert_eq!(expression("/api/*"), "^/api/.*$");
        assert_eq!(expression("a.b-?"), r"^a\.b\-.$");
    }

    #[test]
    fn a_listener_is_written_with_its_rules() {
        let listener = Listener {
            port: 80,
            protocol: Protocol::Http,
            rules: vec![Rule {
                hosts: vec!["*.Example.org".into()],
                paths: vec!["/old".into(), "/older".into()],
                action: Action::Redirect { status: 301, location: "/new".into() },
            }],
            default: Action::Forward([("a".to_owned(), 1)].into()),
        };
        let balancer = LoadBalancer { listeners: vec![listener] };
        let wanted = wanted(&[("a", &[(1, true)])]);
        let plan = plan(&balancer, Ipv4Addr::new(127, 16, 0, 1), &wanted);
        assert_eq!(plan.backends, [("port-80-default".to_owned(), [(target(1), 256)].into())].into());
        let (_, text) = plan.template.split_once("\nfrontend").unwrap();
        assert_eq!(
            text.replace(HTTP, "    HTTP\n").replace(CHECKS, ""),
            r" port-80
    mode http
    bind 127.16.0.1:80
    acl host-0 req.hdr(host),field(1,:),lower -m reg '^.*\.example\.org$'
    acl path-0 path -m reg '^/old$'
    acl path-0 path -m reg '^/older$'
    use_backend port-80-rule-0 if host-0 path-0
    default_backend port-80-default

backend port-80-rule-0
    mode http
    http-request redirect location '/new' code 301

backend port-80-default
    mode http
    balance roundrobin
    HTTP
    # servers of port-80-default
"
        );
    }
}
