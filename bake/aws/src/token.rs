//! Client tokens: what makes a call that is made twice one call.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use uuid::Uuid;

/// A token that no other call has.
pub(crate) fn token() -> String {
    // A fresh `RandomState` is seeded by the system.
    let bits = || RandomState::new().build_hasher().finish();
    Uuid::from_u64_pair(bits(), bits()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ() {
        let tokens: std::collections::BTreeSet<String> = (0..1000).map(|_| token()).collect();
        assert_eq!(tokens.len(), 1000);
    }
}
