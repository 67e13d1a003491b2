//! Schemas of databases.

use olbake_core::stack::ObjectId;
use olbake_engine::stack::provider::{Live, Object, ProviderError};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::connect::Session;
use crate::inputs::{Identifier, literal, map, quoted, taken};
use crate::mark;

const NOUN: &str = "schema";

/// A schema that is to be.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Schema {
    pub(crate) database: Identifier,
    name: Identifier,
    owner: Option<Identifier>,
}

struct Found {
    name: String,
    owner: String,
}

/// Makes a schema, or makes it what it is to be.
pub(crate) async fn ensure(
    session: &Session,
    object: &Object,
    schema: &Schema,
) -> Result<Map<String, Value>, ProviderError> {
    let found = find(session, &object.id).await?;
    let name = schema.name.as_str();
    if found.as_ref().is_none_or(|found| found.name != name) && exists(session, name).await? {
        return Err(taken(NOUN, name));
    }
    let statements = statements(schema, found.as_ref(), object);
    session.together(&format!("set up the schema `{name}`"), &statements).await?;
    Ok(outputs(schema))
}

/// Looks at a schema.
pub(crate) async fn read(
    session: &Session,
    object: &Object,
    schema: &Schema,
) -> Result<Option<Live>, ProviderError> {
    let Some(Found { name, owner }) = find(session, &object.id).await? else { return Ok(None) };
    let mut inputs = map([("name", name.into())]);
    if schema.owner.is_some() {
        inputs.insert("owner".to_owned(), owner.into());
    }
    Ok(Some(Live { inputs, outputs: outputs(schema), stopped: false }))
}

/// Removes a schema with all that is in it.
pub(crate) async fn delete(session: &Session, id: &ObjectId) -> Result<(), ProviderError> {
    let Some(found) = find(session, id).await? else { return Ok(()) };
    let what = format!("remove the schema `{}`", found.name);
    session.run(&what, &format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(&found.name))).await
}

/// Marks a schema that somebody else made.
pub(crate) async fn claim(session: &Session, object: &Object, foreign: &str) -> Result<(), ProviderError> {
    let query = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = $1";
    let rows = session.rows(&format!("look at the schema `{foreign}`"), query, &[&foreign]).await?;
    mark::free(NOUN, foreign, object, &rows)?;
    session.run(&format!("mark the schema `{foreign}`"), &marking(foreign, object)).await
}

fn outputs(schema: &Schema) -> Map<String, Value> {
    map([("name", schema.name.as_str().into()), ("database", schema.database.as_str().into())])
}

fn statements(schema: &Schema, found: Option<&Found>, object: &Object) -> Vec<String> {
    let name = schema.name.quoted();
    let mut all = match found {
        None => vec![format!("CREATE SCHEMA {name}"), marking(schema.name.as_str(), object)],
        Some(found) if found.name == schema.name.as_str() => Vec::new(),
        Some(found) => vec![format!("ALTER SCHEMA {} RENAME TO {name}", quoted(&found.name))],
    };
    let is_owner = |owner: &Identifier| found.is_some_and(|found| found.owner == owner.as_str());
    if let Some(owner) = schema.owner.as_ref().filter(|owner| !is_owner(owner)) {
        all.push(format!("ALTER SCHEMA {name} OWNER TO {}", owner.quoted()));
    }
    all
}

fn marking(name: &str, object: &Object) -> String {
    format!("COMMENT ON SCHEMA {} IS {}", quoted(name), literal(&mark::comment(object)))
}

async fn find(session: &Session, id: &ObjectId) -> Result<Option<Found>, ProviderError> {
    let query = "SELECT nspname::text, pg_get_userbyid(nspowner)::text
        FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') LIKE $1";
    let rows = session.rows("look for schemas", query, &[&mark::pattern(id)]).await?;
    Ok(rows.first().map(|row| Found { name: row.get(0), owner: row.get(1) }))
}

async fn exists(session: &Session, name: &str) -> Result<bool, ProviderError> {
    let query = "SELECT FROM pg_namespace WHERE nspname = $1";
    session.any(&format!("look for the schema `{name}`"), query, &[&name]).await
}
