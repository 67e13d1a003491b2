//! What roles may do in a schema.
//!
//! A grant has no identity in a server and no comment: it is the privileges that a role has on a target, all of
//! them. So what is there already is nobody's, and two grants for one role and target would undo each other. What
//! is in a schema comes and goes: a privilege is held when it is on everything there and among the defaults for
//! what the schema's owner makes; it is seen as too much when it is on anything.

use std::collections::BTreeSet;

use olbake_engine::stack::provider::{Live, ProviderError};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::connect::Session;
use crate::inputs::{Identifier, map, quoted, set};

/// What a grant is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Target {
    Schema,
    Tables,
    Sequences,
}

impl Target {
    /// As stacks write them.
    pub(crate) const WORDS: [&str; 3] = ["schema", "tables", "sequences"];

    fn privileges(self) -> &'static [&'static str] {
        match self {
            Self::Schema => &["usage", "create"],
            Self::Tables => &["select", "insert", "update", "delete", "truncate", "references", "trigger"],
            Self::Sequences => &["usage", "select", "update"],
        }
    }

    /// Letters of the catalog: kinds of relations, and the kind in the defaults.
    fn letters(self) -> Option<(&'static [&'static str], &'static str, &'static str)> {
        match self {
            Self::Schema => None,
            Self::Tables => Some((&["r", "p", "v", "m", "f"], "r", "TABLES")),
            Self::Sequences => Some((&["S"], "S", "SEQUENCES")),
        }
    }
}

/// A grant that is to be.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Grant {
    pub(crate) database: Identifier,
    schema: Identifier,
    role: Identifier,
    on: Target,
    privileges: BTreeSet<String>,
}

/// Where a grant is, in the catalog.
struct Place {
    role: u32,
    schema: u32,
    owner: u32,
    owner_name: String,
}

type Privileges = BTreeSet<String>;

/// Gives what is to be given, and takes the rest.
pub(crate) async fn ensure(session: &Session, grant: &Grant) -> Result<Map<String, Value>, ProviderError> {
    check(grant)?;
    let Some(place) = find(session, grant).await? else {
        let Grant { role, schema, .. } = grant;
        return Err(ProviderError::refused(format!("there is no role `{role}`, or no schema `{schema}`")));
    };
    if place.role == place.owner {
        let Grant { role, schema, .. } = grant;
        let message = format!("`{role}` owns the schema `{schema}`, and so it may do everything there");
        return Err(ProviderError::refused(message));
    }
    let held = held(session, grant, &place).await?;
    let statements = statements(grant, &held, &place.owner_name);
    session.together(&format!("grant privileges to `{}`", grant.role), &statements).await?;
    Ok(Map::new())
}

/// Looks at what a role may do; none: nothing.
pub(crate) async fn read(session: &Session, grant: &Grant) -> Result<Option<Live>, ProviderError> {
    let Some(place) = find(session, grant).await? else { return Ok(None) };
    let seen = seen(&grant.privileges, &held(session, grant, &place).await?);
    if seen.is_empty() && !grant.privileges.is_empty() {
        return Ok(None);
    }
    Ok(Some(Live { inputs: map([("privileges", set(seen))]), outputs: Map::new(), stopped: false }))
}

/// Takes everything.
pub(crate) async fn delete(session: &Session, grant: &Grant) -> Result<(), ProviderError> {
    let Some(place) = find(session, grant).await? else { return Ok(()) };
    let held = held(session, grant, &place).await?;
    let nothing = Grant { privileges: BTreeSet::new(), ..grant.clone() };
    let statements = statements(&nothing, &held, &place.owner_name);
    session.together(&format!("take privileges from `{}`", grant.role), &statements).await
}

fn check(grant: &Grant) -> Result<(), ProviderError> {
    let known = grant.on.privileges();
    let unknown = grant.privileges.iter().find(|privilege| !known.contains(&privilege.as_str()));
    unknown.map_or(Ok(()), |unknown| {
        Err(ProviderError::Refused {
            message: format!("there is no privilege `{unknown}` on {}", Target::WORDS[grant.on as usize]),
            help: Some(format!("there are {}", known.join(", "))),
        })
    })
}

/// What is seen, of sets of privileges that are held on one thing each.
fn seen(wanted: &Privileges, held: &[Privileges]) -> Privileges {
    let any: Privileges = held.iter().flatten().cloned().collect();
    let everywhere = |privilege: &String| held.iter().all(|held| held.contains(privilege));
    any.into_iter().filter(|privilege| !wanted.contains(privilege) || everywhere(privilege)).collect()
}

