//! Secrets in files that people share: sealed one by one under a key of the stack. Main type: [`DataKey`].
//!
//! A stack's file has the key, wrapped with age for a passphrase or for key files, and values sealed under it:
//!
//! ```toml
//! [encryption]
//! key = "age:YWdlLWVuY3J5cHRpb24…"
//! recipients = ["age1…"]             # none: for a passphrase
//!
//! [database]
//! password = { secure = "v1:…" }
//! ```
//!
//! Or KMS made the key and wrapped it: then the key begins with `kms:` and its one recipient is `kms:` and the ARN of
//! the KMS key. Who asks KMS is elsewhere.
//!
//! A value is `v1:` and the base64 of a nonce and of what XChaCha20-Poly1305 makes of the value, bound to the stack
//! and to its own path: moved elsewhere it does not open. The key is unwrapped once per run. The same key seals
//! secrets in the state, under paths that begin otherwise.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::iter;

use age::secrecy::{ExposeSecret, SecretString};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use camino::{Utf8Path, Utf8PathBuf};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use olbake_core::digest::FieldDigest;
use olbake_core::stack::StackName;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::secrets::random;

/// The table of a stack's file that holds the wrapped key.
pub const TABLE: &str = "encryption";
/// The key of a value that is sealed: `{ secure = "v1:…" }`.
pub const SECURE: &str = "secure";
/// The variable with the passphrase.
pub const PASSPHRASE: &str = "OLBAKE_PASSPHRASE";
/// The variable with the path of a file that has the passphrase in its first line.
pub const PASSPHRASE_FILE: &str = "OLBAKE_PASSPHRASE_FILE";
/// The variable with the path of a file of age identities.
pub const KEY_FILE: &str = "OLBAKE_KEY_FILE";

const WRAPPED: &str = "age:";
/// What a key that KMS wrapped begins with, and a recipient that is a KMS key.
pub const KMS: &str = "kms:";
const SEALED: &str = "v1:";
const NONCE: usize = 24;
/// What a passphrase may cost to try that somebody else wrapped with: 2^22 rounds take a gigabyte times four.
const MOST_WORK: u8 = 22;

/// Why a secret could not be sealed or opened. None of these has a value in it.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The passphrase is another one.
    #[error("the passphrase is not the one that the secrets of `{stack}` are sealed with")]
    WrongPassphrase {
        /// The stack.
        stack: StackName,
    },
    /// The key files are of others.
    #[error("none of the keys given is among the recipients of the secrets of `{stack}`")]
    WrongKey {
        /// The stack.
        stack: StackName,
    },
    /// The secrets need a passphrase, and a key file was given, or the other way round.
    #[error("the secrets of `{stack}` are sealed for {needed}")]
    OtherKind {
        /// The stack.
        stack: StackName,
        /// What opens them.
        needed: &'static str,
    },
    /// The wrapped key is not what was written.
    #[error("the wrapped key of `{stack}` {problem}")]
    BadHeader {
        /// The stack.
        stack: StackName,
        /// What is wrong with it.
        problem: String,
    },
    /// A text is no public key.
    #[error("`{text}` is no recipient: write an age public key, `age1…`")]
    BadRecipient {
        /// The text.
        text: String,
    },
    /// Nothing to wrap the key with.
    #[error("{0}")]
    Unusable(&'static str),
    /// A value does not open.
    #[error("`{path}` of `{stack}` does not open: {problem}")]
    BadValue {
        /// The stack.
        stack: StackName,
        /// The value's path.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file with a passphrase or key could not be read.
    #[error("cannot read `{path}`")]
    File {
        /// The file.
        path: Utf8PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The system has no randomness.
    #[error("cannot draw random bytes")]
    Random(#[source] std::io::Error),
}

type Result<T> = std::result::Result<T, EnvelopeError>;

/// What the stack's file says of the key: the table `[encryption]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The wrapped key.
    pub key: String,
    /// The public keys it is wrapped for; none: it is wrapped with a passphrase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
}

/// What opens a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A passphrase.
    Passphrase,
    /// An identity of one of its recipients.
    KeyFile,
    /// KMS.
    Kms,
}

impl Header {
    /// What opens it.
    pub fn kind(&self) -> Kind {
        match () {
            () if self.key.starts_with(KMS) => Kind::Kms,
            () if self.recipients.is_empty() => Kind::Passphrase,
            () => Kind::KeyFile,
        }
    }

    /// That of a key that a KMS key wrapped.
    pub fn of_kms(kms_key: &str, wrapped: &[u8]) -> Self {
        let key = format!("{KMS}{}", BASE64.encode(wrapped));
        Self { key, recipients: vec![format!("{KMS}{kms_key}")] }
    }

    /// The KMS key and what it wrapped.
    pub fn kms(&self, stack: &StackName) -> Result<(&str, Vec<u8>)> {
        let bad =
            |problem: &str| EnvelopeError::BadHeader { stack: stack.clone(), problem: problem.to_owned() };
        let text = self.key.strip_prefix(KMS).ok_or_else(|| bad("does not begin with `kms:`"))?;
        let wrapped = BASE64.decode(text).map_err(|_| bad("is no base64"))?;
        match self.recipients.as_slice() {
            [one] if one.starts_with(KMS) => Ok((&one[KMS.len()..], wrapped)),
            _ => Err(bad("wants one recipient, `kms:ARN`")),
        }
    }
}

/// How much work each guess of a passphrase is: two to this power rounds of scrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work(pub u8);

impl Default for Work {
    /// About half a second.
    fn default() -> Self {
        Self(17)
    }
}

/// What a key is wrapped with.
#[derive(Clone)]
pub enum Wrapping {
    /// A passphrase.
    Passphrase(Zeroizing<String>, Work),
    /// The public keys of those who may open it, `age1…`.
    Recipients(Vec<String>),
}

/// What unwraps a key.
#[derive(Clone)]
pub enum Identity {
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// The text of a file of age identities.
    KeyFile(Zeroizing<String>),
}

/// Says which kind it is, and no more.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(..)",
            Self::KeyFile(_) => "KeyFile(..)",
        })
    }
}

