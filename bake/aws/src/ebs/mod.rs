//! Snapshots written and read block by block, without an instance: the EBS direct API. Main type: [`Snapshots`].
//!
//! A block is 512 KiB, as in a [`olbake_core::blockmap::BlockMap`], so that its checksum is known before it is read.
//! The SDK's own retries are off here: a block is retried in one place ([`put`]), which also learns from what comes
//! back how many blocks AWS takes at once.

pub mod get;
pub mod put;
mod window;

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use olbake_core::Digest;

use crate::account::Account;

/// How long one attempt at a block may take. Attempts from outside of AWS hang now and then; a new one does not.
const ATTEMPT: Duration = Duration::from_secs(20);
/// How long an answer may be quiet.
const READ: Duration = Duration::from_secs(12);
/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);

/// The EBS direct API of a region.
#[derive(Clone, Debug)]
pub struct Snapshots {
    client: aws_sdk_ebs::Client,
}

impl Snapshots {
    /// Those of an account, in its region.
    pub fn new(account: &Account) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .read_timeout(READ)
            .operation_attempt_timeout(ATTEMPT)
            .build();
        let config = aws_sdk_ebs::config::Builder::from(account.config())
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .build();
        Self { client: aws_sdk_ebs::Client::from_conf(config) }
    }
}

/// A digest as the API writes checksums.
fn checksum(digest: &Digest) -> String {
    BASE64.encode(digest.as_bytes())
}

/// The checksum of a whole snapshot: of the checksums of the blocks that were put, in order.
fn linear<'a>(digests: impl Iterator<Item = &'a Digest>) -> String {
    let bytes: Vec<u8> = digests.flat_map(|digest| *digest.as_bytes()).collect();
    checksum(&Digest::of(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_snapshot_is_that_of_its_blocks_checksums() {
        let digests = [Digest::of(b"a"), Digest::of(b"b")];
        let both: Vec<u8> = [digests[0].as_bytes().as_slice(), digests[1].as_bytes()].concat();
        assert_eq!(linear(digests.iter()), checksum(&Digest::of(&both)));
        // The digest of nothing, as every tool writes it.
        assert_eq!(checksum(&Digest::of(b"")), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }
}
