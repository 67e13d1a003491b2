//! The record of a version: what an image is, where it comes from and what shows that it works.
//!
//! Main type: [`Version`]. A record is canonical JSON, and a version's digest is the digest of that text: of the
//! block map's digest, the keys, the parent and the evidence together. A record that was torn or edited has
//! another digest than its name says.

use olbake_core::blockmap::BlockMap;
use olbake_core::digest::FieldDigest;
use olbake_core::plan::{Architecture, Plan};
use olbake_core::report::Package;
use olbake_core::{Digest, ImageName, ImageRef, VariantName, canonical};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{CheckResult, LayerResult};

/// The version of the records' form.
pub const VERSION_SCHEMA: u32 = 1;

/// A baked image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The digest of everything below; it is the record's name and not in its text.
    #[serde(skip, default = "no_digest")]
    pub digest: Digest,
    /// [`VERSION_SCHEMA`].
    pub schema: u32,
    /// The image.
    pub image: ImageName,
    /// Its variant.
    pub variant: Option<VariantName>,
    /// The plan's key.
    pub key: Digest,
    /// The architecture.
    pub architecture: Architecture,
    /// The version it starts from, where its base is an image.
    pub parent: Option<Digest>,
    /// The key of its disk.
    pub sealed_key: Digest,
    /// The digest of its disk's block map.
    pub map: Digest,
    /// Bytes of its disk.
    pub size: u64,
    /// Bytes of its disk that are not holes, in whole blocks.
    pub data: u64,
    /// The digest of its plan's text.
    pub plan: Digest,
    /// When it was registered, RFC 3339 in UTC.
    pub created: String,
    /// How its base and its layers came about.
    pub layers: Vec<LayerResult>,
    /// The checks that held on the fresh boot.
    pub checks: Vec<CheckResult>,
    /// Its packages, if they were listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<Package>,
}

fn no_digest() -> Digest {
    Digest::from_bytes([0; 32])
}

impl Version {
    /// A version without evidence yet.
    pub fn new(plan: &Plan, sealed_key: Digest, parent: Option<Digest>, map: &BlockMap) -> Self {
        let ImageRef { image, variant } = plan.image.clone();
        let version = Self {
            digest: no_digest(),
            schema: VERSION_SCHEMA,
            image,
            variant,
            key: plan.key,
            architecture: plan.architecture,
            parent,
            sealed_key,
            map: map.digest(),
            size: map.size,
            data: map.blocks.len() as u64 * olbake_core::blockmap::BLOCK_SIZE,
            plan: Digest::of(plan.to_json().as_bytes()),
            created: String::new(),
            layers: Vec::new(),
            checks: Vec::new(),
            packages: Vec::new(),
        };
        version.digested()
    }

    /// Adds how it came about and what was checked, at a time given as RFC 3339 in UTC.
    #[must_use]
    pub fn with_evidence(self, layers: &[LayerResult], checks: Vec<CheckResult>, now: &str) -> Self {
        Self { layers: layers.to_vec(), checks, created: now.to_owned(), ..self }.digested()
    }

    /// Adds its packages.
    #[must_use]
    pub fn with_packages(self, mut packages: Vec<Package>) -> Self {
        packages.sort_unstable();
        Self { packages, ..self }.digested()
    }

    /// The image, with its variant.
    pub fn image_ref(&self) -> ImageRef {
        ImageRef { image: self.image.clone(), variant: self.variant.clone() }
    }

    /// The record's text.
    pub fn to_json(&self) -> String {
        canonical::to_string(self)
    }

    /// The record with its digest, for people and scripts.
    pub fn to_value(&self) -> Value {
        let mut value = serde_json::to_value(self).expect("a record is expressible in JSON");
        value["digest"] = Value::String(self.digest.to_string());
        value
    }

    /// Reads a record's text; the digest is that of the text.
    pub(super) fn from_json(text: &[u8]) -> serde_json::Result<Self> {
        let version: Self = serde_json::from_slice(text)?;
        Ok(Self { digest: digest_of(text), ..version })
    }

    fn digested(self) -> Self {
        Self { digest: digest_of(self.to_json().as_bytes()), ..self }
    }
}

/// The digest of a record's text.
pub(super) fn digest_of(text: &[u8]) -> Digest {
    FieldDigest::new("olbake version 1").field("record", text).finish()
}
