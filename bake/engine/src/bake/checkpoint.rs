//! When a layer's disk is worth keeping.
//!
//! Keeping a disk costs a copy; not keeping it costs running the layers since the last kept one again, should a
//! later bake need them. So a disk is kept when the work since the last kept one took longer than a copy does.
//! Main type: [`Policy`].

use std::time::Duration;

/// Decides, from what work and copies have cost in this bake.
#[derive(Debug)]
pub(super) struct Policy {
    copy: Duration,
    since: Duration,
}

impl Policy {
    /// Starts at a kept disk; copying it took so long.
    pub(super) fn new(copy: Duration) -> Self {
        Self { copy, since: Duration::ZERO }
    }

    /// A layer ran for so long.
    pub(super) fn worked(&mut self, spent: Duration) {
        self.since += spent;
    }

    /// Whether to keep the disk now.
    pub(super) fn is_due(&self) -> bool {
        self.since > self.copy
    }

    /// The disk was kept; copying it took so long.
    pub(super) fn kept(&mut self, copy: Duration) {
        *self = Self::new(copy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheap_layers_add_up() {
        let second = Duration::from_secs(1);
        let mut policy = Policy::new(second);
        policy.worked(second / 2);
        assert!(!policy.is_due());
        policy.worked(second);
        assert!(policy.is_due());
        policy.kept(second);
        assert!(!policy.is_due());
    }
}
