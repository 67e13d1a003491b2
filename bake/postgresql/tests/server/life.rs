//! Every type made, read, changed behind olbake's back, mended, changed and removed, and everything twice.

use olbake_engine::stack::provider::{Object, Provider};
use olbake_postgresql::{PostgreSql, scram};
use serde_json::{Map, Value, json};

use super::cluster::{ADMIN_PASSWORD, Cluster, inputs, object, provider};

const APP_PASSWORD: &str = "application's \"own\" 3c9e";
const READER_PASSWORD: &str = "readers own 55aa 11ff";

struct Resource {
    object: Object,
    inputs: Map<String, Value>,
}

fn resource(cluster: &Cluster, kind: &str, name: &str, properties: &Value) -> Resource {
    Resource { object: object(kind, name), inputs: inputs(&cluster.server(), properties) }
}

/// A database with everything that there is, in the order of dependencies.
fn everything(cluster: &Cluster) -> Vec<Resource> {
    let make = |kind, name, properties: Value| resource(cluster, kind, name, &properties);
    let in_shop = |more: Value| {
        let mut whole = json!({"database": "Shop \"1\"", "schema": "goods", "role": "reader"});
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        whole
    };
    vec![
        make(
            "role",
            "readers",
            json!({"name": "readers", "login": false, "password": null, "member_of": []}),
        ),
        make("role", "app", json!({"name": "app", "login": true, "password": APP_PASSWORD, "member_of": []})),
        make(
            "role",
            "reader",
            json!({"name": "reader", "login": true, "password": READER_PASSWORD, "member_of": ["readers"]}),
        ),
        make(
            "database",
            "shop",
            json!({"name": "Shop \"1\"", "owner": "app", "encoding": "UTF8", "locale": "C.UTF-8"}),
        ),
        make("schema", "goods", json!({"database": "Shop \"1\"", "name": "goods", "owner": "app"})),
        make("grant", "look", in_shop(json!({"on": "schema", "privileges": ["usage"]}))),
        make("grant", "read", in_shop(json!({"on": "tables", "privileges": ["select"]}))),
        make("grant", "count", in_shop(json!({"on": "sequences", "privileges": ["select", "usage"]}))),
    ]
}

/// Properties that are seen and not those that are to be.
async fn drift(provider: &PostgreSql, resource: &Resource) -> Vec<String> {
    let Resource { object, inputs } = resource;
    let live = provider.read(object, inputs).await.unwrap().expect("it is there");
    live.inputs.into_iter().filter(|(name, seen)| inputs[name] != *seen).map(|(name, _)| name).collect()
}

async fn make(provider: &PostgreSql, all: &[Resource]) {
    for Resource { object, inputs } in all {
        let outputs = provider.create(object, inputs).await.unwrap();
        assert_eq!(provider.create(object, inputs).await.unwrap(), outputs, "{}", object.id);
        assert_eq!(provider.update(object, inputs).await.unwrap(), outputs, "{}", object.id);
        assert_eq!(provider.read(object, inputs).await.unwrap().unwrap().outputs, outputs, "{}", object.id);
    }
}

#[tokio::test]
async fn everything_is_made_read_mended_and_removed() {
    let Some(cluster) = Cluster::start() else { return };
    let provider = provider();
    let all = everything(&cluster);
    for Resource { object, inputs } in all.iter().filter(|resource| resource.object.ty.kind() == "role") {
        assert_eq!(provider.read(object, inputs).await.unwrap(), None, "{}", object.id);
    }
    make(&provider, &all).await;
    for resource in &all {
        assert!(drift(&provider, resource).await.is_empty(), "{}", resource.object.id);
    }
    accounts_can_do_what_they_may(&cluster);
    what_others_change_is_seen_and_mended(&cluster, &provider, &all).await;
    for Resource { object, inputs } in all.iter().rev() {
        provider.delete(object, inputs).await.unwrap();
        assert_eq!(provider.read(object, inputs).await.unwrap(), None, "{}", object.id);
        provider.delete(object, inputs).await.unwrap();
    }
    assert_eq!(cluster.admin("postgres", "SELECT count(*) FROM pg_roles WHERE rolname !~ '^pg_'"), "1");
    let log = cluster.log();
    assert!(log.contains("ALTER ROLE \"app\""), "statements are logged");
    for password in [APP_PASSWORD, READER_PASSWORD, ADMIN_PASSWORD, &APP_PASSWORD.replace('\'', "''")] {
        assert!(!log.contains(password), "a password is in the log");
    }
}

fn accounts_can_do_what_they_may(cluster: &Cluster) {
    let shop = "'Shop \"1\"'";
    let app = |sql: &str| cluster.query("app", APP_PASSWORD, shop, sql);
    let reader = |sql: &str| cluster.query("reader", READER_PASSWORD, shop, sql);
    app("CREATE TABLE goods.things (id serial, name text); INSERT INTO goods.things (name) VALUES ('tea')")
        .unwrap();
    assert_eq!(reader("SELECT name FROM goods.things"), Ok("tea".to_owned()));
    assert!(
        reader("INSERT INTO goods.things (name) VALUES ('x')").unwrap_err().contains("permission denied")
    );
    assert!(cluster.query("app", "not the password", shop, "SELECT 1").is_err());
}