impl Identity {
    /// The identity of a kind that the environment gives; none where it gives none, and someone has to be asked.
    /// Paths are relative to the workspace.
    pub fn find(
        kind: Kind,
        environment: &BTreeMap<String, String>,
        workspace: &Utf8Path,
    ) -> Result<Option<Self>> {
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let file = |path: &String| {
            let path = workspace.join(path);
            let read = std::fs::read_to_string(&path).map(Zeroizing::new);
            read.map_err(|source| EnvelopeError::File { path, source })
        };
        match kind {
            Kind::Kms => Ok(None),
            Kind::KeyFile => variable(KEY_FILE).map(|path| file(path).map(Self::KeyFile)).transpose(),
            Kind::Passphrase => match (variable(PASSPHRASE), variable(PASSPHRASE_FILE)) {
                (Some(passphrase), _) => Ok(Some(Self::Passphrase(Zeroizing::new(passphrase.clone())))),
                (None, Some(path)) => {
                    let line = Zeroizing::new(file(path)?.lines().next().unwrap_or_default().to_owned());
                    Ok(Some(Self::Passphrase(line)))
                }
                (None, None) => Ok(None),
            },
        }
    }
}

/// A stack's key, unwrapped.
#[derive(Clone)]
pub struct DataKey {
    stack: StackName,
    key: Zeroizing<[u8; 32]>,
}

/// Says whose it is, and no more.
impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").field("stack", &self.stack).finish_non_exhaustive()
    }
}

impl DataKey {
    /// Makes a new key for a stack.
    pub fn create(stack: &StackName, wrapping: &Wrapping) -> Result<(Self, Header)> {
        let mut key = Zeroizing::new([0; 32]);
        random(&mut key[..]).map_err(EnvelopeError::Random)?;
        let key = Self { stack: stack.clone(), key };
        let header = key.wrap(wrapping)?;
        Ok((key, header))
    }

