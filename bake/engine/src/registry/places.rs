//! Where versions can be started from outside of this host: `v1/places/DIGEST/KIND/REGION.json`, created once.
//!
//! A place is written after the image at the provider is there and usable, and removed before that image is. So what
//! a place names exists, as far as nobody went past olbake. Main type: [`Place`].

use olbake_core::time::Timestamp;
use olbake_core::{Digest, ImageRef, canonical};
use serde::{Deserialize, Serialize};

use super::records::{Records, object_key};
use super::{Registry, RegistryError, Result};
use crate::store::object::{ObjectKey, Put};

/// The form of places.
pub const PLACE_SCHEMA: u32 = 1;
/// The kind of images of EC2.
pub const EC2: &str = "ec2";

/// An image of a version at a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// [`PLACE_SCHEMA`].
    pub schema: u32,
    /// The version.
    pub version: Digest,
    /// Its image.
    pub image: ImageRef,
    /// What kind of provider has it: [`EC2`].
    pub kind: String,
    /// In which of its regions.
    pub region: String,
    /// The account that owns it, where the provider said so.
    pub owner: Option<String>,
    /// What machines are started from: `ami-…`.
    pub id: String,
    /// Its name there.
    pub name: String,
    /// What it is made of: `snap-…`.
    pub snapshot: String,
    /// When it was written down.
    pub created: Timestamp,
}

impl Place {
    fn key(&self) -> ObjectKey {
        place_key(&self.version, &self.kind, &self.region)
    }
}

fn place_key(version: &Digest, kind: &str, region: &str) -> ObjectKey {
    object_key(format!("v1/places/{}/{kind}/{region}.json", version.hex()))
}

impl Records {
    /// Writes a place down; says what stands, which is the first place where there was one.
    pub fn put_place(&self, place: &Place) -> Result<Place> {
        self.hold()?;
        let key = place.key();
        self.objects().put(&key, canonical::to_string(place).as_bytes(), Put::IfAbsent)?;
        let stands = self.read_place(&key)?;
        stands.ok_or_else(|| RegistryError::Missing { object: self.objects().place(&key) })
    }

    /// Where a version is in a region; none where it is not there.
    pub fn place(&self, version: &Digest, kind: &str, region: &str) -> Result<Option<Place>> {
        self.read_place(&place_key(version, kind, region))
    }

    /// Where a version is, in order of kind and region.
    pub fn places(&self, version: &Digest) -> Result<Vec<Place>> {
        self.places_below(&format!("v1/places/{}/", version.hex()))
    }

    /// Every place there is.
    pub fn all_places(&self) -> Result<Vec<Place>> {
        self.places_below("v1/places/")
    }

    /// Forgets a place: before its image is removed. False where it was not known.
    pub fn remove_place(&self, place: &Place) -> Result<bool> {
        self.hold()?;
        Ok(self.objects().delete(&place.key())?)
    }

    fn places_below(&self, prefix: &str) -> Result<Vec<Place>> {
        let listed = self.objects().list(prefix)?;
        listed.iter().filter_map(|object| self.read_place(&object.key).transpose()).collect()
    }

    fn read_place(&self, key: &ObjectKey) -> Result<Option<Place>> {
        let Some(object) = self.objects().get(key)? else { return Ok(None) };
        let torn = |problem: String| RegistryError::TornPlace { object: self.objects().place(key), problem };
        match self.check_schema(key, &object.bytes, PLACE_SCHEMA) {
            Err(RegistryError::Torn { problem, .. }) => return Err(torn(problem)),
            other => other?,
        }
        let place: Place = serde_json::from_slice(&object.bytes).map_err(|error| torn(error.to_string()))?;
        match place.key() == *key {
            true => Ok(Some(place)),
            false => Err(torn("it is about another version or region than its name says".to_owned())),
        }
    }
}

impl Registry {
    /// Where a version is in a region: what a deployment there starts. None where it was not published there.
    pub async fn place(&self, version: &Digest, kind: &str, region: &str) -> Result<Option<Place>> {
        let (version, kind, region) = (*version, kind.to_owned(), region.to_owned());
        self.run(move |records| records.place(&version, &kind, &region)).await
    }

    /// Where a version is, in order of kind and region.
    pub async fn places(&self, version: &Digest) -> Result<Vec<Place>> {
        let version = *version;
        self.run(move |records| records.places(&version)).await
    }
}
