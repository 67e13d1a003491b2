//! Names, certificates, buckets, keys, parameters and secrets.

mod bucket;
mod certificate;
mod key;
mod parameter;
mod record;
mod secret;
mod zone;

use super::kind::Kind;
use super::problem::{Nature, Problem};

/// The types of this folder.
pub(super) const KINDS: &[(&str, &dyn Kind)] = &[
    ("aws.hosted_zone", &zone::HostedZone),
    ("aws.record", &record::Record),
    ("aws.certificate", &certificate::Certificate),
    ("aws.certificate_validation", &certificate::Validation),
    ("aws.bucket", &bucket::Bucket),
    ("aws.kms_key", &key::Key),
    ("aws.kms_alias", &key::Alias),
    ("aws.parameter", &parameter::Parameter),
    ("aws.secret", &secret::Secret),
];

/// What is not there is nothing to see.
fn unless_absent<T>(found: Result<T, Problem>) -> Result<Option<T>, Problem> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(problem) if problem.nature() == Nature::Absent => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// A name as Route 53 has it, without the dot at its end.
fn without_dot(name: &str) -> &str {
    name.trim_end_matches('.')
}
