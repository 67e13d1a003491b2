//! Client tokens: a call with a token that was seen is answered as it was before, whether or not that answer arrived.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hyper::Response;
use hyper::http::response::Parts;
use serde_json::Value;

use super::answer::{Answer, Refusal, whole};
use super::call::{Call, Protocol};
use super::calls::held;

/// Which calls have a token, and which of their parameters it is.
const TOKENS: [(&str, &str, &str); 24] = [
    ("ec2", "AllocateHosts", "ClientToken"),
    ("ec2", "CopyImage", "ClientToken"),
    ("ec2", "CreateEgressOnlyInternetGateway", "ClientToken"),
    ("ec2", "CreateFleet", "ClientToken"),
    ("ec2", "CreateFlowLogs", "ClientToken"),
    ("ec2", "CreateLaunchTemplate", "ClientToken"),
    ("ec2", "CreateLaunchTemplateVersion", "ClientToken"),
    ("ec2", "CreateNatGateway", "ClientToken"),
    ("ec2", "CreateNetworkAcl", "ClientToken"),
    ("ec2", "CreateNetworkInterface", "ClientToken"),
    ("ec2", "CreateReplaceRootVolumeTask", "ClientToken"),
    ("ec2", "CreateRouteTable", "ClientToken"),
    ("ec2", "CreateVolume", "ClientToken"),
    ("ec2", "CreateVpcEndpoint", "ClientToken"),
    ("ec2", "ImportImage", "ClientToken"),
    ("ec2", "ImportSnapshot", "ClientToken"),
    ("ec2", "RequestSpotInstances", "ClientToken"),
    ("ec2", "RunInstances", "ClientToken"),
    ("autoscaling", "LaunchInstances", "ClientToken"),
    ("ebs", "StartSnapshot", "ClientToken"),
    ("acm", "RequestCertificate", "IdempotencyToken"),
    ("secretsmanager", "CreateSecret", "ClientRequestToken"),
    ("secretsmanager", "PutSecretValue", "ClientRequestToken"),
    ("route53", "CreateHostedZone", "CallerReference"),
];

/// What was answered to a call, and what it was.
#[derive(Clone)]
struct Given {
    asked: BTreeMap<String, String>,
    head: Parts,
    body: Bytes,
}

/// One at a time for each token: calls that come together are one call.
type Slot = Arc<tokio::sync::Mutex<Option<Given>>>;

#[derive(Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<String, Slot>>,
}

/// The turn of a call that has a token.
pub(super) struct Turn {
    slot: tokio::sync::OwnedMutexGuard<Option<Given>>,
    asked: BTreeMap<String, String>,
}

impl Tokens {
    /// Waits for the turn of a call; nothing if it has no token.
    pub(super) async fn turn(&self, call: &Call) -> Option<Turn> {
        let (.., name) =
            TOKENS.iter().find(|(service, action, _)| *service == call.service && *action == call.action)?;
        let mut asked = asked(call);
        let token = asked.remove(*name)?;
        let key = format!("{}/{}/{token}", call.region, call.name());
        let slot = Arc::clone(held(&self.slots).entry(key).or_default());
        Some(Turn { slot: slot.lock_owned().await, asked })
    }
}

impl Tokens {
    /// Forgets the tokens of what a call removed: who makes it again makes another.
    pub(super) fn forget(&self, call: &Call) {
        let (made_by, id) = match (call.service.as_str(), call.action.as_str()) {
            ("acm", "DeleteCertificate") => ("acm:RequestCertificate", "CertificateArn"),
            ("secretsmanager", "DeleteSecret") => ("secretsmanager:CreateSecret", "SecretId"),
            _ => return,
        };
        let Some(id) = call.json()[id].as_str().map(str::to_owned) else { return };
        for (_, slot) in held(&self.slots).iter().filter(|(key, _)| key.contains(made_by)) {
            let Ok(mut given) = slot.try_lock() else { continue };
            if given.as_ref().is_some_and(|given| String::from_utf8_lossy(&given.body).contains(&id)) {
                *given = None;
            }
        }
    }
}

impl Turn {
    /// What the call is answered if its token was seen.
    pub(super) fn answer(&self, call: &Call) -> Option<Answer> {
        let given = self.slot.as_ref()?;
        if call.protocol == Protocol::Route53 {
            let message = "A hosted zone has already been created with the specified caller reference.";
            return Some(Refusal::new("HostedZoneAlreadyExists", message).with_status(409).answer(call));
        }
        if given.asked != self.asked {
            return Some(mismatch(call).answer(call));
        }
        Some(Response::from_parts(given.head.clone(), whole(given.body.clone())))
    }

    /// The instances that the answer to the first call names.
    pub(super) fn instances(&self) -> Vec<String> {
        let body = self.slot.as_ref().map(|given| given.body.clone()).unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let named = text.split("<instanceId>").skip(1);
        named.filter_map(|rest| Some(rest.split_once('<')?.0.to_owned())).collect()
    }

    /// Keeps what the call was answered, if it was done.
    pub(super) fn keep(mut self, head: &Parts, body: &Bytes) {
        if head.status.is_success() {
            let Self { slot, asked } = &mut self;
            **slot = Some(Given { asked: std::mem::take(asked), head: head.clone(), body: body.clone() });
        }
    }
}

fn mismatch(call: &Call) -> Refusal {
    let message = "The request uses the same client token as a previous, but non-identical request.";
    match call.protocol {
        Protocol::Ebs => Refusal::new("ConflictException", message).with_status(409),
        Protocol::Json if call.service == "secretsmanager" => {
            Refusal::new("ResourceExistsException", message)
        }
        _ => Refusal::new("IdempotentParameterMismatch", message),
    }
}

/// What a call asks for, by the names of its parameters.
fn asked(call: &Call) -> BTreeMap<String, String> {
    match call.protocol {
        Protocol::Ec2 | Protocol::Query => call.parameters.clone(),
        Protocol::Json | Protocol::Ebs => match call.json() {
            Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, text(value))).collect(),
            _ => BTreeMap::new(),
        },
        Protocol::Route53 => match super::xml::Element::parse(call.bytes()) {
            Ok(document) => document.children.into_iter().map(|child| (child.name, child.text)).collect(),
            Err(_) => BTreeMap::new(),
        },
        Protocol::S3 => BTreeMap::new(),
    }
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
