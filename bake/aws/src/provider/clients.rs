//! The services of AWS that the provider asks, and how long it waits for them. Main type: [`Aws`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use tokio::time::Instant;

use super::images::Amis;
use super::problem::{Nature, Problem};
use crate::Account;

/// How long things may take at AWS.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until what was made is seen by those who ask for it or refer to it.
    pub visible: Duration,
    /// How long something that is not seen is looked for before it is said never to have been made.
    pub absent: Duration,
    /// Until something comes up.
    pub ready: Duration,
    /// Until something is gone, and what it uses can go.
    pub gone: Duration,
    /// Between the first two looks; later ones are further apart.
    pub poll: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            visible: Duration::from_secs(60),
            absent: Duration::from_secs(15),
            ready: Duration::from_secs(900),
            gone: Duration::from_secs(900),
            poll: Duration::from_millis(500),
        }
    }
}

/// The longest time between two looks.
const SLOWEST: Duration = Duration::from_secs(10);

/// Looks that come further and further apart, until a limit.
pub(super) struct Looks {
    until: Instant,
    pause: Duration,
}

impl Looks {
    pub(super) fn new(limit: Duration, poll: Duration) -> Self {
        Self { until: Instant::now() + limit, pause: poll }
    }

    /// Waits for the next look; false: it was the last.
    pub(super) async fn next(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.until {
            return false;
        }
        tokio::time::sleep(self.pause.min(self.until - now)).await;
        self.pause = (self.pause * 3 / 2).min(SLOWEST);
        true
    }
}

/// An account in a region.
#[derive(Clone, Debug)]
pub(super) struct Aws {
    pub(super) account: Account,
    pub(super) patience: Patience,
    pub(super) amis: Arc<dyn Amis>,
    pub(super) ec2: aws_sdk_ec2::Client,
    /// For calls that make something and have no token: the SDK must not repeat them, for it does not look first.
    pub(super) ec2_once: aws_sdk_ec2::Client,
    pub(super) iam: aws_sdk_iam::Client,
    pub(super) balancing: aws_sdk_elasticloadbalancingv2::Client,
    pub(super) scaling: aws_sdk_autoscaling::Client,
    pub(super) dns: aws_sdk_route53::Client,
    pub(super) certificates: aws_sdk_acm::Client,
    pub(super) s3: aws_sdk_s3::Client,
    pub(super) keys: aws_sdk_kms::Client,
    /// The same for keys.
    pub(super) keys_once: aws_sdk_kms::Client,
    pub(super) ssm: aws_sdk_ssm::Client,
    pub(super) secrets: aws_sdk_secretsmanager::Client,
}

impl Aws {
    pub(super) fn new(account: Account, patience: Patience, amis: Arc<dyn Amis>) -> Self {
        let config = account.config();
        let once = config.to_builder().retry_config(RetryConfig::disabled()).build();
        // Another endpoint is another place, whose names of buckets are no host names.
        let s3 = aws_sdk_s3::config::Builder::from(config).force_path_style(config.endpoint_url().is_some());
        Self {
            patience,
            amis,
            ec2: aws_sdk_ec2::Client::new(config),
            ec2_once: aws_sdk_ec2::Client::new(&once),
            iam: aws_sdk_iam::Client::new(config),
            balancing: aws_sdk_elasticloadbalancingv2::Client::new(config),
            scaling: aws_sdk_autoscaling::Client::new(config),
            dns: aws_sdk_route53::Client::new(config),
            certificates: aws_sdk_acm::Client::new(config),
            s3: aws_sdk_s3::Client::from_conf(s3.build()),
            keys: aws_sdk_kms::Client::new(config),
            keys_once: aws_sdk_kms::Client::new(&once),
            ssm: aws_sdk_ssm::Client::new(config),
            secrets: aws_sdk_secretsmanager::Client::new(config),
            account,
        }
    }

    /// The region's name; that it is known was checked when the provider was opened.
    pub(super) fn region(&self) -> &str {
        self.account.region().unwrap_or_default()
    }

    pub(super) fn looks(&self, limit: Duration) -> Looks {
        Looks::new(limit, self.patience.poll)
    }

    /// Asks again while what is referred to is not visible yet: AWS's services learn of each other's objects late.
    pub(super) async fn once_visible<T, F>(&self, ask: impl FnMut() -> F + Send) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Problem>> + Send,
    {
        self.while_it_is(Nature::Absent, self.patience.visible, ask).await
    }

    /// Asks again while something still uses what is to go.
    pub(super) async fn once_free<T, F>(&self, ask: impl FnMut() -> F + Send) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Problem>> + Send,
    {
        self.while_it_is(Nature::Busy, self.patience.gone, ask).await
    }

    async fn while_it_is<T, F>(
        &self,
        nature: Nature,
        limit: Duration,
        mut ask: impl FnMut() -> F + Send,
    ) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Problem>> + Send,
    {
        let mut looks = self.looks(limit);
        loop {
            match ask().await {
                Err(problem) if problem.nature() == nature && looks.next().await => {}
                other => return other,
            }
        }
    }
}
