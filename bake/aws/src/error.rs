//! What AWS answered when it did not do what it was asked for. Main type: [`AwsError`].
//!
//! Every error names the action as policies write it (`ec2:RegisterImage`), so that who lacks a permission reads
//! which. [`AwsError::kind`] is what code decides by; codes of single services stay where the calls are.

use std::error::Error;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

/// What kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwsErrorKind {
    /// There are no credentials, or they are not in order.
    Credentials,
    /// The credentials were good once.
    Expired,
    /// The credentials do not allow it.
    Denied,
    /// What it is about is not there, or not yet.
    NotFound,
    /// A condition did not hold, or something of the name is there.
    Conflict,
    /// Too many calls: later it may go.
    Throttled,
    /// The account may not have more of it.
    Quota,
    /// AWS could not be reached: nothing was done.
    Unreachable,
    /// No answer came, or one that says nothing: whether it was done is not known.
    Unsure,
    /// It is refused as it was asked for.
    Refused,
}

/// What AWS answered.
#[derive(Debug)]
pub struct AwsError {
    /// What was asked for, as policies write it: `s3:PutObject`.
    pub action: &'static str,
    /// What kind of trouble it is.
    pub kind: AwsErrorKind,
    /// The service's own code: `InvalidAMIName.Duplicate`.
    pub code: Option<String>,
    /// What the service said.
    pub message: String,
    /// The status of the answer.
    pub status: Option<u16>,
}

impl AwsError {
    /// Names the action of an error of the SDK: for `map_err`.
    pub fn of<E>(action: &'static str) -> impl FnOnce(SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        move |error| Self::new(action, error)
    }

    fn new<E>(action: &'static str, error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code = error.code().map(str::to_owned);
        let said = error.message().map(str::to_owned);
        let kind = match &error {
            SdkError::ServiceError(_) => of_answer(code.as_deref().unwrap_or_default(), status),
            // An answer that is not understood says something by its status all the same.
            SdkError::ResponseError(_) if status.is_some_and(|status| status >= 400) => of_answer("", status),
            SdkError::TimeoutError(_) | SdkError::ResponseError(_) => AwsErrorKind::Unsure,
            SdkError::DispatchFailure(failure) => match (of_credentials(&error), failure.is_user()) {
                (Some(kind), _) => kind,
                (None, true) => AwsErrorKind::Refused,
                (None, false) if never_connected(&error) => AwsErrorKind::Unreachable,
                // A connection that broke may have carried the question before it did.
                (None, false) => AwsErrorKind::Unsure,
            },
            _ => of_credentials(&error).unwrap_or(AwsErrorKind::Refused),
        };
        let message = said.or_else(|| innermost(&error)).unwrap_or_else(|| "no answer".to_owned());
        Self { action, kind, code, message, status }
    }

    /// An error of looking for credentials.
    pub(crate) fn of_credentials_error(action: &'static str, error: &CredentialsError) -> Self {
        let kind = of_credentials(error).unwrap_or(AwsErrorKind::Credentials);
        Self::said(action, kind, innermost(error).unwrap_or_default())
    }

    /// An error that is no answer of the SDK.
    pub fn said(action: &'static str, kind: AwsErrorKind, message: impl Into<String>) -> Self {
        Self { action, kind, code: None, message: message.into(), status: None }
    }

    /// Whether the service's code is this.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Whether the same call may succeed a little later.
    pub fn is_passing(&self) -> bool {
        matches!(self.kind, AwsErrorKind::Throttled | AwsErrorKind::Unreachable | AwsErrorKind::Unsure)
    }

    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        Some(match self.kind {
            AwsErrorKind::Credentials => {
                "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws sso login`"
                    .to_owned()
            }
            AwsErrorKind::Expired => "log in again, for example with `aws sso login`".to_owned(),
            AwsErrorKind::Denied => {
                format!(
                    "the policy of these credentials lacks `{}`; docs/aws.md has the least policies",
                    self.action
                )
            }
            AwsErrorKind::Unreachable => "check the network, AWS_ENDPOINT_URL and the region".to_owned(),
            AwsErrorKind::Quota => {
                "ask AWS for more, or remove what is not needed: `olbake gc --on ec2`".to_owned()
            }
            _ => return None,
        })
    }

    /// The error without its sources, as an error of input and output: for errors that can only hold such.
    pub fn into_io(self) -> std::io::Error {
        std::io::Error::other(self)
    }
}

