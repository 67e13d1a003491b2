//! What happens to a request between its arrival and its answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::CONTENT_LENGTH;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::answer::{Answer, Refusal, whole};
use super::balancing;
use super::call::{Call, Payload, Protocol};
use super::calls::When;
use super::control;
use super::ebs;
use super::error::CloudError;
use super::faults::{FaultKind, Met};
use super::machines;
use super::shared::Shared;
use super::states;
use super::tokens::Turn;

/// The connection ends, and nothing is answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    #[error("it was asked for")]
    Asked,
    #[error("the request could not be read")]
    Read(#[from] hyper::Error),
}

/// Answers a request.
pub(super) async fn serve(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Cut> {
    if request.uri().path().starts_with("/_") {
        return Ok(control::answer(&shared, request).await?);
    }
    let call = Call::read(request).await?;
    // Who called may be gone before it is done; it is done all the same.
    tokio::spawn(async move { carry_out(&shared, call).await }).await.map_err(|_| Cut::Asked)?
}

async fn carry_out(shared: &Arc<Shared>, mut call: Call) -> Result<Answer, Cut> {
    let counted = shared.calls.count(call.name(), call.change());
    let met = shared.faults.meet(&call);
    sleep(met.delay() + Duration::from_millis(shared.faults.behaviour().latency_ms)).await;
    if shared.calls.reach(&counted, When::Before).await || met.has(&FaultKind::CutBefore) {
        return Err(Cut::Asked);
    }
    if let Some(refusal) = met.refusal(&call) {
        return Ok(refusal.answer(&call));
    }
    if let Some(text) = met.user_data() {
        call.replace("UserData", STANDARD.encode(text));
    }
    if let Some(refusal) = unlike_the_model(shared, &call).await {
        return Ok(refusal.answer(&call));
    }
    let answer = deliver(shared, call, &met).await;
    if shared.calls.reach(&counted, When::After).await || met.has(&FaultKind::CutAfter) {
        return Err(Cut::Asked);
    }
    Ok(answer)
}

/// A refusal of what AWS's published model of the call does not allow. Moto would take much of it.
async fn unlike_the_model(shared: &Arc<Shared>, call: &Call) -> Option<Refusal> {
    let (record, asked) = match call.protocol {
        Protocol::Ec2 | Protocol::Query | Protocol::Json => {
            let asked = json!({
                "service": call.service, "action": call.action, "parameters": call.parameters,
                "body": call.json(),
            });
            ("problems", asked)
        }
        // A disk has thousands of blocks; what calls for them have is looked at where they are answered.
        Protocol::Ebs if matches!(call.action.as_str(), "GetSnapshotBlock" | "PutSnapshotBlock") => {
            return None;
        }
        Protocol::S3 | Protocol::Route53 | Protocol::Ebs => ("rest_problems", of_rest(call)),
    };
    let problems = match shared.moto.record(record, &asked).await {
        Ok(Value::Array(problems)) => problems,
        Ok(other) => vec![other],
        // A call without a model is one that AWS does not have.
        Err(error) => vec![Value::String(error.to_string())],
    };
    let problems: Vec<&str> = problems.iter().filter_map(Value::as_str).collect();
    if problems.is_empty() {
        return None;
    }
    let message = format!("{} is not as AWS's model of it: {}", call.name(), problems.join("; "));
    shared.log(&message);
    Some(Refusal::new("ValidationError", message))
}

/// What the model of a REST service speaks of.
fn of_rest(call: &Call) -> Value {
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: BTreeMap<&str, String> =
        call.head.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    // An object's bytes are nothing that a model has a say in.
    let body = match call.action.as_str() {
        "PutObject" | "UploadPart" => String::new(),
        _ => String::from_utf8_lossy(call.bytes()).into_owned(),
    };
    json!({
        "service": call.service, "method": call.head.method.as_str(), "path": call.head.uri.path(),
        "query": call.head.uri.query().unwrap_or_default(), "headers": headers, "body": body,
    })
}

async fn deliver(shared: &Arc<Shared>, call: Call, met: &Met) -> Answer {
    if matches!(call.body, Payload::Stream(_)) {
        let failed = Refusal::new("InternalError", "moto did not answer").with_status(500).answer(&call);
        return shared.moto.stream(call).await.unwrap_or(failed);
    }
    if met.has(&FaultKind::Twice) {
        drop(once(shared, &call, met).await);
    }
    once(shared, &call, met).await
}

/// Does a call whose body is held, and shows of its answer what may be seen.
async fn once(shared: &Arc<Shared>, call: &Call, met: &Met) -> Answer {
    let answered = match shared.visibility.refusal(call) {
        Some(refusal) => Ok(refusal.answer(call)),
        None => in_turn(shared, call, met).await,
    };
    if !call.reads() {
        shared.machines.bell.notify_one();
    }
    answered.unwrap_or_else(|error| {
        let message = format!("{error}: {:?}", std::error::Error::source(&error));
        shared.log(&format!("{}: {message}", call.name()));
        Refusal::new("InternalError", message).with_status(500).answer(call)
    })
}

async fn in_turn(shared: &Arc<Shared>, call: &Call, met: &Met) -> Result<Answer, CloudError> {
    let turn = shared.tokens.turn(call).await;
    if let Some(known) = turn.as_ref().and_then(|turn| turn.answer(call)) {
        let started = turn.as_ref().map(Turn::instances).unwrap_or_default();
        if call.action == "RunInstances" && machines::ended(shared, &started).await? {
            let message = "The client token is that of a launch whose instance was terminated.";
            return Ok(Refusal::new("IdempotentInstanceTerminated", message).answer(call));
        }
        return Ok(known);
    }
    let answer = dispatch(shared, call, met).await?;
    if answer.status().is_success() {
        shared.tokens.forget(call);
    }
    if !matches!(call.protocol, Protocol::Ec2 | Protocol::Ebs) && turn.is_none() {
        return Ok(answer);
    }
    let (mut head, body) = answer.into_parts();
    let mut bytes = body.collect().await.map_err(CloudError::Connection)?.to_bytes();
    if head.status.is_success() {
        let time = Duration::from_millis(shared.faults.behaviour().visibility_ms);
        shared.visibility.note(call, &bytes, time);
        if let Some(seen) = shared.visibility.filter(call, &bytes) {
            bytes = seen.into();
            head.headers.remove(CONTENT_LENGTH);
        }
    }
    if let Some(turn) = turn {
        turn.keep(&head, &bytes);
    }
    Ok(Answer::from_parts(head, whole(bytes)))
}

async fn dispatch(shared: &Arc<Shared>, call: &Call, met: &Met) -> Result<Answer, CloudError> {
    match (call.service.as_str(), call.action.as_str()) {
        ("ebs", _) => ebs::call(shared, call, met).await,
        ("ec2", "CreateSnapshot" | "CreateSnapshots" | "CopySnapshot" | "CreateImage" | "CopyImage") => {
            let (head, body) = shared.moto.pass(call).await?.into_parts();
            let bytes = body.collect().await.map_err(CloudError::Connection)?.to_bytes();
            if head.status.is_success() {
                states::follow(shared, call, &bytes, met).await?;
            }
            Ok(Answer::from_parts(head, whole(bytes)))
        }
        ("ec2", "RebootInstances") => {
            let answer = shared.moto.pass(call).await?;
            if answer.status().is_success() {
                shared.machines.reboot(&call.list("InstanceId")).await?;
            }
            Ok(answer)
        }
        ("ec2", "GetConsoleOutput") => match states::console(shared, call).await {
            Some(answer) => Ok(answer),
            None => shared.moto.pass(call).await,
        },
        ("elasticloadbalancing", "DescribeTargetHealth") => {
            balancing::reconcile(shared).await?;
            shared.moto.pass(call).await
        }
        _ => shared.moto.pass(call).await,
    }
}
