//! The types of resources that a server has, as stacks declare them. Main function: [`catalog`].

use olbake_core::settings::{RecordField, Type};
use olbake_core::stack::Catalog;
use olbake_core::stack::catalog::{Change, TypeSchema};
use serde_json::json;

use crate::grant::Target;
use crate::scram;

/// All types of the provider.
pub fn catalog() -> Catalog {
    Catalog::default()
        .with("postgresql.verifier", verifier())
        .with("postgresql.database", database())
        .with("postgresql.role", role())
        .with("postgresql.schema", schema())
        .with("postgresql.grant", grant())
}

/// How a server is reached. Objects stay where they are when it changes: it is the same server elsewhere.
fn server_type() -> Type {
    let field = |name: &str, ty, default| RecordField { name: name.to_owned(), ty, default };
    Type::Record(vec![
        field("host", Type::Str, None),
        field("port", Type::Port, Some(json!(5432))),
        field("user", Type::Str, None),
        field("password", Type::Secret, None),
        field("database", Type::Str, Some(json!("postgres"))),
        field("tls", words(&["require", "disable"]), Some(json!("require"))),
    ])
}

fn words(all: &[&str]) -> Type {
    Type::Enum(all.iter().map(|word| (*word).to_owned()).collect())
}

fn on_server(doc: &'static str) -> TypeSchema {
    let how = "the server: host, port, user, password, database, tls";
    TypeSchema::object(doc).delete_first().takes("server", server_type(), Change::InPlace, how)
}

fn verifier() -> TypeSchema {
    TypeSchema::object("what a server needs to check a password, and nobody can log in with")
        .takes("password", Type::Secret, Change::InPlace, "the password, 16 characters at least")
        .takes_or(
            "iterations",
            Type::Int,
            json!(scram::ITERATIONS),
            Change::InPlace,
            "rounds of hashing: what a guess costs, and each login",
        )
        .gives_anew("verifier", Type::Str, "for `CREATE ROLE … PASSWORD`: not a secret")
}

fn database() -> TypeSchema {
    on_server("a database")
        .holding_data()
        .takes("name", Type::Str, Change::InPlace, "its name")
        .takes("owner", Type::Str.or_none(), Change::InPlace, "the role that owns it; none: whoever does")
        .takes_or("encoding", Type::Str, json!("UTF8"), Change::Replace, "how text is encoded")
        .takes_or("locale", Type::Str, json!("C.UTF-8"), Change::Replace, "order and case of text")
        .gives("name", Type::Str, "its name")
}

fn role() -> TypeSchema {
    on_server("a role: an account, or a group of them")
        .takes("name", Type::Str, Change::InPlace, "its name")
        .takes_or("login", Type::Bool, json!(true), Change::InPlace, "it may log in")
        .takes("password", Type::Secret.or_none(), Change::InPlace, "its password; none: it has none")
        .takes_or(
            "member_of",
            Type::Set(Box::new(Type::Str)),
            json!([]),
            Change::InPlace,
            "the roles that it is a member of, all of them",
        )
        .gives("name", Type::Str, "its name")
}

fn schema() -> TypeSchema {
    on_server("a schema of a database")
        .holding_data()
        .takes("database", Type::Str, Change::Replace, "the database that it is in")
        .takes("name", Type::Str, Change::InPlace, "its name")
        .takes("owner", Type::Str.or_none(), Change::InPlace, "the role that owns it; none: whoever does")
        .gives("name", Type::Str, "its name")
        .gives("database", Type::Str, "the database that it is in")
}

fn grant() -> TypeSchema {
    on_server("what a role may do in a schema, of now and of tables to come")
        .takes("database", Type::Str, Change::Replace, "the database")
        .takes("schema", Type::Str, Change::Replace, "the schema")
        .takes("role", Type::Str, Change::Replace, "the role")
        .takes("on", words(&Target::WORDS), Change::Replace, "the schema itself, or what is in it")
        .takes(
            "privileges",
            Type::Set(Box::new(Type::Str)),
            Change::InPlace,
            "all that it may, in lower case: `usage`, `select`",
        )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_server_is_complete_when_its_password_is_known() {
        let given = json!({"host": "10.0.0.4", "user": "admin", "password": "x"});
        let whole = server_type().coerce(&given).unwrap();
        let fields = [&whole["port"], &whole["database"], &whole["tls"]];
        assert_eq!(fields, [&json!(5432), &json!("postgres"), &json!("require")]);
        assert!(server_type().coerce(&Value::from("10.0.0.4")).is_err());
    }

    #[test]
    fn what_holds_data_is_said() {
        let catalog = catalog();
        let holding: Vec<&str> =
            catalog.iter().filter(|(_, schema)| schema.holds_data).map(|(ty, _)| ty.kind()).collect();
        assert_eq!(holding, ["database", "schema"]);
    }
}
