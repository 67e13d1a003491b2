//! The provider `postgresql`: databases, roles, schemas and grants in a server that runs, over a real connection.
//!
//! It does not run servers: those are machines that other providers launch from images with the component
//! `postgresql`. The way into a new server is `postgresql.verifier`: what the server needs to check a password, but
//! nobody can log in with, goes into the machine's boot inputs; everything else is done by that account.
//!
//! - An object carries its id in its comment (`mark.rs`): so it is found again after a crash, whatever its name is,
//!   and what somebody else made is never taken for it.
//! - Certificates of servers are their own; that the server is the right one is shown by SCRAM with channel binding
//!   (`connect.rs`).
//! - A password never stands in SQL: the server is sent its verifier (`scram.rs`).
//!
//! Main type: [`PostgreSql`].

mod catalog;
mod connect;
mod database;
mod grant;
mod inputs;
mod mark;
mod provider;
mod role;
mod schema;
pub mod scram;
mod server;
mod tls;

pub use catalog::catalog;
pub use provider::PostgreSql;
pub use server::{Password, Server, Tls};
