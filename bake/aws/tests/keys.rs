//! Keys of stacks wrapped by KMS, and channels told by SSM parameters.
#![cfg(feature = "aws")]
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod common;

use common::Moto;
use olbake_aws::{kms, ssm};
use olbake_core::Digest;
use olbake_core::stack::StackName;
use olbake_core::time::Timestamp;
use olbake_engine::envelope::{DataKey, Header};
use olbake_engine::registry::places::{EC2, PLACE_SCHEMA, Place};

#[tokio::test]
async fn a_key_that_kms_wrapped_opens_for_its_stack_and_no_other() {
    let Some(moto) = Moto::start() else { return };
    let account = moto.account().await;
    let made = aws_sdk_kms::Client::new(account.config()).create_key().send().await.unwrap();
    let arn = made.key_metadata().unwrap().arn().unwrap().to_owned();
    let [qa, production]: [StackName; 2] =
        ["applications.hello.QA", "applications.hello.Production"].map(|name| name.parse().unwrap());
    let made = kms::create(&account, &arn, &qa).await.unwrap();
    let header = Header::of_kms(&made.kms_key, &made.wrapped);
    assert!(header.recipients[0].ends_with(&arn), "{header:?}");
    let sealed = DataKey::of(&qa, &made.key).unwrap().seal("database.password", "p4ss").unwrap();

    let (kms_key, wrapped) = header.kms(&qa).unwrap();
    let opened = kms::open(&account, kms_key, &wrapped, &qa).await.unwrap();
    let key = DataKey::of(&qa, &opened).unwrap();
    assert_eq!(key.open("database.password", &sealed).unwrap().as_str(), "p4ss");
    let error = kms::open(&account, kms_key, &wrapped, &production).await.unwrap_err();
    assert!(error.to_string().contains("kms:Decrypt"), "{error}");
    let error = kms::create(&account, "alias/none", &qa).await.unwrap_err();
    assert!(error.to_string().contains("kms:GenerateDataKey"), "{error}");
}

#[tokio::test]
async fn a_channels_parameter_names_the_image_of_each_region_and_is_mended_by_writing_it_again() {
    let Some(moto) = Moto::start() else { return };
    let account = moto.account().await;
    let (image, channel) = ("web/large".parse().unwrap(), "QA".parse().unwrap());
    let places = |version: &str| -> Vec<Place> {
        let place = |region: &str| Place {
            schema: PLACE_SCHEMA,
            version: Digest::of(version.as_bytes()),
            image: "web/large".parse().unwrap(),
            kind: EC2.to_owned(),
            region: region.to_owned(),
            owner: None,
            id: format!("ami-{version}-{region}"),
            name: "web".to_owned(),
            snapshot: "snap-1".to_owned(),
            created: Timestamp::from_seconds(1),
        };
        ["eu-west-1", "us-east-1"].map(place).to_vec()
    };
    for version in ["one", "two", "two"] {
        let written =
            ssm::put_channel(&account, "/olbake/channels", &image, &channel, &places(version)).await.unwrap();
        assert_eq!(written, ["eu-west-1", "us-east-1"]);
        for region in written {
            let client = aws_sdk_ssm::Client::new(account.in_region(&region).config());
            let found = client.get_parameter().name("/olbake/channels/web/large/QA").send().await.unwrap();
            let value = found.parameter.unwrap().value.unwrap();
            assert_eq!(value, format!("ami-{version}-{region}"));
        }
    }
}
