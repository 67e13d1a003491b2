//! `olbake images`: the images of the workspace and of the registry, with their last versions.

use std::collections::BTreeMap;

use olbake_core::{Digest, ImageRef};
use serde::Serialize;

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
    version: Option<serde_json::Value>,
}

pub(super) fn run(context: &mut Context) -> Result {
    let place = context.place()?;
    let workspace = context.workspace(&place)?;
    let registry = place.registry()?;
    let inputs = context.inputs(&place, &Settings::default())?;
    let records = registry.records();
    let mut keys: BTreeMap<ImageRef, Option<Digest>> = BTreeMap::new();
    for image in workspace.images() {
        let key = workspace.plan(&image, &inputs).ok().map(|planned| planned.plan.key);
        keys.insert(image, key);
    }
    let mut names: Vec<ImageRef> = keys.keys().cloned().chain(records.images()?).collect();
    names.sort_unstable();
    names.dedup();
    let mut table = Table::new(["IMAGE", "VERSION", "BAKED", "SIZE", "CHECKS", "STATE"]);
    let mut images = Vec::new();
    for image in names {
        let known = match keys.get(&image) {
            Some(Some(key)) => records.by_key(key)?,
            _ => None,
        };
        let up_to_date = known.is_some();
        let version = match known {
            Some(version) => Some(version),
            None => records.head(&image)?,
        };
        let state = match (keys.get(&image), &version) {
            (None, _) => State::NoRecipe,
            (Some(None), _) => State::Unplanned,
            (Some(Some(_)), None) => State::NotBaked,
            (Some(Some(_)), Some(_)) if up_to_date => State::UpToDate,
            (Some(Some(_)), Some(_)) => State::Changed,
        };
        let nothing = || ["-".to_owned(), "-".to_owned(), "-".to_owned(), "-".to_owned()];
        let [digest, baked, size, passed] = version.as_ref().map_or_else(nothing, |version| {
            let baked = created(&version.created, context.startup.now);
            [version.digest.short(), baked, human::size(version.data), checks(&version.checks)]
        });
        table.row([image.to_string(), digest, baked, size, passed, state.text().to_owned()]);
        images.push(Image { image, state, version: version.map(|version| version.to_value()) });
    }
    if context.ui.json {
        context.ui.document(&images);
    } else {
        context.ui.print(&table.render(context.ui.out));
    }
    Ok(())
}
