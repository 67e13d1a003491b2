//! A call: what of a request says which service is asked for what.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, Request};

/// Requests that are larger go through as they arrive.
const WHOLE: u64 = 64 << 20;

/// The bytes of a body that it is told from others by.
const TOLD_BY: usize = 16 << 10;

/// How a service writes what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// EC2's own flavour of AWS query.
    Ec2,
    /// AWS query: Auto Scaling, load balancers, IAM, STS.
    Query,
    /// JSON 1.0 and 1.1, with the action in a header.
    Json,
    /// REST with XML: S3.
    S3,
    /// REST with XML: Route 53.
    Route53,
    /// REST with JSON: EBS direct.
    Ebs,
}

/// A request's body.
pub(super) enum Payload {
    /// All of it.
    Whole(Bytes),
    /// One that is too large to be held.
    Stream(Incoming),
}

/// A call of one service.
pub(super) struct Call {
    /// As it is in signatures: `ec2`, `autoscaling`, `elasticloadbalancing`, `s3`, `ebs`.
    pub(super) service: String,
    /// `us-east-1`.
    pub(super) region: String,
    /// `RunInstances`.
    pub(super) action: String,
    /// How it is answered.
    pub(super) protocol: Protocol,
    /// What AWS query has: `InstanceId.1`.
    pub(super) parameters: BTreeMap<String, String>,
    /// Method, path and headers.
    pub(super) head: Parts,
    /// The body.
    pub(super) body: Payload,
}

impl Call {
    /// Reads a request, and its body unless that is very large.
    pub(super) async fn read(request: Request<Incoming>) -> Result<Self, hyper::Error> {
        let (head, body) = request.into_parts();
        let (service, region) =
            scope(&head).unwrap_or_else(|| (guess(&head).to_owned(), "us-east-1".to_owned()));
        let length = header(&head, "content-length").and_then(|text| text.parse::<u64>().ok());
        let body = match length {
            Some(length) if length > WHOLE => Payload::Stream(body),
            _ => Payload::Whole(body.collect().await?.to_bytes()),
        };
        let protocol = protocol(&service, &head);
        let parameters = match (&body, protocol) {
            (Payload::Whole(bytes), Protocol::Ec2 | Protocol::Query) => form(&head, bytes),
            _ => BTreeMap::new(),
        };
        let action = action(protocol, &head, &parameters);
        Ok(Self { service, region, action, protocol, parameters, head, body })
    }

    /// `ec2:RunInstances`, as policies write it.
    pub(super) fn name(&self) -> String {
        format!("{}:{}", self.service, self.action)
    }

    /// A parameter of AWS query.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Says something else than was said, in AWS query.
    pub(super) fn replace(&mut self, name: &str, value: String) {
        self.parameters.insert(name.to_owned(), value);
        let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.parameters).finish();
        self.head.headers.remove(hyper::header::CONTENT_LENGTH);
        self.body = Payload::Whole(text.into());
    }

    /// The parameters `NAME.1`, `NAME.2` and so on, also `NAME.member.1`.
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        let under = |key: &str| {
            let rest = key.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
            rest.is_some_and(|rest| rest.strip_prefix("member.").unwrap_or(rest).parse::<u32>().is_ok())
        };
        self.parameters.iter().filter(|(key, _)| under(key)).map(|(_, value)| value.as_str()).collect()
    }

    /// The body, if it was not too large to be held.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.body {
            Payload::Whole(bytes) => bytes,
            Payload::Stream(_) => &[],
        }
    }

    /// The body as JSON; null if it is none.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(self.bytes()).unwrap_or_default()
    }

    /// A header's value.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// A parameter of the address.
    pub(super) fn asked(&self, name: &str) -> Option<String> {
        let query = self.head.uri.query().unwrap_or_default();
        form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    /// What tells a change from others; none for calls that only look.
    pub(super) fn change(&self) -> Option<u64> {
        if self.reads() {
            return None;
        }
        // Of large bodies, disks' blocks, the beginning does, with the checksum: reading all would slow the cloud down.
        let bytes = self.bytes();
        let told = (self.header("x-amz-checksum"), bytes.len(), &bytes[..bytes.len().min(TOLD_BY)]);
        let mut hasher = DefaultHasher::new();
        (self.name(), self.head.uri.to_string(), told).hash(&mut hasher);
        Some(hasher.finish())
    }

    /// Whether it only looks.
    pub(super) fn reads(&self) -> bool {
        match self.protocol {
            Protocol::S3 | Protocol::Route53 => matches!(self.head.method, Method::GET | Method::HEAD),
            _ => ["Describe", "Get", "List"].iter().any(|verb| self.action.starts_with(verb)),
        }
    }
}

fn header<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    head.headers.get(name).and_then(|value| value.to_str().ok())
}

/// Service and region, as the signature says them.
fn scope(head: &Parts) -> Option<(String, String)> {
    let scope = match header(head, "authorization") {
        Some(text) => text.split("Credential=").nth(1)?.split([',', ' ']).next()?.to_owned(),
        None => {
            let query = head.uri.query()?.as_bytes();
            form_urlencoded::parse(query).find(|(key, _)| key == "X-Amz-Credential")?.1.into_owned()
        }
    };
    let mut parts = scope.rsplit('/').skip(1);
    let service = parts.next()?.to_lowercase();
    Some((service, parts.next()?.to_owned()))
}

/// What a request without a signature is for.
fn guess(head: &Parts) -> &'static str {
    let form = header(head, "content-type").is_some_and(|kind| kind.contains("x-www-form-urlencoded"));
    if form { "sts" } else { "s3" }
}

