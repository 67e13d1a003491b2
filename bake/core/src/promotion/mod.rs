//! Promotion as data: channels, their histories, the gates before them and who approved what.
//!
//! A channel is a named pointer of an image (`QA`, `Production`); its history is a list of [`ChannelRecord`]s that
//! only grows. [`judge`] answers whether a version may enter a channel, from facts alone: the version's checks, what
//! it starts from, what was revoked, the history of the channel before, approvals and the time. Reading those from a
//! registry, verifying signatures and writing entries is the engine's part.

mod allowed_signers;
mod approval;
mod channel;
mod gates;
mod history;

pub use allowed_signers::{AllowedSigner, AllowedSigners, Refusal};
pub use approval::{APPROVAL_NAMESPACE, Approval, Approvals, Signer, Statement};
pub use channel::{Channel, channel_before};
pub use gates::{Before, Checks, Facts, Gate, Verdict, held, judge};
pub use history::{ChannelRecord, Revocation, Stay, Why, rollback_targets, stays};
