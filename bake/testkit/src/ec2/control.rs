//! What tests and people ask the test cloud itself for, on the same port: `/_calls`, `/_faults`,
//! `/_behaviour`, `/_interrupt`, `/_no_capacity`.

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::answer::{self, Answer, json_answer};
use super::cloud;
use super::faults::{Behaviour, Fault};
use super::shared::Shared;

async fn answer_to(shared: &Shared, method: &Method, path: &str, body: &Bytes) -> Result<Value, String> {
    match (method, path) {
        (&Method::GET, "/_calls") => Ok(json!(shared.calls.counts())),
        (&Method::DELETE, "/_calls") => {
            shared.calls.reset();
            Ok(json!({}))
        }
        (&Method::GET, "/_faults") => Ok(json!(shared.faults.left())),
        (&Method::POST, "/_faults") => {
            let fault: Fault = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            shared.faults.add(fault);
            Ok(json!(shared.faults.left()))
        }
        (&Method::DELETE, "/_faults") => {
            shared.faults.clear();
            Ok(json!([]))
        }
        (&Method::GET, "/_behaviour") => Ok(json!(shared.faults.behaviour())),
        (&Method::PUT, "/_behaviour") => {
            let behaviour: Behaviour = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            shared.faults.behave(behaviour);
            Ok(json!(behaviour))
        }
        (&Method::POST, "/_interrupt") => {
            let asked: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            let region = asked["region"].as_str().unwrap_or("us-east-1");
            let instance = asked["instance"].as_str().ok_or("`instance` is missing")?;
            cloud::interrupt(shared, region, instance).await.map_err(|error| error.to_string())?;
            Ok(json!({}))
        }
        (&Method::POST, "/_no_capacity") => {
            let asked: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            shared.moto.record("no_capacity", &asked).await.map_err(|error| error.to_string())
        }
        _ => Err(format!("there is no `{method} {path}`")),
    }
}

/// Answers a request that is for the test cloud and for no service.
pub(super) async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let answered = answer_to(shared, &head.method, head.uri.path(), &body).await;
    Ok(match answered {
        Ok(value) => json_answer(&value),
        Err(message) => answer_error(&message),
    })
}

fn answer_error(message: &str) -> Answer {
    answer::answer(StatusCode::BAD_REQUEST, "application/json", json!({ "error": message }).to_string())
}
