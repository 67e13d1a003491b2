//! What tests and people ask the test cloud itself for, on the same port: `/_calls`, `/_faults`,
//! `/_behaviour`, `/_interrupt`, `/_no_capacity`, `/_health`, `/_balancers`.

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use super::answer::{self, Answer, json_answer};
use super::cloud;
use super::error::CloudError;
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
        (&Method::GET, "/_balancers") => balancers(shared).await.map_err(|error| error.to_string()),
        (&Method::POST, "/_interrupt") => {
            let asked: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            let region = asked["region"].as_str().unwrap_or("us-east-1");
            let instance = asked["instance"].as_str().ok_or("`instance` is missing")?;
            cloud::interrupt(shared, region, instance).await.map_err(|error| error.to_string())?;
            Ok(json!({}))
        }
        (&Method::POST, "/_no_capacity" | "/_health") => {
            let asked: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            let function = if path == "/_health" { "say_health" } else { "no_capacity" };
            shared.moto.record(function, &asked).await.map_err(|error| error.to_string())
        }
        _ => Err(format!("there is no `{method} {path}`")),
    }
}

/// Where each load balancer listens, and why it is not served, if it is not.
async fn balancers(shared: &Shared) -> Result<Value, CloudError> {
    let Some(served) = &shared.balancers else { return Ok(json!({})) };
    let told = shared.moto.record("load_balancers", &json!({})).await?;
    let arns = told["balancers"].as_object().into_iter().flat_map(|balancers| balancers.keys());
    let place = |arn: &String| {
        (arn.clone(), json!({ "address": served.address(arn).to_string(), "problem": served.problem(arn) }))
    };
    Ok(Value::Object(arns.map(place).collect()))
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
