//! When a layer's disk is worth keeping.
//!
//! Keeping a disk costs a copy, once; not keeping it costs running the layers since the last kept one again, each
//! time that a later bake needs them. Before a layer that is often: layers change one at a time, and again and
//! again. Before the seal it is rare: only a layer that is added at the end goes on from there. Main type:
//! [`Policy`].

use std::time::Duration;

/// How many later bakes are thought to go on from a disk that a layer follows.
const LATER_BAKES: u32 = 4;
/// What a copy is taken to cost where none was made: that of an image of a gigabyte, written to memory.
const COPY: Duration = Duration::from_millis(700);

/// What follows on a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another layer.
    Layer,
    /// The seal.
    Seal,
}

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
    pub(super) fn is_due(&self, next: Next) -> bool {
        let bakes = match next {
            Next::Layer => LATER_BAKES,
            Next::Seal => 1,
        };
        self.since * bakes > self.copy
    }

    /// The disk was kept; copying it took so long, where it was copied.
    pub(super) fn kept(&mut self, copy: Option<Duration>) {
        *self = Self::new(copy.unwrap_or(COPY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheap_layers_add_up() {
        let second = Duration::from_secs(1);
        let mut policy = Policy::new(second);
        policy.worked(second / 5);
        assert!(!policy.is_due(Next::Layer));
        policy.worked(second / 5);
        assert!(policy.is_due(Next::Layer));
        policy.kept(Some(second));
        assert!(!policy.is_due(Next::Layer));
    }

    #[test]
    fn before_the_seal_it_has_to_pay_at_once() {
        let second = Duration::from_secs(1);
        let mut policy = Policy::new(second);
        policy.worked(second / 2);
        assert!(!policy.is_due(Next::Seal));
        policy.worked(second);
        assert!(policy.is_due(Next::Seal));
    }
}
