//! `olbake images`: the images of the workspace and of the registry, with their last versions.

use std::collections::BTreeMap;

use olbake_core::promotion::ChannelRecord;
use olbake_core::{Digest, ImageRef};
use olbake_engine::registry::{Records, Version};
use olbake_lang::{Inputs, Workspace};
use serde::{Serialize, Serializer};

use super::Context;
use crate::args::Settings;
use crate::errors::Result;
use crate::ui::human;
use crate::ui::results::{checks, created};
use crate::ui::table::Table;

/// How an image's last version stands to its recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// A bake would do nothing.
    UpToDate,
    /// A bake would do something.
    Changed,
    /// There is no version yet.
    NotBaked,
    /// There is no recipe any more.
    NoRecipe,
    /// The recipe has mistakes, or a secret cannot be read.
    Unplanned,
}

impl State {
    fn text(self) -> &'static str {
        match self {
            Self::UpToDate => "up to date",
            Self::Changed => "changed",
            Self::NotBaked => "not baked",
            Self::NoRecipe => "no recipe",
            Self::Unplanned => "cannot be planned",
        }
    }
}

/// An image.
#[derive(Serialize)]
struct Image {
    image: ImageRef,
    state: State,
    #[serde(serialize_with = "with_digest")]
    version: Option<Version>,
    /// The last entry of each of its channels.
    channels: Vec<ChannelRecord>,
}

pub(super) fn run(context: &mut Context) -> Result {
    let place = context.place()?;
    let workspace = context.workspace(&place)?;
    let inputs = context.inputs(&place, &Settings::default())?;
    let registry = place.registry()?;
    let records = registry.records();
    let keys = keys(&workspace, &inputs);
    let mut names: Vec<ImageRef> = keys.keys().cloned().chain(records.images()?).collect();
    names.sort_unstable();
    names.dedup();
    let mut channels = records.channels()?;
    let order =
        |record: &ChannelRecord| place.config.channels.iter().position(|name| *name == record.channel);
    channels.sort_by_key(|record| order(record).unwrap_or(usize::MAX));
    let mut images = Vec::new();
    for image in names {
        images.push(look_up(records, image, &keys, &channels)?);
    }
    tell(context, &images);
    Ok(())
}

/// The key of each image of the workspace; none where it cannot be planned.
type Keys = BTreeMap<ImageRef, Option<Digest>>;

fn keys(workspace: &Workspace, inputs: &Inputs) -> Keys {
    let planned = workspace.plan_all(&workspace.images(), inputs);
    planned
        .into_iter()
        .map(|(image, planned)| (image, planned.ok().map(|planned| planned.plan.key)))
        .collect()
}

/// The version that a bake of now would give, or else the last one.
fn look_up(records: &Records, image: ImageRef, keys: &Keys, channels: &[ChannelRecord]) -> Result<Image> {
    let current = match keys.get(&image) {
        Some(Some(key)) => records.by_key(key)?,
        _ => None,
    };
    let last = if current.is_none() { records.head(&image)? } else { None };
    let state = match (keys.get(&image), &current, &last) {
        (None, ..) => State::NoRecipe,
        (Some(None), ..) => State::Unplanned,
        (Some(Some(_)), Some(_), _) => State::UpToDate,
        (Some(Some(_)), None, Some(_)) => State::Changed,
        (Some(Some(_)), None, None) => State::NotBaked,
    };
    let channels = channels.iter().filter(|record| record.image == image).cloned().collect();
    Ok(Image { image, state, version: current.or(last), channels })
}

fn tell(context: &Context, images: &[Image]) {
    let Context { ui, startup, .. } = context;
    if ui.json {
        return ui.document(&images);
    }
    let mut table = Table::new(["IMAGE", "VERSION", "BAKED", "SIZE", "CHECKS", "CHANNELS", "STATE"]);
    for Image { image, state, version, channels } in images {
        let channels = crate::ui::promotion::channels(image, version.as_ref(), channels);
        let nothing = || ["-", "-", "-", "-"].map(str::to_owned);
        let [digest, baked, size, passed] = version.as_ref().map_or_else(nothing, |version| {
            let baked = created(&version.created, startup.now);
            [version.digest.short(), baked, human::size(version.data), checks(&version.checks)]
        });
        table.row([image.to_string(), digest, baked, size, passed, channels, state.text().to_owned()]);
    }
    ui.print(&table.render(ui.out));
}

/// A version with its digest, which its record does not hold.
fn with_digest<S: Serializer>(
    version: &Option<Version>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    version.as_ref().map(Version::to_value).serialize(serializer)
}
