//! Databases. One cannot be made in a transaction with its mark, so it is made under a name of its own, which has
//! the object's id in it, and renamed when it is marked: whatever is left by a crash is known by either.

use olbake_core::stack::ObjectId;
use olbake_engine::stack::provider::{Live, Object, ProviderError};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::connect::Session;
use crate::inputs::{Identifier, literal, map, quoted, taken};
use crate::mark;

const NOUN: &str = "database";

/// A database that is to be.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Database {
    name: Identifier,
    owner: Option<Identifier>,
    encoding: Identifier,
    locale: Identifier,
}

struct Found {
    name: String,
    owner: String,
    encoding: String,
    locale: String,
    marked: bool,
}

fn unfinished(id: &ObjectId) -> String {
    format!("olbake-unfinished-{id}")
}

/// Makes a database, or makes it what it is to be.
pub(crate) async fn ensure(
    session: &Session,
    object: &Object,
    database: &Database,
) -> Result<Map<String, Value>, ProviderError> {
    let name = database.name.as_str();
    let what = format!("set up the database `{name}`");
    let found = find(session, &object.id).await?;
    let is_elsewhere = found.as_ref().is_none_or(|found| found.name != name);
    if is_elsewhere && exists(session, name).await? {
        if found.is_some_and(|found| found.name == unfinished(&object.id)) {
            delete(session, &object.id).await?;
        }
        return Err(taken(NOUN, name));
    }
    if found.is_none() {
        session.run(&what, &creation(database, &object.id)).await?;
    }
    let (now, owner) = match &found {
        Some(found) => (found.name.clone(), Some(found.owner.as_str())),
        None => (unfinished(&object.id), database.owner.as_ref().map(Identifier::as_str)),
    };
    if found.as_ref().is_none_or(|found| !found.marked) {
        session.run(&what, &marking(&now, object)).await?;
    }
    if let Some(wanted) = database.owner.as_ref().filter(|wanted| Some(wanted.as_str()) != owner) {
        let statement = format!("ALTER DATABASE {} OWNER TO {}", quoted(&now), wanted.quoted());
        session.run(&what, &statement).await?;
    }
    if now != name {
        let statement = format!("ALTER DATABASE {} RENAME TO {}", quoted(&now), database.name.quoted());
        session.run(&what, &statement).await?;
    }
    Ok(outputs(database))
}

/// Looks at a database. One that is not finished is none.
pub(crate) async fn read(
    session: &Session,
    object: &Object,
    database: &Database,
) -> Result<Option<Live>, ProviderError> {
    let found = find(session, &object.id).await?;
    let Some(found) = found.filter(|found| found.name != unfinished(&object.id)) else { return Ok(None) };
    let Found { name, owner, encoding, locale, marked: _ } = found;
    let mut inputs = map([("name", name.into()), ("encoding", encoding.into()), ("locale", locale.into())]);
    if database.owner.is_some() {
        inputs.insert("owner".to_owned(), owner.into());
    }
    Ok(Some(Live { inputs, outputs: outputs(database), stopped: false }))
}

/// Removes a database with all that is in it, and ends the connections to it.
pub(crate) async fn delete(session: &Session, id: &ObjectId) -> Result<(), ProviderError> {
    let Some(found) = find(session, id).await? else { return Ok(()) };
    let what = format!("remove the database `{}`", found.name);
    session.run(&what, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted(&found.name))).await
}

/// Marks a database that somebody else made.
pub(crate) async fn claim(session: &Session, object: &Object, foreign: &str) -> Result<(), ProviderError> {
    let query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1";
    let rows = session.rows(&format!("look at the database `{foreign}`"), query, &[&foreign]).await?;
    mark::free(NOUN, foreign, object, &rows)?;
    session.run(&format!("mark the database `{foreign}`"), &marking(foreign, object)).await
}

fn outputs(database: &Database) -> Map<String, Value> {
    map([("name", database.name.as_str().into())])
}

fn creation(database: &Database, id: &ObjectId) -> String {
    let Database { name: _, owner, encoding, locale } = database;
    let owner = owner.as_ref().map(|owner| format!(" OWNER {}", owner.quoted())).unwrap_or_default();
    // Nobody is connected to template0, and it takes any encoding.
    format!(
        "CREATE DATABASE {}{owner} TEMPLATE template0 ENCODING {} LOCALE {}",
        quoted(&unfinished(id)),
        literal(encoding.as_str()),
        literal(locale.as_str())
    )
}

fn marking(name: &str, object: &Object) -> String {
    format!("COMMENT ON DATABASE {} IS {}", quoted(name), literal(&mark::comment(object)))
}

async fn find(session: &Session, id: &ObjectId) -> Result<Option<Found>, ProviderError> {
    let query = "SELECT datname::text, pg_get_userbyid(datdba)::text, pg_encoding_to_char(encoding)::text,
            datcollate::text, coalesce(shobj_description(oid, 'pg_database') LIKE $1, false) AS marked
        FROM pg_database WHERE shobj_description(oid, 'pg_database') LIKE $1 OR datname = $2
        ORDER BY marked DESC";
    let parameters = [mark::pattern(id), unfinished(id)];
    let rows = session.rows("look for databases", query, &[&parameters[0], &parameters[1]]).await?;
    Ok(rows.first().map(|row| Found {
        name: row.get(0),
        owner: row.get(1),
        encoding: row.get(2),
        locale: row.get(3),
        marked: row.get(4),
    }))
}

async fn exists(session: &Session, name: &str) -> Result<bool, ProviderError> {
    let query = "SELECT FROM pg_database WHERE datname = $1";
    session.any(&format!("look for the database `{name}`"), query, &[&name]).await
}
