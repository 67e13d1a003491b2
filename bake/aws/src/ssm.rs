//! Channels for whoever only reads: SSM parameters with the ids of images. Main function: [`put_channel`].
//!
//! `PREFIX/IMAGE/VARIANT/CHANNEL` (the variant of a plain image is `-`) holds in each region the image of the version
//! that the channel points to, where that version is there. The registry decides; a parameter is written after it,
//! whole and absolute, so writing it again mends it.

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::ParameterType;
use olbake_core::ImageRef;
use olbake_core::promotion::Channel;
use olbake_engine::registry::places::{EC2, Place};

use crate::account::Account;
use crate::error::AwsError;

/// The name of a channel's parameter.
pub fn parameter(prefix: &str, image: &ImageRef, channel: &Channel) -> String {
    let variant = image.variant.as_ref().map_or("-", |variant| variant.as_str());
    format!("{}/{}/{variant}/{channel}", prefix.trim_end_matches('/'), image.image)
}

/// Writes where a channel's version is, in every region that it is in. Says which.
pub async fn put_channel(
    account: &Account,
    prefix: &str,
    image: &ImageRef,
    channel: &Channel,
    places: &[Place],
) -> Result<Vec<String>, AwsError> {
    let name = parameter(prefix, image, channel);
    let mut written = Vec::new();
    for place in places.iter().filter(|place| place.kind == EC2) {
        let call = Client::new(account.in_region(&place.region).config())
            .put_parameter()
            .name(&name)
            .value(&place.id)
            .description(format!("{image}@{}", place.version.short()))
            .r#type(ParameterType::String)
            .overwrite(true);
        call.send().await.map_err(AwsError::of("ssm:PutParameter"))?;
        written.push(place.region.clone());
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

    use super::*;

    #[test]
    fn parameters_are_named_by_image_variant_and_channel() {
        let name = |prefix, image: &str| parameter(prefix, &image.parse().unwrap(), &"QA".parse().unwrap());
        assert_eq!(name("/olbake/channels", "web"), "/olbake/channels/web/-/QA");
        assert_eq!(name("/olbake/channels/", "web/large"), "/olbake/channels/web/large/QA");
    }
}