    /// The key of a stack that was unwrapped elsewhere.
    pub fn of(stack: &StackName, bytes: &[u8]) -> Result<Self> {
        let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| EnvelopeError::BadHeader {
            stack: stack.clone(),
            problem: "holds something else than a key".to_owned(),
        })?;
        Ok(Self { stack: stack.clone(), key: Zeroizing::new(bytes) })
    }

    /// Wraps it, for the first time or for others: sealed values stay as they are.
    pub fn wrap(&self, wrapping: &Wrapping) -> Result<Header> {
        let (wrapped, recipients) = match wrapping {
            Wrapping::Passphrase(passphrase, _) if passphrase.is_empty() => {
                return Err(EnvelopeError::Unusable("the passphrase is empty"));
            }
            Wrapping::Passphrase(passphrase, work) => {
                let mut recipient = age::scrypt::Recipient::new(SecretString::from(passphrase.as_str()));
                recipient.set_work_factor(work.0.clamp(1, MOST_WORK));
                (self.encrypt(&[&recipient])?, Vec::new())
            }
            Wrapping::Recipients(texts) if texts.is_empty() => {
                return Err(EnvelopeError::Unusable("there is no recipient to seal secrets for"));
            }
            Wrapping::Recipients(texts) => {
                let parse = |text: &String| {
                    let bad = |_| EnvelopeError::BadRecipient { text: text.clone() };
                    text.parse::<age::x25519::Recipient>().map_err(bad)
                };
                let recipients = texts.iter().map(parse).collect::<Result<Vec<_>>>()?;
                let recipients: Vec<&dyn age::Recipient> = recipients.iter().map(|one| one as _).collect();
                (self.encrypt(&recipients)?, texts.clone())
            }
        };
        Ok(Header { key: format!("{WRAPPED}{}", BASE64.encode(wrapped)), recipients })
    }

    fn encrypt(&self, recipients: &[&dyn age::Recipient]) -> Result<Vec<u8>> {
        let encryptor = age::Encryptor::with_recipients(recipients.iter().copied())
            .map_err(|_| EnvelopeError::Unusable("these recipients cannot be used together"))?;
        let mut wrapped = Vec::new();
        let written = encryptor.wrap_output(&mut wrapped).and_then(|mut writer| {
            writer.write_all(&self.key[..])?;
            writer.finish()
        });
        written.expect("memory takes what is written to it");
        Ok(wrapped)
    }

    /// Unwraps the key of a stack.
    pub fn unwrap(stack: &StackName, header: &Header, identity: &Identity) -> Result<Self> {
        let bad =
            |problem: &str| EnvelopeError::BadHeader { stack: stack.clone(), problem: problem.to_owned() };
        let text = header.key.strip_prefix(WRAPPED).ok_or_else(|| bad("does not begin with `age:`"))?;
        let wrapped = BASE64.decode(text).map_err(|_| bad("is no base64"))?;
        let decryptor =
            age::Decryptor::new(&wrapped[..]).map_err(|error| bad(&format!("is no age file: {error}")))?;
        let needed = if decryptor.is_scrypt() { "a passphrase" } else { "key files" };
        let other = || EnvelopeError::OtherKind { stack: stack.clone(), needed };
        let (identities, wrong) = match identity {
            Identity::Passphrase(passphrase) if decryptor.is_scrypt() => {
                let mut identity = age::scrypt::Identity::new(SecretString::from(passphrase.as_str()));
                identity.set_max_work_factor(MOST_WORK);
                let identity: Box<dyn age::Identity> = Box::new(identity);
                (vec![identity], EnvelopeError::WrongPassphrase { stack: stack.clone() })
            }
            Identity::KeyFile(text) if !decryptor.is_scrypt() => {
                (key_file(text)?, EnvelopeError::WrongKey { stack: stack.clone() })
            }
            _ => return Err(other()),
        };
        let mut reader = match decryptor.decrypt(identities.iter().map(|identity| &**identity)) {
            Ok(reader) => reader,
            Err(
                age::DecryptError::KeyDecryptionFailed
                | age::DecryptError::DecryptionFailed
                | age::DecryptError::NoMatchingKeys,
            ) => return Err(wrong),
            Err(error) => return Err(bad(&format!("does not open: {error}"))),
        };
        let mut key = Zeroizing::new([0; 32]);
        let read = reader.read_exact(&mut key[..]).and_then(|()| reader.read(&mut [0]));
        match read {
            Ok(0) => Ok(Self { stack: stack.clone(), key }),
            _ => Err(bad("holds something else than a key")),
        }
    }

    /// Seals a value for its place. Sealing it again gives another text.
    pub fn seal(&self, path: &str, value: &str) -> Result<String> {
        let mut nonce = [0; NONCE];
        random(&mut nonce).map_err(EnvelopeError::Random)?;
        let bound = self.bound_to(path);
        let sealed =
            self.cipher().encrypt(XNonce::from_slice(&nonce), Payload { msg: value.as_bytes(), aad: &bound });
        let sealed = sealed.expect("no value has 256 GiB");
        Ok(format!("{SEALED}{}", BASE64.encode([&nonce[..], &sealed].concat())))
    }

    /// Opens a value at its place.
    pub fn open(&self, path: &str, sealed: &str) -> Result<Zeroizing<String>> {
        let bad =
            |problem| EnvelopeError::BadValue { stack: self.stack.clone(), path: path.to_owned(), problem };
        let text = sealed.strip_prefix(SEALED).ok_or_else(|| bad("it does not begin with `v1:`"))?;
        let bytes = BASE64.decode(text).map_err(|_| bad("it is no base64"))?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE).ok_or_else(|| bad("it is cut short"))?;
        let bound = self.bound_to(path);
        let opened = self.cipher().decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: &bound });
        let opened =
            opened.map_err(|_| bad("it was changed, or sealed for another place or with another key"))?;
        let text = String::from_utf8(opened).map_err(|error| {
            drop(Zeroizing::new(error.into_bytes()));
            bad("it is no text")
        })?;
        Ok(Zeroizing::new(text))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(Key::from_slice(&self.key[..]))
    }

    fn bound_to(&self, path: &str) -> [u8; 32] {
        let stack = self.stack.as_str().as_bytes();
        let digest = FieldDigest::new("olbake secret 1").field("stack", stack).field("path", path.as_bytes());
        *digest.finish().as_bytes()
    }
}

