//! Keys of stacks, wrapped by KMS: who may use the KMS key opens the stack's secrets. Main functions: [`create`] and
//! [`open`].
//!
//! KMS makes the data key and wraps it; olbake seals values under it as under any other
//! ([`olbake_engine::envelope`]). The stack's name is the encryption context: a wrapped key that is moved to another
//! stack does not open, and CloudTrail names the stack.

use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use olbake_core::stack::StackName;
use zeroize::Zeroizing;

use crate::account::Account;
use crate::error::{AwsError, AwsErrorKind};

/// The name of the stack's name in the encryption context.
const CONTEXT: &str = "olbake:stack";

/// A new data key.
pub struct Made {
    /// The key.
    pub key: Zeroizing<Vec<u8>>,
    /// The same, wrapped.
    pub wrapped: Vec<u8>,
    /// The ARN of the KMS key that wrapped it.
    pub kms_key: String,
}

/// Says what wrapped it, and no more.
impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").field("kms_key", &self.kms_key).finish_non_exhaustive()
    }
}

/// Has a KMS key (its id, ARN or alias) make a data key for a stack.
pub async fn create(account: &Account, kms_key: &str, stack: &StackName) -> Result<Made, AwsError> {
    const ACTION: &str = "kms:GenerateDataKey";
    let call = Client::new(account.config())
        .generate_data_key()
        .key_id(kms_key)
        .key_spec(DataKeySpec::Aes256)
        .encryption_context(CONTEXT, stack.as_str());
    let made = call.send().await.map_err(AwsError::of(ACTION))?;
    let none = || AwsError::said(ACTION, AwsErrorKind::Refused, "the answer has no key");
    let key = made.plaintext.map(|blob| Zeroizing::new(blob.into_inner())).ok_or_else(none)?;
    let wrapped = made.ciphertext_blob.map(Blob::into_inner).ok_or_else(none)?;
    Ok(Made { key, wrapped, kms_key: made.key_id.unwrap_or_else(|| kms_key.to_owned()) })
}

/// Unwraps the data key of a stack. The region is that of the KMS key's ARN.
pub async fn open(
    account: &Account,
    kms_key: &str,
    wrapped: &[u8],
    stack: &StackName,
) -> Result<Zeroizing<Vec<u8>>, AwsError> {
    const ACTION: &str = "kms:Decrypt";
    let account = region_of(kms_key).map_or_else(|| account.clone(), |region| account.in_region(region));
    let call = Client::new(account.config())
        .decrypt()
        .key_id(kms_key)
        .ciphertext_blob(Blob::new(wrapped))
        .encryption_context(CONTEXT, stack.as_str());
    let opened = call.send().await.map_err(AwsError::of(ACTION))?;
    let none = || AwsError::said(ACTION, AwsErrorKind::Refused, "the answer has no key");
    opened.plaintext.map(|blob| Zeroizing::new(blob.into_inner())).ok_or_else(none)
}

/// The region in an ARN: `arn:aws:kms:REGION:…`.
fn region_of(arn: &str) -> Option<&str> {
    arn.strip_prefix("arn:")?.split(':').nth(2).filter(|region| !region.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_its_region() {
        assert_eq!(region_of("arn:aws:kms:eu-west-1:123456789012:key/1"), Some("eu-west-1"));
        assert_eq!(region_of("alias/olbake"), None);
    }
}
