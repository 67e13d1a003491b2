//! olbake: local.
