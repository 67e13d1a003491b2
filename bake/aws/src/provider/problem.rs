//! What AWS answers when something does not work. Main type: [`Problem`].
//!
//! The SDK tries again what is throttled or broken on the way, and slows down by itself; here is only decided what
//! an answer means: it cannot be, what it refers to is not visible yet, something still uses what is to go, or it
//! did not work this time.

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use olbake_engine::stack::provider::ProviderError;

/// Why a call of AWS did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// What was asked: `ec2:CreateVpc`, as IAM policies name it.
    action: &'static str,
    /// What AWS calls it; none: nobody answered.
    code: Option<String>,
    /// What AWS says.
    message: String,
    nature: Nature,
}

/// What an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nature {
    /// It cannot be: another try gives the same.
    Refused,
    /// These credentials may not.
    Forbidden,
    /// There are no credentials, or none that hold.
    Unknown,
    /// What is referred to is not there, or not visible yet.
    Absent,
    /// Something uses it still, or it is changing.
    Busy,
    /// It is there already.
    Exists,
    /// It did not work this time, and whether anything was done is not known.
    Unheard,
    /// It did not work this time.
    Failed,
}

/// For `map_err`: what became of a call.
pub(super) fn problem<E, R>(action: &'static str) -> impl FnOnce(SdkError<E, R>) -> Problem
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug,
{
    move |error| {
        let code = error.code().map(str::to_owned);
        let message = match error.message() {
            Some(message) => message.to_owned(),
            None => DisplayErrorContext(&error).to_string(),
        };
        Problem::new(action, code, message)
    }
}

impl Problem {
    fn new(action: &'static str, code: Option<String>, message: String) -> Self {
        let nature = match &code {
            Some(code) => nature(code, &message),
            None if message.contains("credential") => Nature::Unknown,
            None => Nature::Unheard,
        };
        Self { action, code, message, nature }
    }

    /// Something that is wrong with what was asked for, seen before AWS was asked.
    pub(super) fn refused(action: &'static str, message: impl Into<String>) -> Self {
        Self { action, code: None, message: message.into(), nature: Nature::Refused }
    }

    /// Something that did not work.
    pub(super) fn failed(action: &'static str, message: impl Into<String>) -> Self {
        Self { action, code: None, message: message.into(), nature: Nature::Failed }
    }

    pub(super) fn nature(&self) -> Nature {
        self.nature
    }

    pub(super) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    fn text(&self) -> String {
        let Self { action, code, message, .. } = self;
        match code {
            Some(code) => format!("`{action}`: {message} ({code})"),
            None => format!("`{action}`: {message}"),
        }
    }

    /// As it is told, where nothing was made before it.
    pub(super) fn before(self) -> ProviderError {
        let help = match self.nature {
            Nature::Forbidden => {
                Some(format!("allow `{}` in the IAM policy of whoever runs this", self.action))
            }
            Nature::Unknown => {
                Some("`aws sts get-caller-identity` says who asks; `AWS_PROFILE` chooses".to_owned())
            }
            Nature::Refused | Nature::Absent | Nature::Exists => None,
            Nature::Busy | Nature::Unheard | Nature::Failed => return self.after(),
        };
        ProviderError::Refused { message: self.text(), help }
    }

    /// As it is told, where something may have been made: that it was refused says nothing of what is there.
    pub(super) fn after(self) -> ProviderError {
        ProviderError::Failed { message: self.text(), source: None }
    }
}

/// What AWS's codes mean. Those of EC2 have the noun in them: `InvalidSubnetID.NotFound`.
fn nature(code: &str, message: &str) -> Nature {
    let ends = |ends: &[&str]| ends.iter().any(|end| code.ends_with(end));
    match code {
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "AuthorizationError" => {
            Nature::Forbidden
        }
        "AuthFailure"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "SignatureDoesNotMatch"
        | "InvalidAccessKeyId" => Nature::Unknown,
        "DependencyViolation"
        | "DeleteConflict"
        | "ResourceInUse"
        | "ResourceInUseException"
        | "ResourceInUseFault"
        | "IncorrectState"
        | "IncorrectInstanceState"
        | "OperationInProgress"
        | "ScalingActivityInProgress"
        | "ConcurrentModification"
        | "PriorRequestNotComplete"
        | "HostedZoneNotEmpty"
        | "OperationAborted"
        | "ConflictException"
        | "InvalidIPAddress.InUse"
        | "Resource.AlreadyAssociated"
        | "UnfulfilledCondition" => Nature::Busy,
        "NoSuchEntity"
        | "NoSuchBucket"
        | "NoSuchKey"
        | "ResourceNotFoundException"
        | "NotFoundException"
        | "ParameterNotFound"
        | "NoSuchHostedZone" => Nature::Absent,
        // A role's profile takes a while until EC2 and Auto Scaling know of it.
        _ if message.contains("Invalid IAM Instance Profile")
            || message.contains("Invalid IamInstanceProfile") =>
        {
            Nature::Absent
        }
        "ValidationError" if message.to_ascii_lowercase().contains("not found") => Nature::Absent,
        _ if ends(&["NotFound", "NotFoundException", ".Unknown", "NotFoundFault"]) => Nature::Absent,
        _ if ends(&["AlreadyExists", "AlreadyExistsException", "AlreadyExistsFault", "Duplicate"])
            || code.starts_with("Duplicate") =>
        {
            Nature::Exists
        }
        _ if ends(&[
            "Throttling",
            "ThrottlingException",
            "RequestLimitExceeded",
            "TooManyRequestsException",
        ]) || code.contains("InternalError")
            || code.contains("InternalFailure")
            || code.contains("ServiceUnavailable")
            || code == "Unavailable" =>
        {
            Nature::Unheard
        }
        _ if code.contains("InsufficientInstanceCapacity") => Nature::Failed,
        _ if code.starts_with("Invalid")
            || code.starts_with("Malformed")
            || code.starts_with("Missing")
            || code.starts_with("Unsupported")
            || code.contains("LimitExceeded")
            || code.starts_with("TooMany")
            || matches!(code, "ValidationError" | "ValidationException") =>
        {
            Nature::Refused
        }
        _ => Nature::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_a_meaning() {
        for (code, expect) in [
            ("UnauthorizedOperation", Nature::Forbidden),
            ("InvalidSubnetID.NotFound", Nature::Absent),
            ("DependencyViolation", Nature::Busy),
            ("InvalidGroup.Duplicate", Nature::Exists),
            ("DuplicateLoadBalancerName", Nature::Exists),
            ("VpcLimitExceeded", Nature::Refused),
            ("RequestLimitExceeded", Nature::Unheard),
            ("InvalidParameterValue", Nature::Refused),
            ("ExpiredToken", Nature::Unknown),
            ("SomethingNew", Nature::Failed),
        ] {
            assert_eq!(nature(code, ""), expect, "{code}");
        }
    }

    #[test]
    fn what_is_forbidden_names_the_action() {
        let code = Some("UnauthorizedOperation".to_owned());
        let told = Problem::new("ec2:CreateVpc", code, "You are not authorized.".to_owned()).before();
        let ProviderError::Refused { message, help } = told else { panic!("{told:?}") };
        assert!(message.contains("`ec2:CreateVpc`") && help.unwrap().contains("`ec2:CreateVpc`"));
    }

    #[test]
    fn nothing_is_said_to_be_refused_once_something_was_made() {
        let told = Problem::refused("ec2:ModifyVpcAttribute", "no").after();
        assert!(matches!(told, ProviderError::Failed { .. }));
    }
}