fn protocol(service: &str, head: &Parts) -> Protocol {
    match service {
        "ec2" => Protocol::Ec2,
        "s3" => Protocol::S3,
        "route53" => Protocol::Route53,
        "ebs" => Protocol::Ebs,
        _ if head.headers.contains_key("x-amz-target") => Protocol::Json,
        _ => Protocol::Query,
    }
}

fn form(head: &Parts, body: &[u8]) -> BTreeMap<String, String> {
    let query = head.uri.query().unwrap_or_default();
    let both = form_urlencoded::parse(query.as_bytes()).chain(form_urlencoded::parse(body));
    both.map(|(key, value)| (key.into_owned(), value.into_owned())).collect()
}

fn action(protocol: Protocol, head: &Parts, parameters: &BTreeMap<String, String>) -> String {
    match protocol {
        Protocol::Ec2 | Protocol::Query => parameters.get("Action").cloned().unwrap_or_default(),
        Protocol::Json => {
            let target = header(head, "x-amz-target").unwrap_or_default();
            target.rsplit('.').next().unwrap_or_default().to_owned()
        }
        Protocol::S3 => s3_action(head).to_owned(),
        Protocol::Route53 => route53_action(head).to_owned(),
        Protocol::Ebs => ebs_action(head).to_owned(),
    }
}

fn s3_action(head: &Parts) -> &'static str {
    let segments = head.uri.path().split('/').filter(|segment| !segment.is_empty()).count();
    let query = head.uri.query().unwrap_or_default();
    let has = |name: &str| query.split('&').any(|part| part.split('=').next() == Some(name));
    let copies = head.headers.contains_key("x-amz-copy-source");
    match (&head.method, segments) {
        (&Method::GET, 0) => "ListBuckets",
        (&Method::GET, 1) if has("list-type") => "ListObjectsV2",
        (&Method::GET, 1) if has("versions") => "ListObjectVersions",
        (&Method::GET, 1) if has("uploads") => "ListMultipartUploads",
        (&Method::GET, 1) if query.is_empty() || has("prefix") => "ListObjects",
        (&Method::GET, 1) => "GetBucketSetting",
        (&Method::PUT, 1) if query.is_empty() => "CreateBucket",
        (&Method::PUT, 1) => "PutBucketSetting",
        (&Method::DELETE, 1) if query.is_empty() => "DeleteBucket",
        (&Method::DELETE, 1) => "DeleteBucketSetting",
        (&Method::HEAD, 1) => "HeadBucket",
        (&Method::POST, 1) if has("delete") => "DeleteObjects",
        (&Method::POST, _) if has("uploads") => "CreateMultipartUpload",
        (&Method::POST, _) if has("uploadId") => "CompleteMultipartUpload",
        (&Method::PUT, _) if has("partNumber") => "UploadPart",
        (&Method::PUT, _) if has("tagging") => "PutObjectTagging",
        (&Method::PUT, _) if copies => "CopyObject",
        (&Method::PUT, _) => "PutObject",
        (&Method::GET, _) if has("tagging") => "GetObjectTagging",
        (&Method::GET, _) if has("uploadId") => "ListParts",
        (&Method::GET, _) => "GetObject",
        (&Method::HEAD, _) => "HeadObject",
        (&Method::DELETE, _) if has("uploadId") => "AbortMultipartUpload",
        (&Method::DELETE, _) => "DeleteObject",
        _ => "Other",
    }
}

fn route53_action(head: &Parts) -> &'static str {
    let segments: Vec<&str> =
        head.uri.path().split('/').filter(|segment| !segment.is_empty()).skip(1).collect();
    match (&head.method, &segments[..]) {
        (&Method::POST, ["hostedzone"]) => "CreateHostedZone",
        (&Method::GET, ["hostedzone"]) => "ListHostedZones",
        (&Method::GET, ["hostedzonesbyname"]) => "ListHostedZonesByName",
        (&Method::GET, ["hostedzonesbyvpc"]) => "ListHostedZonesByVPC",
        (&Method::GET, ["hostedzone", _]) => "GetHostedZone",
        (&Method::POST, ["hostedzone", _]) => "UpdateHostedZoneComment",
        (&Method::DELETE, ["hostedzone", _]) => "DeleteHostedZone",
        (&Method::GET, ["hostedzone", _, "rrset"]) => "ListResourceRecordSets",
        (&Method::POST, ["hostedzone", _, "rrset"]) => "ChangeResourceRecordSets",
        (&Method::POST, ["hostedzone", _, "associatevpc"]) => "AssociateVPCWithHostedZone",
        (&Method::GET, ["change", _]) => "GetChange",
        (&Method::GET, ["tags", _, _]) => "ListTagsForResource",
        (&Method::POST, ["tags", _]) => "ListTagsForResources",
        (&Method::POST, ["tags", _, _]) => "ChangeTagsForResource",
        _ => "Other",
    }
}

fn ebs_action(head: &Parts) -> &'static str {
    let segments: Vec<&str> = head.uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
    match (&head.method, &segments[..]) {
        (&Method::POST, ["snapshots"]) => "StartSnapshot",
        (&Method::POST, ["snapshots", "completion", _]) => "CompleteSnapshot",
        (&Method::PUT, ["snapshots", _, "blocks", _]) => "PutSnapshotBlock",
        (&Method::GET, ["snapshots", _, "blocks", _]) => "GetSnapshotBlock",
        (&Method::GET, ["snapshots", _, "blocks"]) => "ListSnapshotBlocks",
        (&Method::GET, ["snapshots", _, "changedblocks"]) => "ListChangedBlocks",
        _ => "Other",
    }
}
