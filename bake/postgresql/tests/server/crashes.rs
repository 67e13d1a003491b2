//! What crashes leave, what somebody else made, and servers that are not ready.

use olbake_engine::stack::provider::{Provider, ProviderError};
use serde_json::{Value, json};

use super::cluster::{Cluster, inputs, object, provider, words};

fn database(name: &str) -> Value {
    json!({"name": name, "owner": null, "encoding": "UTF8", "locale": "C.UTF-8"})
}

fn role(name: &str) -> Value {
    json!({"name": name, "login": false, "password": null, "member_of": []})
}

const DATABASES: &str = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database";

#[tokio::test]
async fn a_database_that_was_begun_is_finished_or_removed() {
    let Some(cluster) = Cluster::start() else { return };
    let provider = provider();
    let (object, inputs) = (object("database", "shop"), inputs(&cluster.server(), &database("shop")));
    assert_eq!(provider.read(&object, &inputs).await.unwrap(), None);
    let begun = "CREATE DATABASE \"olbake-unfinished-shop-0a1b2c3d\"";
    let marked = "COMMENT ON DATABASE \"olbake-unfinished-shop-0a1b2c3d\" IS \
        'olbake 1 substructure.database.QA shop shop-0a1b2c3d'";
    for steps in [&[begun][..], &[begun, marked][..]] {
        // Finished by the next create.
        steps.iter().for_each(|step| drop(cluster.admin("postgres", step)));
        assert_eq!(
            provider.read(&object, &inputs).await.unwrap(),
            None,
            "it is not there before it is whole"
        );
        provider.create(&object, &inputs).await.unwrap();
        assert_eq!(cluster.admin("postgres", DATABASES), "postgres shop template0 template1");
        assert!(provider.read(&object, &inputs).await.unwrap().is_some());
        provider.delete(&object, &inputs).await.unwrap();
        // Removed by a delete.
        steps.iter().for_each(|step| drop(cluster.admin("postgres", step)));
        provider.delete(&object, &inputs).await.unwrap();
        assert_eq!(cluster.admin("postgres", DATABASES), "postgres template0 template1");
        // Removed where its name was taken meanwhile.
        steps.iter().for_each(|step| drop(cluster.admin("postgres", step)));
        cluster.admin("postgres", "CREATE DATABASE shop");
        assert!(matches!(provider.create(&object, &inputs).await, Err(ProviderError::Refused { .. })));
        assert_eq!(cluster.admin("postgres", DATABASES), "postgres shop template0 template1");
        cluster.admin("postgres", "DROP DATABASE shop");
    }
}

#[tokio::test]
async fn what_somebody_else_made_is_taken_by_import_only() {
    let Some(cluster) = Cluster::start() else { return };
    let provider = provider();
    let schema = json!({"database": "theirs", "name": "theirs", "owner": null});
    let cases = [
        ("role", role("theirs"), "postgres", "CREATE ROLE theirs NOLOGIN"),
        (
            "database",
            database("theirs"),
            "postgres",
            "CREATE DATABASE theirs TEMPLATE template0 LOCALE 'C.UTF-8'",
        ),
        ("schema", schema, "theirs", "CREATE SCHEMA theirs"),
    ];
    for (kind, properties, place, sql) in cases {
        let (one, inputs) = (object(kind, "one"), inputs(&cluster.server(), &properties));
        if kind != "schema" {
            let missing = provider.import(&one, "theirs", &inputs).await.unwrap_err();
            assert!(missing.to_string().contains("there is no"), "{kind}: {missing}");
        }
        cluster.admin(place, sql);
        let Err(ProviderError::Refused { message, help }) = provider.create(&one, &inputs).await else {
            panic!("{kind}: it was taken")
        };
        assert!(message.contains("not this resource's"), "{message}");
        assert!(help.unwrap().contains("import_id = \"theirs\""));
        assert_eq!(provider.read(&one, &inputs).await.unwrap(), None, "{kind}");
        provider.delete(&one, &inputs).await.unwrap();

        let live = provider.import(&one, "theirs", &inputs).await.unwrap();
        assert_eq!(live.outputs["name"], "theirs");
        provider.import(&one, "theirs", &inputs).await.unwrap();
        assert!(provider.read(&one, &inputs).await.unwrap().is_some());
        let other = provider.import(&object(kind, "other"), "theirs", &inputs).await.unwrap_err();
        assert!(other.to_string().contains("is `one` of the stack `substructure.database.QA`"), "{other}");
    }
    let mut listed: Vec<String> =
        provider.list().await.unwrap().iter().map(|object| object.ty.to_string()).collect();
    listed.sort();
    assert_eq!(listed, ["postgresql.database", "postgresql.role", "postgresql.schema"]);
    for kind in ["schema", "role", "database"] {
        provider.delete(&object(kind, "one"), &serde_json::Map::new()).await.unwrap();
        // All of them have one id here: the first that is found goes.
    }
    assert!(provider.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_wrong_password_is_said_and_not_shown() {
    let Some(cluster) = Cluster::start() else { return };
    let provider = provider();
    let mut server = cluster.server();
    server["password"] = json!("hunter2 hunter2 hunter2");
    let error = provider.create(&object("role", "r"), &inputs(&server, &role("r"))).await.unwrap_err();
    let text = words(&error);
    assert!(text.contains("cannot log in to `admin@127.0.0.1:"), "{text}");
    assert!(text.contains("password authentication failed for user \"admin\""), "{text}");
    assert!(!format!("{error:?} {text} {}", cluster.log()).contains("hunter2"));
    assert!(matches!(error, ProviderError::Refused { .. }), "another try gives the same");
}

#[tokio::test]
async fn a_server_that_starts_is_waited_for() {
    let Some(mut cluster) = Cluster::stopped() else { return };
    let (object, inputs) = (object("role", "early"), inputs(&cluster.server(), &role("early")));
    let waiting = tokio::spawn({
        let (object, inputs) = (object.clone(), inputs.clone());
        async move { provider().create(&object, &inputs).await }
    });
    // The first tries meet nobody.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    cluster.run();
    waiting.await.unwrap().unwrap();
    cluster.stop();
    let impatient = olbake_postgresql::PostgreSql::with_patience(std::time::Duration::ZERO);
    let error = impatient.read(&object, &inputs).await.unwrap_err();
    assert!(words(&error).contains("onnection refused"), "{}", words(&error));
}
