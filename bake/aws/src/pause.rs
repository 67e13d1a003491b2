//! Waiting between tries. Main type: [`Backoff`].

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// The longest wait after the first failure; it doubles with each, up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Waits longer after each failure, by chance, so that callers who failed together do not return together.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self { failures: 0 }
    }

    /// How often it was waited.
    pub(crate) const fn count(&self) -> u32 {
        self.failures
    }

    pub(crate) async fn wait(&mut self) {
        self.failures += 1;
        tokio::time::sleep(pause(self.failures, share())).await;
    }
}

/// Between half of the longest wait of this failure and all of it.
fn pause(failures: u32, share: f64) -> Duration {
    let longest = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
    longest.mul_f64(0.5 + share / 2.0)
}

/// A number between 0 and 1.
fn share() -> f64 {
    // A fresh `RandomState` is seeded by the system.
    let bits = RandomState::new().build_hasher().finish();
    #[allow(clippy::cast_precision_loss, reason = "a share, not an amount")]
    let share = (bits >> 11) as f64 / (1_u64 << 53) as f64;
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit() {
        assert_eq!(pause(1, 1.0), FIRST);
        assert_eq!(pause(3, 0.0), FIRST * 2);
        assert_eq!(pause(40, 1.0), LONGEST);
        assert!((0.0..1.0).contains(&share()));
    }
}
