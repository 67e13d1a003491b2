//! Roles. What is to be and what is there give the statements between them ([`statements`]), which run together.

use std::collections::BTreeSet;

use olbake_core::stack::ObjectId;
use olbake_engine::stack::provider::{Live, Object, ProviderError};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::connect::Session;
use crate::inputs::{Identifier, literal, map, quoted, set, taken};
use crate::server::Password;
use crate::{mark, scram};

const NOUN: &str = "role";

/// A role that is to be.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Role {
    name: Identifier,
    login: bool,
    password: Option<Password>,
    member_of: BTreeSet<Identifier>,
}

/// A role that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    oid: u32,
    name: String,
    login: bool,
    member_of: BTreeSet<String>,
}

/// What can be seen of a role's password.
enum Kept {
    /// Only superusers see passwords' verifiers.
    Hidden,
    Nothing,
    Verifier(String),
}

/// Makes a role, or makes it what it is to be.
pub(crate) async fn ensure(
    session: &Session,
    object: &Object,
    role: &Role,
) -> Result<Map<String, Value>, ProviderError> {
    let found = find(session, &object.id).await?;
    let name = role.name.as_str();
    if found.as_ref().is_none_or(|found| found.name != name) && exists(session, name).await? {
        return Err(taken(NOUN, name));
    }
    let statements = statements(role, found.as_ref(), object);
    session.together(&format!("set up the role `{name}`"), &statements).await?;
    Ok(outputs(role))
}

/// Looks at a role.
pub(crate) async fn read(
    session: &Session,
    object: &Object,
    role: &Role,
) -> Result<Option<Live>, ProviderError> {
    let Some(found) = find(session, &object.id).await? else { return Ok(None) };
    let kept = kept(session, found.oid).await?;
    let Found { oid: _, name, login, member_of } = found;
    let mut inputs = map([("name", name.into()), ("login", login.into()), ("member_of", set(member_of))]);
    inputs.extend(seen_password(role.password.as_ref(), &kept).map(|seen| ("password".to_owned(), seen)));
    Ok(Some(Live { inputs, outputs: outputs(role), stopped: false }))
}

/// Removes a role; what it owns must be gone before it.
pub(crate) async fn delete(session: &Session, id: &ObjectId) -> Result<(), ProviderError> {
    let Some(found) = find(session, id).await? else { return Ok(()) };
    let what = format!("remove the role `{}`", found.name);
    session.run(&what, &format!("DROP ROLE IF EXISTS {}", quoted(&found.name))).await
}

/// Marks a role that somebody else made.
pub(crate) async fn claim(session: &Session, object: &Object, foreign: &str) -> Result<(), ProviderError> {
    let query = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1";
    let rows = session.rows(&format!("look at the role `{foreign}`"), query, &[&foreign]).await?;
    mark::free(NOUN, foreign, object, &rows)?;
    let statement = format!("COMMENT ON ROLE {} IS {}", quoted(foreign), literal(&mark::comment(object)));
    session.run(&format!("mark the role `{foreign}`"), &statement).await
}

fn outputs(role: &Role) -> Map<String, Value> {
    map([("name", role.name.as_str().into())])
}

/// The way from what is there to what is to be.
fn statements(role: &Role, found: Option<&Found>, object: &Object) -> Vec<String> {
    let name = role.name.quoted();
    let mut all = match found {
        None => vec![
            format!("CREATE ROLE {name}"),
            format!("COMMENT ON ROLE {name} IS {}", literal(&mark::comment(object))),
        ],
        Some(found) if found.name == role.name.as_str() => Vec::new(),
        Some(found) => vec![format!("ALTER ROLE {} RENAME TO {name}", quoted(&found.name))],
    };
    let login = if role.login { "LOGIN" } else { "NOLOGIN" };
    // The verifier is the same at every deploy, and the server takes it as it is: the password is in no log.
    let password = role.password.as_ref().map_or_else(
        || "NULL".to_owned(),
        |password| literal(&scram::verifier(password.reveal(), object.id.as_str(), scram::ITERATIONS)),
    );
    all.push(format!("ALTER ROLE {name} {login} PASSWORD {password}"));
    let nothing = BTreeSet::new();
    let is_in = found.map_or(&nothing, |found| &found.member_of);
    let wanted: BTreeSet<String> = role.member_of.iter().map(Identifier::to_string).collect();
    all.extend(wanted.difference(is_in).map(|group| format!("GRANT {} TO {name}", quoted(group))));
    all.extend(is_in.difference(&wanted).map(|group| format!("REVOKE {} FROM {name}", quoted(group))));
    all
}