fn statements(grant: &Grant, held: &[Privileges], owner: &str) -> Vec<String> {
    let Grant { database: _, schema, role, on, privileges } = grant;
    let (schema, role, owner) = (schema.quoted(), role.quoted(), quoted(owner));
    let change = |verb: &str, privilege: &str, way: &str| match on.letters() {
        None => vec![format!("{verb} {privilege} ON SCHEMA {schema} {way} {role}")],
        Some((_, _, all)) => vec![
            format!("{verb} {privilege} ON ALL {all} IN SCHEMA {schema} {way} {role}"),
            format!(
                "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} \
                 {verb} {privilege} ON {all} {way} {role}"
            ),
        ],
    };
    let any: Privileges = held.iter().flatten().cloned().collect();
    let kept = seen(privileges, held);
    // What the catalog says is a word of the server's own; what is wanted was checked.
    let too_much = any.difference(privileges).flat_map(|privilege| change("REVOKE", privilege, "FROM"));
    let missing = privileges.difference(&kept).flat_map(|privilege| change("GRANT", privilege, "TO"));
    too_much.chain(missing).collect()
}

async fn find(session: &Session, grant: &Grant) -> Result<Option<Place>, ProviderError> {
    let query = "SELECT r.oid, n.oid, n.nspowner, pg_get_userbyid(n.nspowner)::text
        FROM pg_roles r, pg_namespace n WHERE r.rolname = $1 AND n.nspname = $2";
    let (role, schema) = (grant.role.as_str(), grant.schema.as_str());
    let rows = session.rows(&format!("look for what `{role}` may do"), query, &[&role, &schema]).await?;
    Ok(rows.first().map(|row| Place {
        role: row.get(0),
        schema: row.get(1),
        owner: row.get(2),
        owner_name: row.get(3),
    }))
}

/// What a role holds on each thing: on the schema; or on each of the things in it, and by default on those to come.
async fn held(session: &Session, grant: &Grant, place: &Place) -> Result<Vec<Privileges>, ProviderError> {
    let what = format!("look at what `{}` may do", grant.role);
    let Place { role, schema, owner, owner_name: _ } = place;
    let rows = match grant.on.letters() {
        None => {
            let query =
                "SELECT array(SELECT lower(a.privilege_type) FROM aclexplode(nspacl) a WHERE a.grantee = $1)
                FROM pg_namespace WHERE oid = $2";
            session.rows(&what, query, &[role, schema]).await?
        }
        Some((kinds, default, _)) => {
            let query = "SELECT array(SELECT lower(a.privilege_type) FROM aclexplode(c.relacl) a
                    WHERE a.grantee = $1)
                FROM pg_class c
                WHERE c.relnamespace = $2 AND c.relkind::text = ANY($3) AND c.relowner <> $1
                UNION ALL
                SELECT array(SELECT lower(a.privilege_type) FROM pg_default_acl d, aclexplode(d.defaclacl) a
                    WHERE d.defaclnamespace = $2 AND d.defaclrole = $4 AND d.defaclobjtype::text = $5
                    AND a.grantee = $1)";
            session.rows(&what, query, &[role, schema, &kinds, owner, &default]).await?
        }
    };
    Ok(rows.iter().map(|row| row.get::<_, Vec<String>>(0).into_iter().collect()).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn grant(on: &str, privileges: &[&str]) -> Grant {
        let written = json!({
            "database": "shop", "schema": "shop", "role": "reader", "on": on, "privileges": privileges,
        });
        serde_json::from_value(written).unwrap()
    }

    fn sets(all: &[&[&str]]) -> Vec<Privileges> {
        all.iter().map(|held| held.iter().map(|word| (*word).to_owned()).collect()).collect()
    }

    #[test]
    fn what_is_missing_anywhere_is_missing_and_what_is_too_much_anywhere_is_too_much() {
        let wanted = grant("tables", &["select", "insert"]).privileges;
        let seen = |held: &[&[&str]]| seen(&wanted, &sets(held)).into_iter().collect::<Vec<_>>();
        assert_eq!(seen(&[&["select", "insert"], &["select", "insert"]]), ["insert", "select"]);
        assert_eq!(seen(&[&["select", "insert"], &["select"]]), ["select"]);
        assert_eq!(seen(&[&["select", "insert"], &["delete"]]), ["delete"]);
        assert!(seen(&[&[]]).is_empty());
    }

    #[test]
    fn tables_of_now_and_to_come_are_changed() {
        let statements = statements(&grant("tables", &["select"]), &sets(&[&["delete"]]), "app");
        assert_eq!(
            statements,
            [
                "REVOKE delete ON ALL TABLES IN SCHEMA \"shop\" FROM \"reader\"",
                "ALTER DEFAULT PRIVILEGES FOR ROLE \"app\" IN SCHEMA \"shop\" REVOKE delete ON TABLES FROM \"reader\"",
                "GRANT select ON ALL TABLES IN SCHEMA \"shop\" TO \"reader\"",
                "ALTER DEFAULT PRIVILEGES FOR ROLE \"app\" IN SCHEMA \"shop\" GRANT select ON TABLES TO \"reader\"",
            ]
        );
    }

    #[test]
    fn nothing_changes_where_all_is_there() {
        assert!(statements(&grant("schema", &["usage"]), &sets(&[&["usage"]]), "app").is_empty());
    }

    #[test]
    fn privileges_are_words_of_their_target() {
        assert!(check(&grant("schema", &["usage", "create"])).is_ok());
        assert!(check(&grant("schema", &["select"])).is_err());
        assert!(check(&grant("tables", &["select; DROP TABLE x"])).is_err());
    }
}
