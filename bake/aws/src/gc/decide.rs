//! Decides what can go: a function of what is there and of what is needed. Main function: [`decide`].

use std::collections::{BTreeMap, BTreeSet};

use olbake_core::Digest;
use olbake_core::time::Timestamp;
use olbake_engine::registry::places::{EC2, Place};
use serde::Serialize;

use super::{GcOptions, Kind};

/// What can go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Doomed {
    /// Where.
    pub region: String,
    /// What kind of thing it is.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// What it is, for people.
    pub name: String,
    /// The snapshots that go with it.
    pub snapshots: Vec<String>,
    /// The place in the registry that is forgotten first.
    pub place: Option<Place>,
    /// Why it can go.
    pub reason: String,
}

/// What stays although it looks like what can go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Where.
    pub region: String,
    /// Its id.
    pub id: String,
    /// What it is, for people.
    pub name: String,
    /// Why it stays.
    pub reason: String,
}

/// Everything that can go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GcPlan {
    /// In the order of removal.
    pub doomed: Vec<Doomed>,
    /// What stays.
    pub kept: Vec<Kept>,
}

impl GcPlan {
    pub(super) fn add(&mut self, other: Self) {
        self.doomed.extend(other.doomed);
        self.kept.extend(other.kept);
    }
}

/// An image, of olbake's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ImageRow {
    pub(super) id: String,
    pub(super) name: String,
    /// The version that its tag names.
    pub(super) version: Option<Digest>,
    pub(super) snapshots: Vec<String>,
    pub(super) created: Option<Timestamp>,
}

/// Something that a command made for itself, by its tag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leftover {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) created: Option<Timestamp>,
}

/// What is in a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inventory {
    pub(super) images: Vec<ImageRow>,
    /// Snapshots of olbake's.
    pub(super) snapshots: Vec<Leftover>,
    /// Machines that bakes and verifications started.
    pub(super) instances: Vec<Leftover>,
    /// Disks of theirs that no machine has.
    pub(super) volumes: Vec<Leftover>,
    /// Security groups of theirs. AWS knows no time for them.
    pub(super) groups: Vec<Leftover>,
    /// Every image that something starts from or runs, with what that is.
    pub(super) used: BTreeMap<String, String>,
    /// The snapshots of all images of the account.
    pub(super) of_images: BTreeSet<String>,
}

/// Says what can go of what is in a region.
pub(super) fn decide(region: &str, there: &Inventory, places: &[Place], options: &GcOptions) -> GcPlan {
    let mut plan = GcPlan::default();
    let doomed = |kind, id: &str, name: &str, reason: &str| Doomed {
        region: region.to_owned(),
        kind,
        id: id.to_owned(),
        name: name.to_owned(),
        snapshots: Vec::new(),
        place: None,
        reason: reason.to_owned(),
    };
    let kept = |id: &str, name: &str, reason: String| Kept {
        region: region.to_owned(),
        id: id.to_owned(),
        name: name.to_owned(),
        reason,
    };
    let young = |leftover: &Leftover| is_young(leftover.created, options);

    for instance in &there.instances {
        let Leftover { id, name, .. } = instance;
        match young(instance) {
            true => plan.kept.push(kept(id, name, "a bake may be at work on it".to_owned())),
            false => {
                plan.doomed.push(doomed(Kind::Instance, id, name, "the bake that started it is long over"))
            }
        }
    }
    let mut going: BTreeSet<&str> = BTreeSet::new();
    for image in &there.images {
        let place =
            places.iter().find(|place| place.kind == EC2 && place.region == region && place.id == image.id);
        match image_fate(image, place, there, options) {
            Ok(reason) => plan.kept.push(kept(&image.id, &image.name, reason)),
            Err(reason) => {
                going.extend(image.snapshots.iter().map(String::as_str));
                plan.doomed.push(Doomed {
                    snapshots: image.snapshots.clone(),
                    place: place.cloned(),
                    ..doomed(Kind::Image, &image.id, &image.name, &reason)
                });
            }
        }
    }
    for snapshot in &there.snapshots {
        let Leftover { id, name, .. } = snapshot;
        if there.of_images.contains(id) || going.contains(id.as_str()) {
            continue;
        }
        match young(snapshot) {
            true => plan.kept.push(kept(id, name, "a publish may go on with it".to_owned())),
            false => plan.doomed.push(doomed(Kind::Snapshot, id, name, "no image is made of it")),
        }
    }
    for (all, kind, reason) in [
        (&there.volumes, Kind::Volume, "no machine has it"),
        (&there.groups, Kind::SecurityGroup, "the bake that made it is over"),
    ] {
        for leftover in all.iter().filter(|leftover| kind == Kind::SecurityGroup || !young(leftover)) {
            // A group that belongs to a bake at work is in use, and AWS refuses to remove it.
            plan.doomed.push(doomed(kind, &leftover.id, &leftover.name, reason));
        }
    }
    plan
}

