//! Tokens of the metadata service: who was given which, and until when. Main type: [`Tokens`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The tokens that are good.
#[derive(Debug, Default)]
pub(super) struct Tokens(BTreeMap<String, (Ipv4Addr, Instant)>);

impl Tokens {
    /// A new one for an instance; `None`: the host has no randomness.
    pub(super) fn make(&mut self, source: Ipv4Addr, until: Instant) -> Option<String> {
        let mut bytes = [0; 36];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).ok()?;
        let token = URL_SAFE_NO_PAD.encode(bytes);
        self.0.insert(token.clone(), (source, until));
        Some(token)
    }

    /// Whether one is good, and the instance's own.
    pub(super) fn holds(&mut self, token: &str, source: Ipv4Addr, now: Instant) -> bool {
        self.0.retain(|_, (_, until)| *until > now);
        self.0.get(token).is_some_and(|(owner, _)| *owner == source)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_token_ends_with_its_time() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let until = now + Duration::from_secs(5);
        let (one, two) = (tokens.make(Ipv4Addr::LOCALHOST, until), tokens.make(Ipv4Addr::LOCALHOST, until));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_ne!(one, two);
        assert!(tokens.holds(&one, Ipv4Addr::LOCALHOST, now + Duration::from_secs(4)));
        assert!(!tokens.holds(&one, Ipv4Addr::BROADCAST, now));
        assert!(!tokens.holds(&one, Ipv4Addr::LOCALHOST, until));
        assert_eq!(tokens.0.len(), 0);
    }
}
