//! What happens to a request between its arrival and its answer.

use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use tokio::time::sleep;

use super::answer::{Answer, Refusal};
use super::call::{Call, Payload};
use super::calls::When;
use super::control;
use super::error::CloudError;
use super::faults::{FaultKind, Met};
use super::shared::Shared;

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

async fn carry_out(shared: &Arc<Shared>, call: Call) -> Result<Answer, Cut> {
    let number = shared.calls.count(call.name());
    let met = shared.faults.meet(&call);
    sleep(met.delay() + Duration::from_millis(shared.faults.behaviour().latency_ms)).await;
    if shared.calls.reach(number, When::Before).await || met.has(&FaultKind::CutBefore) {
        return Err(Cut::Asked);
    }
    if let Some(refusal) = met.refusal(&call) {
        return Ok(refusal.answer(&call));
    }
    let answer = deliver(shared, call, &met).await;
    if shared.calls.reach(number, When::After).await || met.has(&FaultKind::CutAfter) {
        return Err(Cut::Asked);
    }
    Ok(answer)
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

async fn once(shared: &Arc<Shared>, call: &Call, _met: &Met) -> Answer {
    let answered: Result<Answer, CloudError> = shared.moto.pass(call).await;
    answered.unwrap_or_else(|error| {
        let message = format!("{error}: {:?}", std::error::Error::source(&error));
        Refusal::new("InternalError", message).with_status(500).answer(call)
    })
}
