//! Keys: what a layer's result depends on, as one digest.
//!
//! A disk whose key is known need not be made again. So everything that decides the result must go in, and
//! nothing else:
//!
//! | key of | goes in | stays out, because |
//! |---|---|---|
//! | a base `debian(…)` | suite, packages, mirror, disk size, architecture | the state of the archive on a day: that is for the lock file |
//! | a base disk | the file's digest, architecture | the file's name: the bytes say all |
//! | an image of EC2 | owner, name, architecture | its id: every region has another for the same image |
//! | a base image | the key of its plan | its version: two bakes of one key are one image |
//! | a layer | the parent's key, [`PLAN_SCHEMA`], [`EPOCH`], architecture, component's name, whether it is booted, each operation's identity, order, conditions and action, hence the digests of its payloads; the version of each secret it uses | spans and titles: moving a line changes nothing; settings: only what they make of the operations counts; where payloads lie: their digest says all; times, paths of the checkout, who runs it |
//! | a sealed disk | the last layer's key, the steps of sealing | the checks: they change nothing on the disk |
//! | an image | its name and variant, the sealed disk's key, the checks | |
//!
//! [`EPOCH`] goes up when the agent or a builder begins to make something else of the same operations.

use serde::Serialize;

use crate::canonical;
use crate::digest::{Digest, FieldDigest};
use crate::names::{ImageRef, OperationId};
use crate::operation::{Action, Operation};
use crate::plan::{Architecture, Base, Checks, Layer, PLAN_SCHEMA};
use crate::secret::{Secret, SecretId};

/// The generation of what carries plans out; see above.
pub const EPOCH: u32 = 2;

/// The part of an operation that decides its result.
#[derive(Serialize)]
struct Essence<'a> {
    id: &'a OperationId,
    action: &'a Action,
    when_changed: &'a [OperationId],
    after: &'a [OperationId],
}

fn essences(operations: &[Operation]) -> String {
    let essences: Vec<Essence<'_>> = operations
        .iter()
        .map(|operation| {
            let Operation { id, phase: _, title: _, spans: _, action, when_changed, after } = operation;
            Essence { id, action, when_changed, after }
        })
        .collect();
    canonical::to_string(&essences)
}

fn start(purpose: &str, architecture: Architecture) -> FieldDigest {
    FieldDigest::new(purpose)
        .field("schema", &PLAN_SCHEMA.to_le_bytes())
        .field("epoch", &EPOCH.to_le_bytes())
        .field("architecture", architecture.debian().as_bytes())
}

/// The key of the disk that an image starts from.
pub fn base(architecture: Architecture, base: &Base) -> Digest {
    let key = start("olbake base", architecture);
    match base {
        Base::Debian { suite, packages, mirror, disk_size } => key
            .field("suite", suite.as_bytes())
            .field("packages", packages.join("\n").as_bytes())
            .field("mirror", mirror.as_deref().unwrap_or_default().as_bytes())
            .field("disk size", &disk_size.to_le_bytes()),
        Base::Image { image: _, key: parent } => key.field("image", parent.as_bytes()),
        Base::Disk { file: _, sha256 } => key.field("disk", sha256.as_bytes()),
        Base::Ami { owner, name } => key.field("owner", owner.as_bytes()).field("name", name.as_bytes()),
    }
    .finish()
}

/// The key of a layer on its parent. `secrets` looks up what the plan knows of a secret.
pub fn layer<'a>(
    parent: Digest,
    architecture: Architecture,
    layer: &Layer,
    secrets: impl Fn(&SecretId) -> Option<&'a Secret>,
) -> Digest {
    let Layer { component, source: _, settings: _, operations, booted, key: _ } = layer;
    let mut key = start("olbake layer", architecture)
        .field("parent", parent.as_bytes())
        .field("component", component.as_str().as_bytes())
        .field("booted", &[u8::from(booted.is_some())])
        .field("operations", essences(operations).as_bytes());
    for id in operations.iter().flat_map(|operation| operation.action.secrets()) {
        let version = secrets(id).and_then(|secret| secret.version);
        key = key.field(&id.0, version.as_ref().map_or(&[][..], |digest| digest.as_bytes()));
    }
    key.finish()
}

/// The key of a disk after sealing.
pub fn sealed(architecture: Architecture, last_layer: Digest, seal: &[Operation]) -> Digest {
    start("olbake sealed disk", architecture)
        .field("last layer", last_layer.as_bytes())
        .field("seal", essences(seal).as_bytes())
        .finish()
}

/// The key of an image. Images of other names may share disks; each is a version of its own.
pub fn image(
    architecture: Architecture,
    name: &ImageRef,
    sealed: Digest,
    checks: &[Checks],
    upgrade: &[Checks],
) -> Digest {
    let mut key = start("olbake image", architecture)
        .field("image", name.to_string().as_bytes())
        .field("disk", sealed.as_bytes());
    for Checks { component, operations } in checks {
        key = key.field(component.as_str(), essences(operations).as_bytes());
    }
    for Checks { component, operations } in upgrade {
        key = key.field("upgrade of", component.as_str().as_bytes());
        key = key.field("upgrade", essences(operations).as_bytes());
    }
    key.finish()
}
