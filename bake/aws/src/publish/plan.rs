//! What publishing does, and what that costs. Main type: [`PublishPlan`].

use olbake_core::blockmap::{BLOCK_SIZE, BlockMap};
use olbake_core::plan::Architecture;
use olbake_core::{Digest, ImageRef};
use olbake_engine::registry::places::Place;
use serde::{Deserialize, Serialize};

use crate::ebs::put::Wanted;

/// Dollars for a thousand blocks put, as AWS lists it for us-east-1.
const DOLLARS_PER_THOUSAND: f64 = 0.006;
/// Blocks a second that a snapshot takes: a tenth of a second each, a hundred at once.
const BLOCKS_PER_SECOND: f64 = 1000.0;
/// Seconds that AWS takes to complete a snapshot and to register its image, about.
const AFTERWARDS: f64 = 15.0;
const GIB: u64 = 1 << 30;

/// A snapshot that another starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// `snap-…`.
    pub snapshot: String,
    /// The version that it is of.
    pub version: Digest,
    /// The digest of that version's block map.
    pub map: Digest,
}

/// What is done in a region.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Course {
    /// Nothing: it is there. Sharing and deprecation are said again.
    NotNeeded {
        /// Where.
        place: Place,
    },
    /// An image of the version is there, and is written down.
    Adopt {
        /// The image.
        image: String,
    },
    /// Blocks are put into a snapshot.
    Upload {
        /// What it starts from.
        parent: Option<Parent>,
        /// What makes starting it one call.
        token: String,
        /// How many blocks are put.
        blocks: u64,
        /// The snapshot of a run that was killed, which is gone on with.
        resumes: Option<String>,
    },
    /// AWS copies the image of another region.
    Copy {
        /// That region.
        from: String,
        /// What makes it one call.
        token: String,
    },
}

/// What is done in a region, and what for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegionPlan {
    /// The region.
    pub region: String,
    /// The image's name there.
    pub name: String,
    /// What is done.
    pub course: Course,
    /// A place in the registry whose image is gone, and which is forgotten first.
    pub stale: Option<Place>,
    /// Bytes that go there.
    pub bytes: u64,
    /// About what AWS asks for it, by the list price of us-east-1.
    pub dollars: f64,
    /// About how long it takes.
    pub seconds: f64,
}

/// What publishing does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PublishPlan {
    /// The image.
    pub image: ImageRef,
    /// The version.
    pub version: Digest,
    /// Its architecture.
    pub architecture: Architecture,
    /// GiB of the volume.
    pub size: u64,
    /// Blocks of the version that are no holes.
    pub data_blocks: u64,
    /// Each region.
    pub regions: Vec<RegionPlan>,
}

impl PublishPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.regions.iter().all(|region| matches!(region.course, Course::NotNeeded { .. }))
    }
}

impl RegionPlan {
    pub(super) fn new(region: &str, name: String, course: Course, stale: Option<Place>) -> Self {
        let blocks = match course {
            Course::Upload { blocks, .. } => blocks,
            _ => 0,
        };
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let count = blocks as f64;
        let seconds = match course {
            Course::NotNeeded { .. } => 0.0,
            Course::Adopt { .. } => 1.0,
            Course::Upload { .. } => count / BLOCKS_PER_SECOND + AFTERWARDS,
            // Copies take some minutes, whatever is in them.
            Course::Copy { .. } => 300.0,
        };
        Self {
            region: region.to_owned(),
            name,
            course,
            stale,
            bytes: blocks * BLOCK_SIZE,
            dollars: count * DOLLARS_PER_THOUSAND / 1000.0,
            seconds,
        }
    }
}

/// GiB of a volume that holds a disk.
pub(super) fn volume_size(map: &BlockMap) -> u64 {
    map.size.div_ceil(GIB).max(1)
}

/// The blocks to put into a snapshot that starts from `parent`, in order: what is new or changed, and zeros where only
/// the parent has data.
pub(crate) fn wanted(map: &BlockMap, parent: Option<&BlockMap>) -> Vec<Wanted> {
    match parent {
        None => map.blocks.iter().map(|(number, digest)| (*number, Some(*digest))).collect(),
        Some(parent) => map
            .changed_since(parent)
            .into_iter()
            .map(|number| (number, map.blocks.get(&number).copied()))
            .collect(),
    }
}

/// Which of these snapshots, with the maps of their versions, leaves the fewest blocks to put; none where none leaves
/// fewer than there are. Of equal ones the first.
pub(super) fn nearest<'a>(
    map: &BlockMap,
    candidates: impl Iterator<Item = (&'a Parent, &'a BlockMap)>,
) -> Option<(&'a Parent, u64)> {
    candidates
        // A snapshot is no smaller than what it starts from.
        .filter(|(_, parent)| volume_size(parent) <= volume_size(map))
        .map(|(parent, of)| (parent, map.changed_since(of).len() as u64))
        .filter(|(_, blocks)| *blocks < map.blocks.len() as u64)
        .min_by_key(|(_, blocks)| *blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(blocks: &[(u32, u8)], size: u64) -> BlockMap {
        BlockMap { size, blocks: blocks.iter().map(|(n, seed)| (*n, Digest::of(&[*seed]))).collect() }
    }

    fn parent(name: &str) -> Parent {
        let digest = Digest::of(name.as_bytes());
        Parent { snapshot: name.to_owned(), version: digest, map: digest }
    }

    #[test]
    fn what_only_the_parent_has_is_put_as_zeros() {
        let (old, new) = (map(&[(0, 1), (1, 2), (5, 3)], GIB), map(&[(0, 1), (1, 9), (2, 4)], GIB));
        let digest = |seed: u8| Some(Digest::of(&[seed]));
        assert_eq!(wanted(&new, Some(&old)), [(1, digest(9)), (2, digest(4)), (5, None)]);
        assert_eq!(wanted(&new, None), [(0, digest(1)), (1, digest(9)), (2, digest(4))]);
        assert_eq!(wanted(&new, Some(&new)), []);
    }

    #[test]
    fn the_nearest_parent_is_the_one_with_the_fewest_blocks_to_put() {
        let new = map(&[(0, 1), (1, 2), (2, 3), (3, 4)], GIB);
        let far = map(&[(0, 9), (1, 2), (2, 9), (3, 9)], GIB);
        let near = map(&[(0, 1), (1, 2), (2, 3)], GIB);
        let larger = map(&[(0, 1), (1, 2), (2, 3), (3, 4)], 2 * GIB);
        let other = map(&[(0, 9), (1, 9), (2, 9), (3, 9), (4, 9)], GIB);
        let names = ["far", "near", "larger", "other"].map(parent);
        let all = names.iter().zip([&far, &near, &larger, &other]);
        assert_eq!(nearest(&new, all), Some((&names[1], 1)));
        assert_eq!(nearest(&new, [(&names[3], &other)].into_iter()), None, "all would be put anyway");
    }

    #[test]
    fn a_plan_says_what_it_costs() {
        let course = Course::Upload { parent: None, token: "t".into(), blocks: 2000, resumes: None };
        let plan = RegionPlan::new("eu-west-1", "name".into(), course, None);
        assert_eq!((plan.bytes, plan.seconds), (2000 * BLOCK_SIZE, 2.0 + AFTERWARDS));
        assert!((plan.dollars - 0.012).abs() < 1e-9, "{}", plan.dollars);
    }
}
