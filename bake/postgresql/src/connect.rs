//! Connections, with patience for servers that still start. Main type: [`Session`].
//!
//! Over TLS a login needs SCRAM-SHA-256-PLUS: a server that asks for the password in the open, for an MD5 of it, for
//! nothing, or for SCRAM without the binding to this connection, is not talked to.

use std::error::Error as _;
use std::io::ErrorKind;
use std::time::Duration;

use olbake_engine::stack::provider::ProviderError;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Row};

use crate::server::{Server, Tls};
use crate::tls::connector;

/// How long one try may take.
const TRY: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Names are those of the system, whatever somebody put into a database; nothing waits for a lock or works for ever.
const OPTIONS: &str = "-c search_path=pg_catalog -c lock_timeout=30s -c statement_timeout=300s";
/// Losses of a connection that may be gone by the next try.
const PASSING: [ErrorKind; 12] = [
    ErrorKind::ConnectionRefused,
    ErrorKind::ConnectionReset,
    ErrorKind::ConnectionAborted,
    ErrorKind::NotConnected,
    ErrorKind::BrokenPipe,
    ErrorKind::TimedOut,
    ErrorKind::UnexpectedEof,
    ErrorKind::HostUnreachable,
    ErrorKind::NetworkUnreachable,
    ErrorKind::NetworkDown,
    ErrorKind::AddrNotAvailable,
    ErrorKind::NotFound,
];

/// A connection to a database of a server.
pub(crate) struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What came of a wish to connect to a database.
pub(crate) enum Reached {
    There(Session),
    /// The server is there, and has no such database.
    NoDatabase,
}

/// Why one try did not connect.
enum Failure {
    /// Another try may.
    Passing(ProviderError),
    Final(ProviderError),
    NoDatabase,
}

/// Connects to a database of a server; waits for it for as long as `patience`.
pub(crate) async fn reach(
    server: &Server,
    database: &str,
    patience: Duration,
) -> Result<Reached, ProviderError> {
    server.check()?;
    let (end, mut pause) = (Instant::now() + patience, FIRST_PAUSE);
    loop {
        match once(server, database).await {
            Ok(session) => return Ok(Reached::There(session)),
            Err(Failure::NoDatabase) => return Ok(Reached::NoDatabase),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(error)) if Instant::now() + pause > end => return Err(error),
            Err(Failure::Passing(_)) => sleep(pause).await,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Connects to a database that must be there.
pub(crate) async fn connect(
    server: &Server,
    database: &str,
    patience: Duration,
) -> Result<Session, ProviderError> {
    match reach(server, database, patience).await? {
        Reached::There(session) => Ok(session),
        Reached::NoDatabase => Err(ProviderError::refused(format!("{server} has no database `{database}`"))),
    }
}

async fn once(server: &Server, database: &str) -> Result<Session, Failure> {
    let tls =
        connector().map_err(|error| Failure::Final(ProviderError::failed("cannot set TLS up", error)))?;
    if !server.is_socket() {
        // Names of machines that are about to start may come later than this.
        let found = tokio::net::lookup_host((server.host.as_str(), server.port)).await;
        let unknown = |error| ProviderError::failed(format!("cannot find the address of {server}"), error);
        drop(found.map_err(|error| Failure::Passing(unknown(error)))?);
    }
    let connecting = timeout(TRY, config(server, database).connect(tls)).await;
    let connected = connecting.map_err(|_| {
        Failure::Passing(ProviderError::TimedOut { what: format!("the login to {server}"), after: TRY })
    })?;
    let (client, connection) = connected.map_err(|error| judge(server, error))?;
    // How the connection ends is seen by the client's calls.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Session { client, driver })
}

fn config(server: &Server, database: &str) -> Config {
    let Server { host, port, user, password, tls, database: _ } = server;
    let mut config = Config::new();
    config.host(host).port(*port).user(user).password(password.reveal()).dbname(database);
    config.application_name("olbake").connect_timeout(TRY).options(OPTIONS);
    match tls {
        Tls::Require => config.ssl_mode(SslMode::Require).channel_binding(ChannelBinding::Require),
        Tls::Disable => config.ssl_mode(SslMode::Disable).channel_binding(ChannelBinding::Disable),
    };
    config
}

fn judge(server: &Server, error: tokio_postgres::Error) -> Failure {
    let what = format!("cannot log in to {server}");
    match error.code() {
        Some(&SqlState::INVALID_CATALOG_NAME) => Failure::NoDatabase,
        Some(
            &SqlState::CANNOT_CONNECT_NOW
            | &SqlState::TOO_MANY_CONNECTIONS
            | &SqlState::ADMIN_SHUTDOWN
            | &SqlState::CRASH_SHUTDOWN,
        ) => Failure::Passing(failed(what, error)),
        Some(_) => Failure::Final(ProviderError::refused(format!("{what}: {}", said(&error)))),
        None if is_passing(&error) => Failure::Passing(ProviderError::failed(what, error)),
        None => Failure::Final(ProviderError::failed(what, error)),
    }
}

fn is_passing(error: &tokio_postgres::Error) -> bool {
    let io = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    error.is_closed() || io.is_some_and(|io| PASSING.contains(&io.kind()))
}

/// What a server said was wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

/// The server's words with its detail and its hint; the error's where it is not the server's.
fn said(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else { return error.to_string() };
    let parts = [Some(db.message()), db.detail(), db.hint()];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ").replace('\n', "; ")
}

/// Something that a server did not do.
fn failed(what: impl Into<String>, error: tokio_postgres::Error) -> ProviderError {
    match error.as_db_error() {
        Some(_) => ProviderError::failed(what, Said(said(&error))),
        None => ProviderError::failed(what, error),
    }
}

impl Session {
    /// Rows of a query; `what` says what they are asked for: `look at the role "x"`.
    pub(crate) async fn rows(
        &self,
        what: &str,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, ProviderError> {
        let rows = self.client.query(query, parameters).await;
        rows.map_err(|error| failed(format!("cannot {what}"), error))
    }

    /// Whether a query has a row.
    pub(crate) async fn any(
        &self,
        what: &str,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<bool, ProviderError> {
        Ok(!self.rows(what, query, parameters).await?.is_empty())
    }

    /// Runs statements, all of them or none.
    pub(crate) async fn together(&self, what: &str, statements: &[String]) -> Result<(), ProviderError> {
        if statements.is_empty() {
            return Ok(());
        }
        let whole = format!("BEGIN;\n{};\nCOMMIT", statements.join(";\n"));
        self.run(what, &whole).await
    }

    /// Runs a statement that cannot be part of a transaction.
    pub(crate) async fn run(&self, what: &str, statement: &str) -> Result<(), ProviderError> {
        let run = self.client.batch_execute(statement).await;
        run.map_err(|error| failed(format!("cannot {what}"), error))
    }
}
