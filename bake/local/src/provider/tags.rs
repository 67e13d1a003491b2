//! Whose an object is: a small file for each object of a stack, written before the object is made and removed after
//! it is gone, so that what a crash left behind is found and its stack is known.

use std::fs;
use std::io::{self, Write as _};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::rollout::InstanceId;
use olbake_core::stack::{ObjectId, ResourceName, ResourceType, StackName};
use olbake_engine::stack::provider::Object;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The files of a cloud's objects.
#[derive(Clone, Debug)]
pub(super) struct Tags {
    folder: Utf8PathBuf,
}

/// Whose an object is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tag {
    stack: StackName,
    name: ResourceName,
    #[serde(rename = "type")]
    ty: ResourceType,
    id: ObjectId,
    /// Those of its properties that are needed without a plan at hand.
    pub(super) inputs: Map<String, Value>,
}

/// How an instance of a group was launched.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Launched {
    /// Its release.
    pub(super) release: Digest,
    /// Its place.
    pub(super) slot: Option<u32>,
    /// When, in milliseconds since the Unix epoch.
    pub(super) since: u64,
    /// The network that it is in.
    pub(super) network: String,
}

impl Tags {
    pub(super) fn new(cloud: &Utf8Path) -> Self {
        Self { folder: cloud.join("objects") }
    }

    fn file(&self, id: &ObjectId) -> Utf8PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    fn instances(&self, group: &ObjectId) -> Utf8PathBuf {
        self.folder.join(group.as_str())
    }

    /// Writes down whose an object is.
    pub(super) fn put(&self, object: &Object, inputs: &Map<String, Value>) -> io::Result<()> {
        let Object { stack, name, ty, id } = object.clone();
        let tag = Tag { stack, name, ty, id, inputs: inputs.clone() };
        write(&self.file(&object.id), &tag)
    }

    /// Whose an object is; none: it was never made, or is gone.
    pub(super) fn get(&self, id: &ObjectId) -> io::Result<Option<Tag>> {
        read(&self.file(id))
    }

    /// Forgets an object.
    pub(super) fn remove(&self, id: &ObjectId) -> io::Result<()> {
        match fs::remove_dir_all(self.instances(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        gone(fs::remove_file(self.file(id)))
    }

    /// Every object.
    pub(super) fn list(&self) -> io::Result<Vec<Object>> {
        let mut found = Vec::new();
        for file in names(&self.folder)? {
            let Some(id) = file.strip_suffix(".json").and_then(|id| id.parse().ok()) else { continue };
            if let Some(Tag { stack, name, ty, id, .. }) = self.get(&id)? {
                found.push(Object { stack, name, ty, id });
            }
        }
        Ok(found)
    }

    /// Writes down how an instance is about to be launched.
    pub(super) fn launch(
        &self,
        group: &ObjectId,
        instance: &InstanceId,
        launched: &Launched,
    ) -> io::Result<()> {
        write(&self.instances(group).join(format!("{instance}.json")), launched)
    }

    /// How an instance was launched.
    pub(super) fn launched(&self, group: &ObjectId, instance: &InstanceId) -> io::Result<Option<Launched>> {
        read(&self.instances(group).join(format!("{instance}.json")))
    }

    /// Forgets an instance.
    pub(super) fn terminated(&self, group: &ObjectId, instance: &InstanceId) -> io::Result<()> {
        gone(fs::remove_file(self.instances(group).join(format!("{instance}.json"))))
    }

    /// The instances of a group that were launched, or were about to be.
    pub(super) fn instances_of(&self, group: &ObjectId) -> io::Result<Vec<(InstanceId, Launched)>> {
        let mut found = Vec::new();
        for file in names(&self.instances(group))? {
            let Some(id) = file.strip_suffix(".json") else { continue };
            let id = InstanceId(id.to_owned());
            if let Some(launched) = self.launched(group, &id)? {
                found.push((id, launched));
            }
        }
        Ok(found)
    }
}

fn names(folder: &Utf8Path) -> io::Result<Vec<String>> {
    let entries = match folder.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = entries.map(|entry| Ok(entry?.file_name().to_owned())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read<T: DeserializeOwned>(file: &Utf8Path) -> io::Result<Option<T>> {
    match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("`{file}`: {error}"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a file whole.
fn write<T: Serialize>(file: &Utf8Path, value: &T) -> io::Result<()> {
    let folder = file.parent().expect("the file is in a folder of ours");
    fs::create_dir_all(folder)?;
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(&serde_json::to_vec_pretty(value)?)?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_instances_are_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let tags = Tags::new(Utf8Path::from_path(folder.path()).unwrap());
        let object = Object {
            stack: "applications.hello.QA".parse().unwrap(),
            name: "web/group".parse().unwrap(),
            ty: "local.instance_group".parse().unwrap(),
            id: "group-1".parse().unwrap(),
        };
        assert_eq!(tags.list().unwrap(), []);
        tags.put(&object, &Map::new()).unwrap();
        let launched =
            Launched { release: Digest::of(b"one"), slot: None, since: 7, network: "n".to_owned() };
        let instance = InstanceId("group-1-a-1".to_owned());
        tags.launch(&object.id, &instance, &launched).unwrap();
        assert_eq!(tags.list().unwrap(), std::slice::from_ref(&object));
        assert_eq!(tags.instances_of(&object.id).unwrap()[0].0, instance);
        tags.remove(&object.id).unwrap();
        tags.remove(&object.id).unwrap();
        assert_eq!(tags.list().unwrap(), []);
        assert!(tags.instances_of(&object.id).unwrap().is_empty());
    }
}
