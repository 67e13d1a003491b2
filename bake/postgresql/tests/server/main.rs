//! The provider against a real PostgreSQL server with TLS and SCRAM. Without one installed the tests say so and pass;
//! with `OLBAKE_TEST_REQUIRE=1` that is a failure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod between;
mod cluster;
mod crashes;
mod life;
