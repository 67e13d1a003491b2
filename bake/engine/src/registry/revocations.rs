//! What must not be deployed any more, and what starts from it: `v1/revoked/DIGEST.json`, created once.
//!
//! A revocation is final. It says nothing of the versions that start from the revoked one: that they are affected
//! follows from their lineage each time it is asked, so a version that is baked later is affected too.

use olbake_core::promotion::{Channel, Revocation};
use olbake_core::{Digest, ImageRef, canonical};

use super::records::{Records, digest_in, object_key};
use super::version::Version;
use super::{RegistryError, Result};
use crate::store::object::{ObjectKey, Put};

/// The form of revocations.
pub const REVOCATION_SCHEMA: u32 = 1;

fn revocation_key(digest: &Digest) -> ObjectKey {
    object_key(format!("v1/revoked/{}.json", digest.hex()))
}

impl Records {
    /// Revokes a version; says what stands, which is the first revocation where there was one.
    pub fn revoke(&self, revocation: &Revocation) -> Result<Revocation> {
        self.hold()?;
        let key = revocation_key(&revocation.digest);
        self.objects().put(&key, canonical::to_string(revocation).as_bytes(), Put::IfAbsent)?;
        let stands = self.revocation(&revocation.digest)?;
        stands.ok_or_else(|| RegistryError::Missing { object: self.objects().place(&key) })
    }

    /// The revocation of a version.
    pub fn revocation(&self, digest: &Digest) -> Result<Option<Revocation>> {
        let key = revocation_key(digest);
        let Some(object) = self.objects().get(&key)? else { return Ok(None) };
        let mend = "the version counts as revoked until it is restored from a copy of the registry";
        let torn = |problem: String| {
            let object = self.objects().place(&key);
            RegistryError::TornChannel { object, problem, mend }
        };
        match self.check_schema(&key, &object.bytes, REVOCATION_SCHEMA) {
            Err(RegistryError::Torn { problem, .. }) => return Err(torn(problem)),
            other => other?,
        }
        let found: Revocation =
            serde_json::from_slice(&object.bytes).map_err(|error| torn(error.to_string()))?;
        if found.digest == *digest {
            Ok(Some(found))
        } else {
            Err(torn("it is about another version than its name says".to_owned()))
        }
    }

    /// Every revocation, by digest.
    pub fn revocations(&self) -> Result<Vec<Revocation>> {
        let listed = self.objects().list("v1/revoked/")?;
        let digests = listed.iter().filter_map(|object| digest_in(&object.key));
        digests.filter_map(|digest| self.revocation(&digest).transpose()).collect()
    }

    /// The digests of what a version starts from, nearest first; the last may be of a version that is gone.
    pub fn ancestors(&self, version: &Version) -> Result<Vec<Digest>> {
        let mut found: Vec<Digest> = Vec::new();
        let mut next = version.parent;
        while let Some(digest) = next.filter(|digest| !found.contains(digest)) {
            found.push(digest);
            next = self.by_digest(&digest)?.and_then(|version| version.parent);
        }
        Ok(found)
    }

    /// The versions that start from a version, however far, oldest first.
    pub fn descendants(&self, digest: &Digest) -> Result<Vec<Version>> {
        let mut found: Vec<Version> = Vec::new();
        let mut left = self.versions(None)?;
        loop {
            let known =
                |parent: Digest| parent == *digest || found.iter().any(|other| other.digest == parent);
            let (new, others): (Vec<Version>, Vec<Version>) =
                left.into_iter().partition(|version| version.parent.is_some_and(known));
            if new.is_empty() {
                found.sort_by(|a, b| (&a.created, a.digest).cmp(&(&b.created, b.digest)));
                return Ok(found);
            }
            found.extend(new);
            left = others;
        }
    }

    /// The revocation that forbids a version: its own, or that of the nearest version it starts from.
    pub fn forbidden_by(&self, version: &Version) -> Result<Option<Revocation>> {
        for digest in std::iter::once(version.digest).chain(self.ancestors(version)?) {
            if let Some(revocation) = self.revocation(&digest)? {
                return Ok(Some(revocation));
            }
        }
        Ok(None)
    }

    /// The version that a deployment through a channel uses. Refused where the channel is empty, and where its version
    /// is not registered or is revoked, itself or by what it starts from.
    pub fn resolve_for_deploy(&self, image: &ImageRef, channel: &Channel) -> Result<Version> {
        match self.channel(image, channel)? {
            Some(version) => self.deployable(version),
            None => Err(RegistryError::EmptyChannel { image: image.clone(), channel: channel.clone() }),
        }
    }

    /// The version of an exact digest for a deployment; refused as [`Self::resolve_for_deploy`] does.
    pub fn resolve_digest_for_deploy(&self, image: &ImageRef, digest: &Digest) -> Result<Version> {
        match self.version(image, digest)? {
            Some(version) => self.deployable(version),
            None => Err(RegistryError::UnknownVersion { reference: format!("{image}@{digest}") }),
        }
    }

    fn deployable(&self, version: Version) -> Result<Version> {
        match self.forbidden_by(&version)? {
            None => Ok(version),
            Some(revocation) => Err(RegistryError::Revoked {
                image: version.image_ref(),
                digest: version.digest,
                revocation: Box::new(revocation),
            }),
        }
    }
}
