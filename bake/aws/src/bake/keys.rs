//! The keys of one instance: its host key, which it is told before it boots, and the key that logs in to it.

use rustix::rand::{GetRandomFlags, getrandom};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{LineEnding, PrivateKey};
use zeroize::Zeroizing;

use super::{Ec2BakeError, Result};

/// A key pair as OpenSSH writes it.
pub(super) struct Pair {
    /// `-----BEGIN OPENSSH PRIVATE KEY-----…`.
    pub(super) private: Zeroizing<String>,
    /// `ssh-ed25519 AAAA…`.
    pub(super) public: String,
}

impl Pair {
    /// A pair that nobody else has.
    pub(super) fn new() -> Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        let read = getrandom(&mut *seed, GetRandomFlags::empty());
        if read.ok() != Some(seed.len()) {
            return Err(Ec2BakeError::Key(ssh_key::Error::Crypto));
        }
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
        let private = key.to_openssh(LineEnding::LF).map_err(Ec2BakeError::Key)?;
        let public = key.public_key().to_openssh().map_err(Ec2BakeError::Key)?;
        Ok(Self { private, public })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

    use super::*;

    #[test]
    fn pairs_differ_and_belong_together() {
        let (one, two) = (Pair::new().unwrap(), Pair::new().unwrap());
        assert_ne!(one.public, two.public);
        let private = PrivateKey::from_openssh(one.private.as_str()).unwrap();
        assert_eq!(private.public_key().to_openssh().unwrap(), one.public);
    }
}
