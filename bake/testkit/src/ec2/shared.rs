//! What all requests share.

use super::calls::Calls;
use super::faults::Faults;
use super::upstream::Upstream;

pub(super) struct Shared {
    pub(super) moto: Upstream,
    pub(super) calls: Calls,
    pub(super) faults: Faults,
}
