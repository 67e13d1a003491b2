//! olbake: lang.
