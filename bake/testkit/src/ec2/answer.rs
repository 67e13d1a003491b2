//! What is answered: bodies of answers, and errors as each service writes them.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::call::{Call, Protocol};

/// The body of a request or an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// An answer to a call.
pub(super) type Answer = Response<Body>;

/// A body that is all there.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// An answer with a body of some type.
pub(super) fn answer(status: StatusCode, kind: &str, bytes: impl Into<Bytes>) -> Answer {
    let built = Response::builder().status(status).header("content-type", kind);
    let built = built.header("x-amzn-requestid", request_id());
    built.body(whole(bytes)).expect("its headers are well formed")
}

/// JSON.
pub(super) fn json_answer(value: &serde_json::Value) -> Answer {
    answer(StatusCode::OK, "application/json", value.to_string())
}

/// XML.
pub(super) fn xml_answer(text: impl Into<Bytes>) -> Answer {
    answer(StatusCode::OK, "text/xml;charset=UTF-8", text)
}

/// Something that is new with each request.
pub(super) fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// An error, before it is known how the service writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) message: String,
}

impl Refusal {
    /// One that says that the caller did something wrong.
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { status: 400, code: code.to_owned(), message: message.into() }
    }

    /// The same, with another status.
    pub(super) fn with_status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// As the called service writes it.
    pub(super) fn answer(&self, call: &Call) -> Answer {
        let Self { status, code, message } = self;
        let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST);
        let (code, message, id) = (escape(code), escape(message), request_id());
        let error = format!("<Code>{code}</Code><Message>{message}</Message>");
        let xml = |text: String| answer(status, "text/xml;charset=UTF-8", text);
        match call.protocol {
            Protocol::Ec2 => xml(format!(
                "<Response><Errors><Error>{error}</Error></Errors><RequestID>{id}</RequestID></Response>"
            )),
            Protocol::Query | Protocol::Route53 => xml(format!(
                "<ErrorResponse><Error><Type>Sender</Type>{error}</Error><RequestId>{id}</RequestId></ErrorResponse>"
            )),
            Protocol::S3 => xml(format!("<Error>{error}<RequestId>{id}</RequestId></Error>")),
            Protocol::Json | Protocol::Ebs => {
                let body = json!({ "__type": self.code, "message": self.message, "Message": self.message });
                let mut answer = answer(status, "application/json", body.to_string());
                if let Ok(code) = self.code.parse() {
                    answer.headers_mut().insert("x-amzn-errortype", code);
                }
                answer
            }
        }
    }
}

/// Text as it may stand in XML.
pub(super) fn escape(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}
