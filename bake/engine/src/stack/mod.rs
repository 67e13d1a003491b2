//! Stacks: plans carried out through providers, with every step written down before and after.

pub mod provider;