/// Why an image stays, or else why it can go.
fn image_fate(
    image: &ImageRow,
    place: Option<&Place>,
    there: &Inventory,
    options: &GcOptions,
) -> Result<String, String> {
    if let Some(user) = there.used.get(&image.id) {
        return Ok(format!("{user} uses it"));
    }
    match image.version {
        Some(version) => match options.needed.get(&version) {
            Some(reason) => Ok(reason.clone()),
            // Another registry may need it: accounts are shared.
            None if place.is_none() => Ok("this registry knows nothing of it".to_owned()),
            None => Err("its version is not kept".to_owned()),
        },
        None if is_young(image.created, options) => Ok("a bake may be at work on it".to_owned()),
        None => Err("the bake that made it is over, and no version is of it".to_owned()),
    }
}

/// Whether something is younger than leftovers are; what has no time counts as old.
fn is_young(created: Option<Timestamp>, options: &GcOptions) -> bool {
    created.is_some_and(|created| options.now.since(created) < options.younger.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops where its preparations fail")]

    use std::time::Duration;

    use olbake_engine::registry::places::PLACE_SCHEMA;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn version(seed: u8) -> Digest {
        Digest::of(&[seed])
    }

    fn image(seed: u8) -> ImageRow {
        ImageRow {
            id: format!("ami-{seed}"),
            name: format!("web {seed}"),
            version: Some(version(seed)),
            snapshots: vec![format!("snap-{seed}")],
            created: Some(Timestamp::from_seconds(1)),
        }
    }

    fn leftover(id: &str, age: u64) -> Leftover {
        let created = Some(Timestamp::from_seconds(NOW.seconds() - age));
        Leftover { id: id.to_owned(), name: "web".to_owned(), created }
    }

    fn options() -> GcOptions {
        GcOptions {
            regions: Vec::new(),
            needed: BTreeMap::from([(version(1), "QA points to it".to_owned())]),
            younger: Duration::from_secs(3600),
            now: NOW,
        }
    }

    fn ids(plan: &GcPlan) -> Vec<&str> {
        plan.doomed.iter().map(|doomed| doomed.id.as_str()).collect()
    }

    #[test]
    fn images_that_are_used_or_needed_stay_and_the_others_go_with_snapshot_and_place() {
        let there = Inventory {
            images: vec![image(1), image(2), image(3), image(4)],
            snapshots: (1..=3).map(|seed| leftover(&format!("snap-{seed}"), 9999)).collect(),
            used: BTreeMap::from([("ami-2".to_owned(), "the instance `i-1`".to_owned())]),
            of_images: (1..=4).map(|seed| format!("snap-{seed}")).collect(),
            ..Inventory::default()
        };
        let place = |region: &str| Place {
            schema: PLACE_SCHEMA,
            version: version(3),
            image: "web".parse().unwrap(),
            kind: EC2.to_owned(),
            region: region.to_owned(),
            owner: None,
            id: "ami-3".to_owned(),
            name: "web".to_owned(),
            snapshot: "snap-3".to_owned(),
            created: NOW,
        };
        let plan = decide("eu", &there, &[place("us"), place("eu")], &options());
        assert_eq!(ids(&plan), ["ami-3"]);
        assert_eq!(plan.doomed[0].snapshots, ["snap-3"]);
        assert_eq!(plan.doomed[0].place, Some(place("eu")));
        let reasons: Vec<&str> = plan.kept.iter().map(|kept| kept.reason.as_str()).collect();
        assert_eq!(
            reasons,
            ["QA points to it", "the instance `i-1` uses it", "this registry knows nothing of it"]
        );
    }

    #[test]
    fn what_killed_commands_left_goes_when_it_is_old() {
        let there = Inventory {
            images: vec![ImageRow { version: None, ..image(7) }],
            snapshots: vec![
                leftover("snap-old", 7200),
                leftover("snap-new", 60),
                leftover("snap-used", 7200),
            ],
            instances: vec![leftover("i-old", 7200), leftover("i-new", 60)],
            volumes: vec![leftover("vol-old", 7200), leftover("vol-new", 60)],
            groups: vec![leftover("sg-1", 60)],
            of_images: BTreeSet::from(["snap-used".to_owned()]),
            ..Inventory::default()
        };
        let plan = decide("eu", &there, &[], &options());
        assert_eq!(ids(&plan), ["i-old", "ami-7", "snap-old", "vol-old", "sg-1"]);
        let kept: Vec<&str> = plan.kept.iter().map(|kept| kept.id.as_str()).collect();
        assert_eq!(kept, ["i-new", "snap-new"]);
    }
}