impl fmt::Display for AwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { action, kind, code, message, .. } = self;
        match kind {
            AwsErrorKind::Credentials => write!(f, "no usable AWS credentials for `{action}`: {message}"),
            AwsErrorKind::Expired => write!(f, "the AWS credentials for `{action}` have expired"),
            AwsErrorKind::Denied => write!(f, "`{action}` is denied: {message}"),
            AwsErrorKind::Throttled => write!(f, "`{action}` is called too often: {message}"),
            AwsErrorKind::Unreachable => write!(f, "AWS cannot be reached for `{action}`: {message}"),
            AwsErrorKind::Unsure => write!(f, "no answer to `{action}`: {message}"),
            AwsErrorKind::NotFound | AwsErrorKind::Conflict | AwsErrorKind::Quota | AwsErrorKind::Refused => {
                match code {
                    Some(code) => write!(f, "`{action}` failed: {message} ({code})"),
                    None => write!(f, "`{action}` failed: {message}"),
                }
            }
        }
    }
}

// The text of the innermost cause is part of the message: telling the chain would say it again.
impl Error for AwsError {}

/// The kind of an answer, by its code, or else by its status.
fn of_answer(code: &str, status: Option<u16>) -> AwsErrorKind {
    let has = |parts: &[&str]| parts.iter().any(|part| code.contains(part));
    match () {
        () if has(&["ExpiredToken", "RequestExpired", "TokenRefreshRequired"]) => AwsErrorKind::Expired,
        () if has(&[
            "InvalidAccessKeyId",
            "InvalidClientTokenId",
            "SignatureDoesNotMatch",
            "AuthFailure",
            "UnrecognizedClient",
            "MissingAuthenticationToken",
            "InvalidToken",
        ]) =>
        {
            AwsErrorKind::Credentials
        }
        () if has(&["AccessDenied", "UnauthorizedOperation", "Forbidden", "NotAuthorized"]) => {
            AwsErrorKind::Denied
        }
        () if has(&["Throttl", "SlowDown", "RequestLimitExceeded", "TooManyRequests", "BandwidthLimit"]) => {
            AwsErrorKind::Throttled
        }
        () if has(&["LimitExceeded", "QuotaExceeded"]) => AwsErrorKind::Quota,
        () if has(&["NotFound", "NoSuch", "ResourceNotFound"]) => AwsErrorKind::NotFound,
        () if has(&["PreconditionFailed", "Conflict", "Duplicate", "AlreadyExists", "InUse"]) => {
            AwsErrorKind::Conflict
        }
        () => match status {
            Some(401 | 403) => AwsErrorKind::Denied,
            Some(404) => AwsErrorKind::NotFound,
            Some(409 | 412) => AwsErrorKind::Conflict,
            Some(429) => AwsErrorKind::Throttled,
            Some(500..) => AwsErrorKind::Unsure,
            _ => AwsErrorKind::Refused,
        },
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&(dyn Error + 'static)| (*error).source())
}

/// The kind of trouble with credentials that lies below an error, if any does.
fn of_credentials(error: &(dyn Error + 'static)) -> Option<AwsErrorKind> {
    let found = chain(error).find_map(|error| error.downcast_ref::<CredentialsError>())?;
    let expired = chain(found).any(|error| error.to_string().to_lowercase().contains("expired"));
    Some(if expired { AwsErrorKind::Expired } else { AwsErrorKind::Credentials })
}

/// Whether nothing can have been sent.
fn never_connected(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| {
        error.downcast_ref::<std::io::Error>().is_some_and(|error| {
            use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
            matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
        }) || error.to_string().contains("dns error")
    })
}

fn innermost(error: &(dyn Error + 'static)) -> Option<String> {
    chain(error).last().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_statuses_have_kinds() {
        for (code, status, kind) in [
            ("AccessDenied", 403, AwsErrorKind::Denied),
            ("UnauthorizedOperation", 403, AwsErrorKind::Denied),
            ("ExpiredToken", 400, AwsErrorKind::Expired),
            ("InvalidAccessKeyId", 403, AwsErrorKind::Credentials),
            ("SlowDown", 503, AwsErrorKind::Throttled),
            ("RequestThrottledException", 400, AwsErrorKind::Throttled),
            ("RequestLimitExceeded", 503, AwsErrorKind::Throttled),
            ("ServiceQuotaExceededException", 402, AwsErrorKind::Quota),
            ("InvalidAMIID.NotFound", 400, AwsErrorKind::NotFound),
            ("NoSuchBucket", 404, AwsErrorKind::NotFound),
            ("InvalidAMIName.Duplicate", 400, AwsErrorKind::Conflict),
            ("", 412, AwsErrorKind::Conflict),
            ("InternalError", 500, AwsErrorKind::Unsure),
            ("ValidationException", 400, AwsErrorKind::Refused),
        ] {
            assert_eq!(of_answer(code, Some(status)), kind, "{code} {status}");
        }
    }

    #[test]
    fn a_missing_permission_is_named() {
        let error = AwsError::said("ebs:PutSnapshotBlock", AwsErrorKind::Denied, "no policy allows it");
        assert_eq!(error.to_string(), "`ebs:PutSnapshotBlock` is denied: no policy allows it");
        assert!(error.help().is_some_and(|help| help.contains("lacks `ebs:PutSnapshotBlock`")));
    }
}