async fn what_others_change_is_seen_and_mended(cluster: &Cluster, provider: &PostgreSql, all: &[Resource]) {
    let shop = "'Shop \"1\"'";
    let cases: [(&str, &str, &str, &[&str]); 7] = [
        ("app", "postgres", "ALTER ROLE app NOLOGIN; GRANT readers TO app", &["login", "member_of"]),
        ("reader", "postgres", "ALTER ROLE reader PASSWORD 'another'", &["password"]),
        ("readers", "postgres", "ALTER ROLE readers PASSWORD 'one of its own'", &["password"]),
        ("shop", "postgres", "ALTER DATABASE \"Shop \"\"1\"\"\" OWNER TO admin", &["owner"]),
        ("goods", shop, "ALTER SCHEMA goods OWNER TO admin", &["owner"]),
        ("look", shop, "GRANT CREATE ON SCHEMA goods TO reader", &["privileges"]),
        ("read", shop, "CREATE TABLE goods.more (); GRANT DELETE ON goods.more TO reader", &["privileges"]),
    ];
    for (name, database, sql, expect) in cases {
        cluster.admin(database, sql);
        let resource = all.iter().find(|resource| resource.object.name.as_str() == name).unwrap();
        assert_eq!(drift(provider, resource).await, expect, "{sql}");
        provider.update(&resource.object, &resource.inputs).await.unwrap();
        assert!(drift(provider, resource).await.is_empty(), "{sql}");
    }
    accounts_still_log_in(cluster);
}

fn accounts_still_log_in(cluster: &Cluster) {
    for (user, password) in [("app", APP_PASSWORD), ("reader", READER_PASSWORD)] {
        assert_eq!(cluster.query(user, password, "postgres", "SELECT 1"), Ok("1".to_owned()), "{user}");
    }
}

#[tokio::test]
async fn a_change_is_made_where_the_object_stands() {
    let Some(cluster) = Cluster::start() else { return };
    let provider = provider();
    let change = |name: &str, kind: &str, before: Value, after: Value| {
        [resource(&cluster, kind, name, &before), resource(&cluster, kind, name, &after)]
    };
    let role = |name: &str, password: &str| json!({"name": name, "login": true, "password": password, "member_of": []});
    let database = |name: &str| json!({"name": name, "owner": null, "encoding": "UTF8", "locale": "C.UTF-8"});
    let schema = |name: &str| json!({"name": name, "database": "new", "owner": null});
    let grant = |privileges: Value| json!({"database": "new", "schema": "new", "role": "new", "on": "schema", "privileges": privileges});
    let changes = [
        change("r", "role", role("old", "the first password"), role("new", "the second password")),
        change("d", "database", database("old"), database("new")),
        change("s", "schema", schema("old"), schema("new")),
        change("g", "grant", grant(json!(["usage"])), grant(json!(["create"]))),
    ];
    for [before, after] in changes {
        provider.create(&before.object, &before.inputs).await.unwrap();
        if before.object.ty.kind() == "database" {
            cluster.admin("old", "CREATE TABLE kept ()");
        }
        provider.update(&after.object, &after.inputs).await.unwrap();
        assert!(drift(&provider, &after).await.is_empty(), "{}", after.object.id);
    }
    assert_eq!(cluster.admin("new", "SELECT count(*) FROM kept"), "0");
    assert!(cluster.query("new", "the second password", "new", "SELECT 1").is_ok());
    assert!(cluster.query("new", "the first password", "new", "SELECT 1").is_err());
}

/// The way into a new server: its first account is made with a verifier that came by the machine's boot inputs.
#[tokio::test]
async fn an_account_made_with_a_verifier_can_log_in() {
    let Some(cluster) = Cluster::start() else { return };
    let provider = provider();
    let password = "correct horse battery staple";
    let inputs: Map<String, Value> =
        json!({"password": password, "iterations": 5000}).as_object().unwrap().clone();
    let object = object("verifier", "owner");
    let outputs = provider.create(&object, &inputs).await.unwrap();
    assert_eq!(provider.read(&object, &inputs).await.unwrap().unwrap().outputs, outputs);
    let verifier = outputs["verifier"].as_str().unwrap();
    assert!(verifier.starts_with("SCRAM-SHA-256$5000:") && scram::is_of(verifier, password), "{verifier}");
    // The administrator answers as soon as the server does.
    let first = resource(
        &cluster,
        "role",
        "first",
        &json!({"name": "first", "login": true, "password": null, "member_of": []}),
    );
    provider.create(&first.object, &first.inputs).await.unwrap();
    cluster.admin("postgres", &format!("CREATE ROLE owner LOGIN SUPERUSER PASSWORD '{verifier}'"));
    let mut as_owner = cluster.server();
    as_owner["user"] = json!("owner");
    as_owner["password"] = json!(password);
    let mut role = first.inputs.clone();
    role.insert("server".to_owned(), as_owner);
    assert!(provider.read(&first.object, &role).await.unwrap().is_some());

    let short = json!({"password": "fifteen letters", "iterations": 4096}).as_object().unwrap().clone();
    let error = provider.create(&object, &short).await.unwrap_err();
    assert!(error.to_string().contains("fewer than 16"), "{error}");
    assert!(!format!("{error:?}").contains("fifteen letters"));
}
