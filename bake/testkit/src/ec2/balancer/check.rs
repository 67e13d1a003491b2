//! One check of one target, and the same again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use olbake_local::cloud::probe;

use super::health::{Checks, Reason};
use super::{Check, Protocol, State, Target};

/// Checks a target until the result is dropped.
pub(super) fn go_on(state: Arc<State>, group: String, target: Target, check: Check) -> Checks {
    let state = Arc::downgrade(&state);
    Checks(tokio::spawn(async move {
        loop {
            let result = once(&target, &check).await;
            let Some(state) = state.upgrade() else { return };
            state.checked(&group, &target, result);
            drop(state);
            tokio::time::sleep(check.interval).await;
        }
    }))
}

async fn once(target: &Target, check: &Check) -> Result<(), Reason> {
    let Check { protocol, path, port, interval: _, timeout, matcher, .. } = check;
    let address = SocketAddr::from((target.address, port.unwrap_or(target.port)));
    let asked = async {
        match protocol {
            Protocol::Tcp => probe::tcp(address, *timeout).await.map_err(|_| Reason::Failed),
            Protocol::Http => {
                let answer = probe::http(&format!("http://{address}{path}"), *timeout).await;
                let status = answer.map_err(|_| Reason::Failed)?.status;
                if matches(matcher, status) { Ok(()) } else { Err(Reason::Status(status)) }
            }
        }
    };
    // Whatever is said in the very moment in which the time is over is too late.
    let late = timeout.saturating_sub(Duration::from_millis(1));
    tokio::time::timeout(late, asked).await.unwrap_or(Err(Reason::TimedOut))
}

/// Whether a status is one of `200-299,301`.
fn matches(matcher: &str, status: u16) -> bool {
    matcher.split(',').any(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        match (from.trim().parse::<u16>(), to.trim().parse::<u16>()) {
            (Ok(from), Ok(to)) => (from..=to).contains(&status),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_matched_by_number_and_range() {
        assert!(matches("200", 200) && !matches("200", 201));
        assert!(matches("200-299", 204) && !matches("200-299", 301));
        assert!(matches("200,301-302", 302) && !matches("200,301-302", 300));
        assert!(!matches("", 200) && !matches("ok", 200));
    }
}
