//! Approvals: SSH signatures over what is approved, stored as `ssh-keygen -Y verify` reads them.
//!
//! `v1/approvals/DIGEST/CHANNEL/SIGNATURE.sig` is named by the digest of its own text. Whether it counts is decided
//! each time from the signature, the file of allowed signers and the time: nothing that was stored is believed.

use std::io::Write;
use std::process::{Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::promotion::{APPROVAL_NAMESPACE, AllowedSigners, Approval, Approvals, Statement};
use olbake_core::time::Timestamp;
use ssh_key::{HashAlg, PublicKey, SshSig};

use super::Result;
use super::records::{Records, digest_in, object_key};
use crate::store::object::{ObjectKey, Put};

/// No signature is larger.
const LARGEST: usize = 64 << 10;

/// Why something cannot be signed, or a signature is none.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// It is not in the form of `ssh-keygen -Y sign`, or of a kind of key that is not known.
    #[error("it is no SSH signature of a known kind ({0})")]
    Form(String),
    /// It is larger than any signature.
    #[error("it is no SSH signature: it has {0} bytes")]
    Size(usize),
    /// It was made for another purpose.
    #[error("it is a signature for `{0}`, not for `{APPROVAL_NAMESPACE}`")]
    Namespace(String),
    /// It does not belong to the text.
    #[error("it is not a signature of this version and channel")]
    Mismatch,
    /// `ssh-keygen` could not be run.
    #[error("cannot run `ssh-keygen`")]
    Run(#[source] std::io::Error),
    /// `ssh-keygen` refused.
    #[error("`ssh-keygen -Y sign -q -n {APPROVAL_NAMESPACE} -f {key}` failed ({status})")]
    Refused {
        /// The key.
        key: Utf8PathBuf,
        /// How it ended; what it wrote went to standard error.
        status: std::process::ExitStatus,
    },
}

/// The key of a right signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningKey {
    /// `ssh-ed25519 AAAA…`.
    pub key: String,
    /// `SHA256:…`.
    pub fingerprint: String,
}

/// Signs a statement with a private key, or with the agent where `key` is the public one. `ssh-keygen` asks on the
/// terminal for what it needs.
pub fn sign(statement: &Statement, key: &Utf8Path) -> std::result::Result<String, SignatureError> {
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-q", "-n", APPROVAL_NAMESPACE, "-f", key.as_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(SignatureError::Run)?;
    let written = child.stdin.take().map(|mut input| input.write_all(statement.text().as_bytes()));
    let output = child.wait_with_output().map_err(SignatureError::Run)?;
    if !output.status.success() {
        return Err(SignatureError::Refused { key: key.to_owned(), status: output.status });
    }
    written.unwrap_or(Ok(())).map_err(SignatureError::Run)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The key that signed a statement, if the signature is right. Whether that key counts is another question.
pub fn signing_key(
    statement: &Statement,
    signature: &str,
) -> std::result::Result<SigningKey, SignatureError> {
    if signature.len() > LARGEST {
        return Err(SignatureError::Size(signature.len()));
    }
    let signature = SshSig::from_pem(signature.trim()).map_err(form)?;
    if signature.namespace() != APPROVAL_NAMESPACE {
        return Err(SignatureError::Namespace(signature.namespace().to_owned()));
    }
    let key = PublicKey::from(signature.public_key().clone());
    key.verify(APPROVAL_NAMESPACE, statement.text().as_bytes(), &signature)
        .map_err(|_| SignatureError::Mismatch)?;
    let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
    Ok(SigningKey { key: key.to_openssh().map_err(form)?, fingerprint })
}

/// The error's own text: its sources say the same again.
fn form(error: ssh_key::Error) -> SignatureError {
    SignatureError::Form(error.to_string())
}

fn folder(statement: &Statement) -> String {
    format!("v1/approvals/{}/{}/", statement.digest.hex(), statement.channel)
}

impl Records {
    /// Stores a signature; false where it was there. It is not checked here.
    pub fn put_approval(&self, statement: &Statement, signature: &str) -> Result<bool> {
        self.hold()?;
        let digest = Digest::of(signature.as_bytes());
        let key = object_key(format!("{}{}.sig", folder(statement), digest.hex()));
        Ok(self.objects().put(&key, signature.as_bytes(), Put::IfAbsent)?.stored())
    }

    /// The approvals of a version for a channel: those that count now, and why others do not.
    pub fn approvals(
        &self,
        statement: &Statement,
        allowed: &AllowedSigners,
        now: Timestamp,
    ) -> Result<Approvals> {
        let mut approvals = Approvals::default();
        for object in self.objects().list(&folder(statement))? {
            match self.approval(&object.key, statement, allowed, now)? {
                Ok(approval) => approvals.accepted.push(approval),
                Err(why) => approvals.refused.push(why),
            }
        }
        Ok(approvals)
    }

    fn approval(
        &self,
        key: &ObjectKey,
        statement: &Statement,
        allowed: &AllowedSigners,
        now: Timestamp,
    ) -> Result<std::result::Result<Approval, String>> {
        let place = self.objects().place(key);
        let Some(object) = self.objects().get(key)? else { return Ok(Err(format!("`{place}` is gone"))) };
        if digest_in(key) != Some(Digest::of(&object.bytes)) {
            return Ok(Err(format!("`{place}`: it is not what was written")));
        }
        let text = String::from_utf8_lossy(&object.bytes);
        let SigningKey { key, fingerprint } = match signing_key(statement, &text) {
            Ok(signer) => signer,
            Err(error) => return Ok(Err(format!("`{place}`: {error}"))),
        };
        Ok(match allowed.principals(&key, APPROVAL_NAMESPACE, now) {
            Ok(principals) => Ok(Approval { key, fingerprint, principals }),
            Err(refusal) => Err(format!("a signature by {fingerprint}, {refusal}")),
        })
    }
}
