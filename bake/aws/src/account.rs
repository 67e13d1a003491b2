//! Who asks AWS, and where: credentials, region, endpoint. Main type: [`Account`].
//!
//! Credentials and region are found as every AWS tool finds them: environment variables, `~/.aws`, SSO, the
//! instance's role. `AWS_ENDPOINT_URL` names another endpoint, such as the test cloud's.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

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
        let client = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(client)
            .retry_config(RetryConfig::adaptive().with_max_attempts(ATTEMPTS))
            .timeout_config(
                TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ATTEMPT).build(),
            );
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
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
}
