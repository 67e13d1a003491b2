//! The provider: which verb is which call. Main type: [`PostgreSql`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use olbake_core::stack::Catalog;
use olbake_engine::stack::provider::{Live, Object, Provider, ProviderError};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::connect::{Reached, Session, connect, reach};
use crate::database::{self, Database};
use crate::grant::{self, Grant};
use crate::inputs::{map, parse};
use crate::mark::{self, Mark};
use crate::role::{self, Role};
use crate::schema::{self, Schema};
use crate::scram;
use crate::server::{Password, Server};

/// How long a server that starts is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// A weaker password could be guessed by somebody who has its verifier.
const SHORTEST_PASSWORD: usize = 16;
/// The most that a login may cost a server.
const MOST_ITERATIONS: u32 = 1_000_000;

/// Databases, roles, schemas and grants in servers that run.
#[derive(Debug)]
pub struct PostgreSql {
    patience: Duration,
    /// Servers that were named: those are asked when everything is to be listed.
    servers: Mutex<Vec<Server>>,
}

impl Default for PostgreSql {
    fn default() -> Self {
        Self::new()
    }
}

/// The kinds of its objects.
enum Kind {
    Verifier,
    Database,
    Role,
    Schema,
    Grant,
}

impl Kind {
    fn of(object: &Object) -> Result<Self, ProviderError> {
        match object.ty.kind() {
            "verifier" => Ok(Self::Verifier),
            "database" => Ok(Self::Database),
            "role" => Ok(Self::Role),
            "schema" => Ok(Self::Schema),
            "grant" => Ok(Self::Grant),
            _ => Err(ProviderError::refused(format!("there is no type `{}`", object.ty))),
        }
    }
}

#[derive(Deserialize)]
struct Verifier {
    password: Password,
    iterations: u32,
}

#[derive(Deserialize)]
struct OnServer {
    server: Server,
}

impl PostgreSql {
    /// The provider. It waits a minute for servers that start.
    pub fn new() -> Self {
        Self::with_patience(PATIENCE)
    }

    /// The provider, with another patience.
    pub fn with_patience(patience: Duration) -> Self {
        Self { patience, servers: Mutex::default() }
    }

