//! moto, asked over HTTP: calls that are passed on, and its records.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::header::{CONNECTION, EXPECT};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::answer::{Answer, Body, whole};
use super::call::{Call, Payload};
use super::error::CloudError;

/// A client of moto.
pub(super) struct Upstream {
    client: Client<HttpConnector, Body>,
    authority: Authority,
}

impl Upstream {
    pub(super) fn new(port: u16) -> Self {
        let authority = format!("127.0.0.1:{port}").parse().expect("an address and a port");
        // moto ends idle connections; ours to it are local, and cost less than a request that must be repeated.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        Self { client, authority }
    }

    /// Passes a call on as it came.
    pub(super) async fn pass(&self, call: &Call) -> Result<Answer, CloudError> {
        let body = match &call.body {
            Payload::Whole(bytes) => bytes.clone(),
            Payload::Stream(_) => Bytes::new(),
        };
        self.send(&call.head, whole(body)).await
    }

    /// Passes a call on whose body is not held.
    pub(super) async fn stream(&self, call: Call) -> Result<Answer, CloudError> {
        let body = match call.body {
            Payload::Whole(bytes) => whole(bytes),
            Payload::Stream(body) => body.map_err(Into::into).boxed_unsync(),
        };
        self.send(&call.head, body).await
    }

    async fn send(&self, head: &Parts, body: Body) -> Result<Answer, CloudError> {
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = self.address(head.uri.path_and_query().cloned());
        *request.headers_mut() = head.headers.clone();
        request.headers_mut().remove(EXPECT);
        request.headers_mut().remove(CONNECTION);
        let mut answer = self.request(request).await?.map(|body| body.map_err(Into::into).boxed_unsync());
        answer.headers_mut().remove(CONNECTION);
        Ok(answer)
    }

    fn address(&self, path: Option<PathAndQuery>) -> Uri {
        let mut parts = hyper::http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        Uri::from_parts(parts).expect("it has all its parts")
    }

    async fn request(&self, request: Request<Body>) -> Result<Response<hyper::body::Incoming>, CloudError> {
        self.client.request(request).await.map_err(|error| CloudError::Connection(error.into()))
    }

    /// A record of moto's that no call of AWS shows or changes: a function of `moto/mends.py`.
    pub(super) async fn record(&self, function: &str, arguments: &Value) -> Result<Value, CloudError> {
        let path = PathAndQuery::try_from(format!("/_olbake/{function}")).expect("a function's name");
        let request = Request::post(self.address(Some(path))).header("content-type", "application/json");
        let request = request.body(whole(arguments.to_string())).expect("its headers are well formed");
        let answer = self.request(request).await?;
        let status = answer.status();
        let bytes = collect(answer.into_body()).await?;
        if !status.is_success() {
            return Err(CloudError::Answer(format!("{function}: {}", String::from_utf8_lossy(&bytes))));
        }
        serde_json::from_slice(&bytes).map_err(|error| CloudError::Answer(format!("{function}: {error}")))
    }
}

async fn collect(body: hyper::body::Incoming) -> Result<Bytes, CloudError> {
    let collected = body.collect().await.map_err(|error| CloudError::Connection(error.into()))?;
    Ok(collected.to_bytes())
}
