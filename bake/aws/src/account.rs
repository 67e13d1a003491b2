//! Who asks AWS, and where: credentials, region, endpoint. Main type: [`Account`].
//!
//! Credentials and region are found as every AWS tool finds them: environment variables, `~/.aws`, SSO, the
//! instance's role. `AWS_ENDPOINT_URL` names another endpoint, such as the test cloud's.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use crate::error::{AwsError, AwsErrorKind};

/// How long one attempt of a call may take.
const ATTEMPT: Duration = Duration::from_secs(30);
/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a call is tried in all. The SDK waits between tries, longer each time and by chance, and slows down
/// by itself where AWS says that there are too many.
const ATTEMPTS: u32 = 8;

/// Who asks, and where.
#[derive(Clone, Debug)]
pub struct Account {
    config: SdkConfig,
}

impl Account {
    /// Finds credentials and region. `region` goes before what the environment says.
    pub async fn find(region: Option<&str>) -> Self {
        let mut loader = loader();
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        Self { config: loader.load().await }
    }

    /// An account whose endpoint and credentials are given, whatever the environment says: that of a test cloud.
    pub async fn at(endpoint: &str, region: &str, key_id: &str, secret: &str) -> Self {
        let credentials = Credentials::new(key_id, secret, None, None, "given");
        let loader = loader()
            .endpoint_url(endpoint)
            .region(Region::new(region.to_owned()))
            .credentials_provider(credentials);
        Self { config: loader.load().await }
    }

    /// The same account in another region.
    pub fn in_region(&self, region: &str) -> Self {
        let config = self.config.to_builder().region(Region::new(region.to_owned())).build();
        Self { config }
    }

    /// The region; none where nothing names one.
    pub fn region(&self) -> Option<&str> {
        self.config.region().map(Region::as_ref)
    }

    /// What clients are made from.
    pub fn config(&self) -> &SdkConfig {
        &self.config
    }

    /// Whether there are a region and credentials; the error is one of `action`.
    pub async fn check(&self, action: &'static str) -> Result<(), AwsError> {
        if self.region().is_none() {
            let message = "no AWS region is set: set AWS_REGION, or `region` of the profile in ~/.aws/config";
            return Err(AwsError::said(action, AwsErrorKind::Refused, message));
        }
        let none = || AwsError::said(action, AwsErrorKind::Credentials, "none were found");
        let provider = self.config().credentials_provider().ok_or_else(none)?;
        match provider.provide_credentials().await {
            Ok(_) => Ok(()),
            Err(error) => Err(AwsError::of_credentials_error(action, &error)),
        }
    }
}

fn loader() -> ConfigLoader {
    let client =
        aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT);
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(client)
        .retry_config(RetryConfig::adaptive().with_max_attempts(ATTEMPTS))
        .timeout_config(timeouts.build())
}

impl From<SdkConfig> for Account {
    fn from(config: SdkConfig) -> Self {
        Self { config }
    }
}