    /// Remembers a server: [`Provider::list`] asks those that are remembered. Every call remembers its own.
    pub fn remember(&self, server: &Server) {
        let mut servers = self.servers();
        servers.retain(|known| !known.is_at(server));
        servers.push(server.clone());
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server(&self, inputs: &Map<String, Value>) -> Result<Server, ProviderError> {
        let OnServer { server } = parse(inputs)?;
        self.remember(&server);
        Ok(server)
    }

    async fn session(&self, inputs: &Map<String, Value>) -> Result<Session, ProviderError> {
        let server = self.server(inputs)?;
        connect(&server, &server.database, self.patience).await
    }

    /// A session in a database of its own; none: the server has no such database.
    async fn session_in(
        &self,
        inputs: &Map<String, Value>,
        database: &str,
    ) -> Result<Option<Session>, ProviderError> {
        match reach(&self.server(inputs)?, database, self.patience).await? {
            Reached::There(session) => Ok(Some(session)),
            Reached::NoDatabase => Ok(None),
        }
    }

    async fn session_that_must_be(
        &self,
        inputs: &Map<String, Value>,
        database: &str,
    ) -> Result<Session, ProviderError> {
        connect(&self.server(inputs)?, database, self.patience).await
    }

    async fn ensure(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ProviderError> {
        match Kind::of(object)? {
            Kind::Verifier => verifier(object, inputs),
            Kind::Database => {
                let database: Database = parse(inputs)?;
                database::ensure(&self.session(inputs).await?, object, &database).await
            }
            Kind::Role => {
                let role: Role = parse(inputs)?;
                role::ensure(&self.session(inputs).await?, object, &role).await
            }
            Kind::Schema => {
                let schema: Schema = parse(inputs)?;
                let session = self.session_that_must_be(inputs, schema.database.as_str()).await?;
                schema::ensure(&session, object, &schema).await
            }
            Kind::Grant => {
                let grant: Grant = parse(inputs)?;
                let session = self.session_that_must_be(inputs, grant.database.as_str()).await?;
                grant::ensure(&session, &grant).await
            }
        }
    }

    /// Removes an object of which only the id is known, wherever it is.
    async fn delete_anywhere(&self, object: &Object) -> Result<(), ProviderError> {
        let servers = self.servers().clone();
        for server in servers {
            for (found, database) in self.marked(&server).await? {
                if found.id != object.id {
                    continue;
                }
                let session = connect(&server, &database, self.patience).await?;
                return delete_in(&session, &found).await;
            }
        }
        Ok(())
    }

    /// The marked objects of a server, each with the database from which it can be changed.
    async fn marked(&self, server: &Server) -> Result<Vec<(Object, String)>, ProviderError> {
        let session = connect(server, &server.database, self.patience).await?;
        let shared = "SELECT 'postgresql.role', shobj_description(oid, 'pg_authid') FROM pg_roles
                WHERE shobj_description(oid, 'pg_authid') LIKE $1
            UNION ALL SELECT 'postgresql.database', shobj_description(oid, 'pg_database') FROM pg_database
                WHERE shobj_description(oid, 'pg_database') LIKE $1";
        let own = "SELECT 'postgresql.schema', obj_description(oid, 'pg_namespace') FROM pg_namespace
                WHERE obj_description(oid, 'pg_namespace') LIKE $1";
        let mut found = marks(&session, shared, &server.database).await?;
        let open = "SELECT datname::text FROM pg_database WHERE datallowconn AND has_database_privilege(oid, 'connect')";
        for row in session.rows("list databases", open, &[]).await? {
            let database: String = row.get(0);
            // It may go meanwhile.
            if let Reached::There(session) = reach(server, &database, self.patience).await? {
                found.extend(marks(&session, own, &database).await?);
            }
        }
        Ok(found)
    }
}

async fn marks(
    session: &Session,
    query: &str,
    database: &str,
) -> Result<Vec<(Object, String)>, ProviderError> {
    let rows = session.rows("list what is marked", query, &[&mark::any()]).await?;
    let object = |(ty, comment): (String, String)| {
        let Mark { stack, name, id } = Mark::parse(&comment)?;
        Some((Object { stack, name, ty: ty.parse().ok()?, id }, database.to_owned()))
    };
    Ok(rows.iter().filter_map(|row| object((row.get(0), row.get(1)))).collect())
}

async fn delete_in(session: &Session, object: &Object) -> Result<(), ProviderError> {
    match Kind::of(object)? {
        Kind::Database => database::delete(session, &object.id).await,
        Kind::Role => role::delete(session, &object.id).await,
        Kind::Schema => schema::delete(session, &object.id).await,
        Kind::Verifier | Kind::Grant => Ok(()),
    }
}

fn verifier(object: &Object, inputs: &Map<String, Value>) -> Result<Map<String, Value>, ProviderError> {
    let Verifier { password, iterations } = parse(inputs)?;
    if password.is_unknown() {
        return Err(ProviderError::refused("the password is not known here"));
    }
    if password.reveal().chars().count() < SHORTEST_PASSWORD {
        let message = format!("the password has fewer than {SHORTEST_PASSWORD} characters");
        let help = "who sees the verifier could guess it; `openssl rand -base64 24` makes a better one";
        return Err(ProviderError::Refused { message, help: Some(help.to_owned()) });
    }
    if !(scram::ITERATIONS..=MOST_ITERATIONS).contains(&iterations) {
        let message = format!("`iterations` is from {} to {MOST_ITERATIONS}", scram::ITERATIONS);
        return Err(ProviderError::refused(message));
    }
    let text = scram::verifier(password.reveal(), object.id.as_str(), iterations);
    Ok(map([("verifier", text.into())]))
}

/// A verifier is nowhere but in the state: it is there. Without its password its text cannot be told.
fn read_verifier(object: &Object, inputs: &Map<String, Value>) -> Result<Live, ProviderError> {
    let Verifier { iterations, .. } = parse(inputs)?;
    Ok(Live {
        inputs: map([("iterations", iterations.into())]),
        outputs: verifier(object, inputs)?,
        stopped: false,
    })
}

#[async_trait]
impl Provider for PostgreSql {
    fn name(&self) -> &str {
        "postgresql"
    }

    fn catalog(&self) -> Catalog {
        crate::catalog()
    }

    async fn create(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ProviderError> {
        self.ensure(object, inputs).await
    }

    async fn read(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Option<Live>, ProviderError> {
        match Kind::of(object)? {
            Kind::Verifier => read_verifier(object, inputs).map(Some),
            Kind::Database => {
                let database: Database = parse(inputs)?;
                database::read(&self.session(inputs).await?, object, &database).await
            }
            Kind::Role => {
                let role: Role = parse(inputs)?;
                role::read(&self.session(inputs).await?, object, &role).await
            }
            Kind::Schema => {
                let schema: Schema = parse(inputs)?;
                match self.session_in(inputs, schema.database.as_str()).await? {
                    Some(session) => schema::read(&session, object, &schema).await,
                    None => Ok(None),
                }
            }
            Kind::Grant => {
                let grant: Grant = parse(inputs)?;
                match self.session_in(inputs, grant.database.as_str()).await? {
                    Some(session) => grant::read(&session, &grant).await,
                    None => Ok(None),
                }
            }
        }
    }

    async fn update(
        &self,
        object: &Object,
        inputs: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ProviderError> {
        self.ensure(object, inputs).await
    }

    async fn delete(&self, object: &Object, inputs: &Map<String, Value>) -> Result<(), ProviderError> {
        match Kind::of(object)? {
            Kind::Verifier => Ok(()),
            _ if inputs.is_empty() => self.delete_anywhere(object).await,
            Kind::Database | Kind::Role => delete_in(&self.session(inputs).await?, object).await,
            Kind::Schema => {
                let schema: Schema = parse(inputs)?;
                match self.session_in(inputs, schema.database.as_str()).await? {
                    Some(session) => delete_in(&session, object).await,
                    None => Ok(()),
                }
            }
            Kind::Grant => {
                let grant: Grant = parse(inputs)?;
                match self.session_in(inputs, grant.database.as_str()).await? {
                    Some(session) => grant::delete(&session, &grant).await,
                    None => Ok(()),
                }
            }
        }
    }

    async fn import(
        &self,
        object: &Object,
        foreign: &str,
        inputs: &Map<String, Value>,
    ) -> Result<Live, ProviderError> {
        match Kind::of(object)? {
            Kind::Database => database::claim(&self.session(inputs).await?, object, foreign).await?,
            Kind::Role => role::claim(&self.session(inputs).await?, object, foreign).await?,
            Kind::Schema => {
                let schema: Schema = parse(inputs)?;
                let session = self.session_that_must_be(inputs, schema.database.as_str()).await?;
                schema::claim(&session, object, foreign).await?;
            }
            Kind::Verifier | Kind::Grant => {
                let message = format!("a `{}` has no name to import it by: declare it", object.ty);
                return Err(ProviderError::refused(message));
            }
        }
        let live = self.read(object, inputs).await?;
        live.ok_or_else(|| ProviderError::refused(format!("`{foreign}` went meanwhile")))
    }

    async fn list(&self) -> Result<Vec<Object>, ProviderError> {
        let mut all = Vec::new();
        let servers = self.servers().clone();
        for server in servers {
            all.extend(self.marked(&server).await?.into_iter().map(|(object, _)| object));
        }
        Ok(all)
    }
}
