//! HAProxy's configuration, and how its process is kept.

use std::fmt::Write;
use std::net::Ipv4Addr;

use olbake_core::Digest;

use super::Id;
use super::balancer::{BalancerSpec, HealthCheck, ListenOn, Member, Members, Mode, SLOTS};

/// The stages of its keeper: the process is started again at once when it ends, and replaced without a gap when it is
/// told to read its configuration again: the new one takes over the listeners, the old one ends its connections. A shell
/// hears no signal that was ignored when it began, as `nohup` has it be: `env` takes that back.
pub(super) const SCRIPT: &str = r#"    exec unshare --pid --fork --kill-child=KILL -- env --default-signal=HUP sh "$0" serve
    ;;
serve)
    serve() {
        setpriv --no-new-privs --bounding-set=-all,+net_bind_service --inh-caps=-all -- \
            haproxy -db -f haproxy.cfg "$@" 9>&- &
        child=$!
        since=$(date +%s)
    }
    trap 'serve -x admin.sock -sf "$child"' HUP
    quick=0
    serve
    : >ready
    while :; do
        while kill -0 "$child" 2>/dev/null; do wait "$child" || :; done
        # One that never comes up is tried again with pauses.
        if test $(($(date +%s) - since)) -lt 2; then quick=$((quick + 1)); else quick=0; fi
        if test $quick -gt 3; then sleep 0.5; fi
        serve
    done
    ;;
"#;

/// The configuration, and a word for all of it but the members: it changes when the process has to read it again.
pub(super) fn configuration(spec: &BalancerSpec, gateway: Ipv4Addr, members: &Members) -> (String, String) {
    let empty = render(spec, gateway, &Members::default(), "");
    let structure = Digest::of(empty.as_bytes()).short();
    (render(spec, gateway, members, &structure), structure)
}

fn render(spec: &BalancerSpec, gateway: Ipv4Addr, members: &Members, structure: &str) -> String {
    let mut text = format!(
        "# Written by olbake.\nglobal\n    description olbake:{structure}\n    \
         stats socket unix@admin.sock mode 600 level admin expose-fd listeners\n    \
         hard-stop-after {}ms\n    log stdout format raw local0 notice\n{DEFAULTS}",
        spec.drain_timeout.as_millis().max(1)
    );
    text += &listeners(spec, gateway);
    for backend in spec.backends() {
        text += &head(spec, backend);
        text += &servers(spec, backend, members);
    }
    text
}

/// A member that does not accept is known after a second, and the request goes to another one.
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

fn listeners(spec: &BalancerSpec, gateway: Ipv4Addr) -> String {
    let mut text = String::new();
    for one in &spec.listeners {
        let address = match one.on {
            ListenOn::Gateway => gateway,
            ListenOn::Loopback => Ipv4Addr::LOCALHOST,
        };
        let mode = mode(one.mode);
        writeln!(
            text,
            "\nfrontend port-{address}-{port}\n    mode {mode}\n    bind {address}:{port}\n    default_backend {backend}",
            port = one.port,
            backend = one.backend,
        )
        .expect("writing to a string does not fail");
    }
    text
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Http => "http",
        Mode::Tcp => "tcp",
    }
}

/// In HTTP mode connections to members are not kept: one that a member closes just when a request is on its way
/// would cost that request. What failed is tried again where repeating it does no harm.
const HTTP: &str = "    option http-server-close
    option forwardfor
    http-request disable-l7-retry if !METH_GET !{ method HEAD OPTIONS PUT DELETE TRACE }
    retry-on conn-failure empty-response response-timeout 502 503
";

fn head(spec: &BalancerSpec, backend: &Id) -> String {
    let kind = spec.mode_of(backend);
    let mut text = format!(
        "\nbackend {backend}\n    mode {}\n    balance roundrobin\n    timeout check {}ms\n",
        mode(kind),
        spec.health.timeout.as_millis().max(1)
    );
    if kind == Mode::Http {
        text += HTTP;
        if let Some(path) = &spec.health.path {
            text += &format!(
                "    option httpchk\n    http-check send meth GET uri {path} ver HTTP/1.1 hdr Host {backend}\n    \
                 http-check expect status 200-399\n"
            );
        }
    }
    text
}

/// A line for each slot. One without a member is switched off.
fn servers(spec: &BalancerSpec, backend: &Id, members: &Members) -> String {
    let HealthCheck { path: _, interval, timeout: _, rise, fall } = spec.health;
    let interval = interval.as_millis().max(1);
    let mut text = format!(
        "    default-server check inter {interval}ms fastinter {}ms downinter {interval}ms rise {rise} fall {fall}\n",
        (interval / 2).max(1)
    );
    for slot in 0..SLOTS {
        let seat = members.0.get(backend).and_then(|one| one.members.iter().find(|seat| seat.slot == slot));
        let line = match seat {
            Some(seat) => {
                let Member { instance: _, address, port, weight } = &seat.member;
                let weight = if seat.draining { 0 } else { *weight };
                format!("    server s{slot} {address}:{port} weight {weight}\n")
            }
            None => format!("    server s{slot} 127.0.0.1:1 disabled\n"),
        };
        text += &line;
    }
    text
}