fn key_file(text: &str) -> Result<Vec<Box<dyn age::Identity>>> {
    let unusable = EnvelopeError::Unusable("the key file has no age identity, `AGE-SECRET-KEY-1…`");
    let identities = age::IdentityFile::from_buffer(text.as_bytes())
        .and_then(|file| file.into_identities().map_err(std::io::Error::other));
    match identities {
        Ok(identities) if !identities.is_empty() => {
            Ok(identities.into_iter().map(|identity| identity as Box<dyn age::Identity>).collect())
        }
        _ => Err(unusable),
    }
}

/// A new key file: its text, and the recipient that secrets are sealed for.
pub fn new_key_file() -> (Zeroizing<String>, String) {
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let secret = identity.to_string();
    let lines = iter::once(secret.expose_secret()).chain(iter::once("\n"));
    let text = Zeroizing::new(format!("# public key: {recipient}\n{}", lines.collect::<String>()));
    (text, recipient)
}

/// The sealed text of a value `{ secure = "v1:…" }`; none where it is another value.
pub fn sealed_text(value: &serde_json::Value) -> Option<&str> {
    value.as_object().filter(|table| table.len() == 1)?.get(SECURE)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack() -> StackName {
        "applications.hello.QA".parse().unwrap()
    }

    fn passphrase(text: &str) -> (Wrapping, Identity) {
        let text = Zeroizing::new(text.to_owned());
        (Wrapping::Passphrase(text.clone(), Work(2)), Identity::Passphrase(text))
    }

    #[test]
    fn a_passphrase_opens_what_it_sealed_and_no_other_does() {
        let (wrapping, identity) = passphrase("correct horse");
        let (key, header) = DataKey::create(&stack(), &wrapping).unwrap();
        let sealed = key.seal("database.password", "p4ss").unwrap();
        assert!(sealed.starts_with("v1:") && !sealed.contains("p4ss"));
        let again = DataKey::unwrap(&stack(), &header, &identity).unwrap();
        assert_eq!(again.open("database.password", &sealed).unwrap().as_str(), "p4ss");
        let wrong = DataKey::unwrap(&stack(), &header, &passphrase("Correct horse").1).unwrap_err();
        assert!(matches!(wrong, EnvelopeError::WrongPassphrase { .. }), "{wrong}");
        let other = DataKey::unwrap(&stack(), &header, &Identity::KeyFile(new_key_file().0)).unwrap_err();
        assert_eq!(other.to_string(), "the secrets of `applications.hello.QA` are sealed for a passphrase");
        assert!(DataKey::create(&stack(), &passphrase("").0).is_err());
    }

    #[test]
    fn a_key_that_kms_wrapped_says_which_kms_key_opens_it() {
        let header = Header::of_kms("arn:aws:kms:eu-west-1:1:key/2", b"wrapped");
        assert_eq!(header.kind(), Kind::Kms);
        assert_eq!(header.kms(&stack()).unwrap(), ("arn:aws:kms:eu-west-1:1:key/2", b"wrapped".to_vec()));
        let sealed = DataKey::of(&stack(), &[7; 32]).unwrap().seal("a", "value").unwrap();
        assert_eq!(DataKey::of(&stack(), &[7; 32]).unwrap().open("a", &sealed).unwrap().as_str(), "value");
        assert!(DataKey::of(&stack(), &[8; 32]).unwrap().open("a", &sealed).is_err());
        assert!(DataKey::of(&stack(), &[7; 31]).is_err());
        let two = Header { recipients: vec!["kms:a".into(), "age1".into()], ..header };
        assert!(matches!(two.kms(&stack()), Err(EnvelopeError::BadHeader { .. })));
    }

    #[test]
    fn each_recipient_opens_it_and_rewrapping_leaves_values_alone() {
        let [(one, one_public), (two, two_public), (other, _)] =
            [new_key_file(), new_key_file(), new_key_file()];
        let (key, header) =
            DataKey::create(&stack(), &Wrapping::Recipients(vec![one_public, two_public.clone()])).unwrap();
        let sealed = key.seal("a", "value").unwrap();
        for file in [one, two.clone()] {
            let key = DataKey::unwrap(&stack(), &header, &Identity::KeyFile(file)).unwrap();
            assert_eq!(key.open("a", &sealed).unwrap().as_str(), "value");
        }
        let wrong = DataKey::unwrap(&stack(), &header, &Identity::KeyFile(other.clone())).unwrap_err();
        assert!(matches!(wrong, EnvelopeError::WrongKey { .. }), "{wrong}");
        assert_eq!(header.kind(), Kind::KeyFile);

        let rewrapped = key.wrap(&passphrase("new").0).unwrap();
        assert_eq!(rewrapped.kind(), Kind::Passphrase);
        let key = DataKey::unwrap(&stack(), &rewrapped, &passphrase("new").1).unwrap();
        assert_eq!(key.open("a", &sealed).unwrap().as_str(), "value");
        assert!(matches!(
            key.wrap(&Wrapping::Recipients(vec!["age1nothing".into()])),
            Err(EnvelopeError::BadRecipient { .. })
        ));
        assert!(key_file("no key").is_err());
    }

    #[test]
    fn a_value_does_not_open_elsewhere_nor_when_a_bit_is_changed() {
        let (key, header) = DataKey::create(&stack(), &passphrase("x").0).unwrap();
        let sealed = key.seal("a.b", "välue").unwrap();
        assert!(key.open("a.c", &sealed).is_err());
        let moved = DataKey { stack: "applications.hello.Production".parse().unwrap(), ..key.clone() };
        assert!(moved.open("a.b", &sealed).is_err());
        let bytes = BASE64.decode(&sealed[3..]).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open("a.b", &format!("v1:{}", BASE64.encode(&changed))).is_err(), "{bit}");
        }
        for bad in ["", "v1:", "v1:!", "v2:AAAA", "v1:AAAA"] {
            assert!(key.open("a.b", bad).is_err(), "{bad}");
        }
        for bad in ["", "age:", "age:!", "age:AAAA", &header.key[..40]] {
            let header = Header { key: bad.to_owned(), ..header.clone() };
            let error = DataKey::unwrap(&stack(), &header, &passphrase("x").1).unwrap_err();
            assert!(matches!(error, EnvelopeError::BadHeader { .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn the_environment_gives_a_passphrase_or_its_file_or_a_key_file() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        std::fs::write(root.join("phrase"), "from a file\nand more\n").unwrap();
        let find = |kind, variables: &[(&str, &str)]| {
            let environment =
                variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            Identity::find(kind, &environment, root)
        };
        let text = |found: Option<Identity>| match found {
            Some(Identity::Passphrase(text) | Identity::KeyFile(text)) => Some(text.to_string()),
            None => None,
        };
        let both = [(PASSPHRASE_FILE, "phrase"), (KEY_FILE, "phrase")];
        assert_eq!(text(find(Kind::Passphrase, &both).unwrap()).unwrap(), "from a file");
        assert_eq!(text(find(Kind::KeyFile, &both).unwrap()).unwrap(), "from a file\nand more\n");
        assert_eq!(text(find(Kind::Passphrase, &[(PASSPHRASE, "p"), both[0]]).unwrap()).unwrap(), "p");
        assert!(find(Kind::Passphrase, &[(PASSPHRASE, ""), both[1]]).unwrap().is_none());
        assert!(find(Kind::KeyFile, &[(KEY_FILE, "absent")]).is_err());
    }
}
