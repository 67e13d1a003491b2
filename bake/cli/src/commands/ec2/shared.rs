//! What other commands want of AWS: keys of stacks that KMS wraps, and the parameters that tell readers what channels
//! point to.

use olbake_aws::{Account, kms, ssm};
use olbake_core::promotion::Channel;
use olbake_core::stack::StackName;
use olbake_core::{Digest, ImageRef};
use olbake_engine::envelope::{DataKey, Header};
use olbake_engine::registry::Records;

use super::super::machines::block_on;
use super::super::place::Place;
use crate::errors::Result;

/// A stack's key, which KMS unwraps.
pub(in crate::commands) fn unwrap(stack: &StackName, header: &Header) -> Result<DataKey> {
    let (kms_key, wrapped) = header.kms(stack)?;
    let key = block_on(async {
        let account = Account::find(None).await;
        Ok(kms::open(&account, kms_key, &wrapped, stack).await?)
    })?;
    Ok(DataKey::of(stack, &key)?)
}

/// A new key for a stack, which KMS makes and wraps.
pub(in crate::commands) fn new_key(stack: &StackName, kms_key: &str) -> Result<(DataKey, Header)> {
    let made = block_on(async {
        let account = Account::find(None).await;
        account.check("kms:GenerateDataKey").await?;
        Ok(kms::create(&account, kms_key, stack).await?)
    })?;
    Ok((DataKey::of(stack, &made.key)?, Header::of_kms(&made.kms_key, &made.wrapped)))
}

/// Writes the parameters of a channel, where the workspace has them.
pub(in crate::commands) fn tell_readers(
    place: &Place,
    records: &Records,
    image: &ImageRef,
    channel: &Channel,
    version: &Digest,
) -> Result {
    let Some(prefix) = &place.config.parameters else { return Ok(()) };
    let places = records.places(version)?;
    block_on(async {
        let account = Account::find(None).await;
        ssm::put_channel(&account, prefix, image, channel, &places).await?;
        Ok(())
    })
}