/// What is said of the password: nothing where it is as it is to be, or cannot be seen.
fn seen_password(wanted: Option<&Password>, kept: &Kept) -> Option<Value> {
    match (wanted, kept) {
        (_, Kept::Hidden) | (None, Kept::Nothing) => None,
        (Some(password), _) if password.is_unknown() => None,
        (Some(password), Kept::Verifier(verifier)) if scram::is_of(verifier, password.reveal()) => None,
        (Some(_), _) => Some(Value::Null),
        (None, Kept::Verifier(_)) => Some(json!("set by somebody else")),
    }
}

async fn find(session: &Session, id: &ObjectId) -> Result<Option<Found>, ProviderError> {
    let query = "SELECT r.oid, r.rolname::text, r.rolcanlogin,
            array(SELECT DISTINCT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                WHERE m.member = r.oid)
        FROM pg_roles r WHERE shobj_description(r.oid, 'pg_authid') LIKE $1";
    let rows = session.rows("look for roles", query, &[&mark::pattern(id)]).await?;
    Ok(rows.first().map(|row| Found {
        oid: row.get(0),
        name: row.get(1),
        login: row.get(2),
        member_of: row.get::<_, Vec<String>>(3).into_iter().collect(),
    }))
}

async fn exists(session: &Session, name: &str) -> Result<bool, ProviderError> {
    let query = "SELECT FROM pg_roles WHERE rolname = $1";
    session.any(&format!("look for the role `{name}`"), query, &[&name]).await
}

async fn kept(session: &Session, oid: u32) -> Result<Kept, ProviderError> {
    let visible = "SELECT WHERE has_table_privilege('pg_authid', 'select')";
    if !session.any("see who I am", visible, &[]).await? {
        return Ok(Kept::Hidden);
    }
    let query = "SELECT rolpassword FROM pg_authid WHERE oid = $1";
    let rows = session.rows("look at a role's password", query, &[&oid]).await?;
    let verifier: Option<String> = rows.first().and_then(|row| row.get(0));
    Ok(verifier.map_or(Kept::Nothing, Kept::Verifier))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Object {
        Object {
            stack: "substructure.database.QA".parse().unwrap(),
            name: "app".parse().unwrap(),
            ty: "postgresql.role".parse().unwrap(),
            id: "app-3f2a91cc".parse().unwrap(),
        }
    }

    fn role(written: Value) -> Role {
        serde_json::from_value(written).unwrap()
    }

    #[test]
    fn a_new_role_is_made_and_marked_at_once() {
        let role = role(json!({"name": "app", "login": true, "password": null, "member_of": ["readers"]}));
        assert_eq!(
            statements(&role, None, &object()),
            [
                "CREATE ROLE \"app\"",
                "COMMENT ON ROLE \"app\" IS 'olbake 1 substructure.database.QA app app-3f2a91cc'",
                "ALTER ROLE \"app\" LOGIN PASSWORD NULL",
                "GRANT \"readers\" TO \"app\"",
            ]
        );
    }

    #[test]
    fn a_role_is_changed_to_what_it_is_to_be() {
        let written = json!({"name": "new", "login": false, "password": "hunter2", "member_of": ["b"]});
        let member_of = ["a", "b"].map(str::to_owned).into();
        let found = Found { oid: 1, name: "old".into(), login: true, member_of };
        let all = statements(&role(written), Some(&found), &object());
        assert_eq!(all[0], "ALTER ROLE \"old\" RENAME TO \"new\"");
        assert!(all[1].starts_with("ALTER ROLE \"new\" NOLOGIN PASSWORD 'SCRAM-SHA-256$4096:"), "{}", all[1]);
        assert_eq!(all[2..], ["REVOKE \"a\" FROM \"new\""]);
        assert!(!all.concat().contains("hunter2"));
    }

    #[test]
    fn of_passwords_only_a_difference_is_seen() {
        let password = Password::new("correct horse battery");
        let right = Kept::Verifier(scram::verifier(password.reveal(), "x", 4096));
        let wrong = Kept::Verifier(scram::verifier("another", "x", 4096));
        assert_eq!(seen_password(Some(&password), &right), None);
        assert_eq!(seen_password(Some(&password), &wrong), Some(Value::Null));
        assert_eq!(seen_password(Some(&password), &Kept::Nothing), Some(Value::Null));
        assert_eq!(seen_password(Some(&password), &Kept::Hidden), None);
        assert_eq!(seen_password(None, &Kept::Nothing), None);
        assert!(seen_password(None, &wrong).is_some_and(|seen| seen.is_string()));
    }
}
