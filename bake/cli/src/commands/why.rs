//! `olbake why IMAGE`: what changed since the last version.

use olbake_core::ImageRef;
use olbake_core::plan::Base;
use olbake_core::why::{Reason, why};
use olbake_engine::registry::Registry;
use olbake_lang::{Inputs, Workspace};
use serde::Serialize;

use super::Context;
use crate::args::WhyArgs;
use crate::errors::Result;
use crate::ui;

/// The reasons for an image and, where its base is another, for that.
#[derive(Serialize)]
struct Answer {
    image: ImageRef,
    /// The version that the plan of now is compared with.
    version: Option<olbake_core::Digest>,
    reasons: Vec<Reason>,
    base: Option<Box<Answer>>,
}

pub(super) fn run(args: &WhyArgs, context: &mut Context) -> Result {
    let place = context.place()?;
    let workspace = context.workspace(&place)?;
    let image = context.image(&workspace, args.image.as_ref())?;
    let inputs = context.inputs(&place, &args.settings)?;
    let registry = place.registry()?;
    let answer = answer(&workspace, &registry, &inputs, &image)?;
    if context.ui.json {
        context.ui.document(&answer);
        return Ok(());
    }
    let mut next = Some(&answer);
    while let Some(Answer { image, reasons, base, .. }) = next {
        context.ui.print(&ui::why::text(&image.to_string(), reasons, context.ui.out));
        next = base.as_deref();
    }
    Ok(())
}

fn answer(workspace: &Workspace, registry: &Registry, inputs: &Inputs, image: &ImageRef) -> Result<Answer> {
    let new = workspace.plan(image, inputs)?.plan;
    let records = registry.records();
    // A version of this very plan counts, even where a newer one of another plan followed.
    let version = match records.by_key(&new.key)? {
        Some(version) => Some(version),
        None => records.head(image)?,
    };
    let old = match &version {
        Some(version) => records.plan(&version.plan)?,
        None => None,
    };
    let reasons = why(old.as_ref(), &new);
    let base = match &new.base {
        Base::Image { image: base, .. }
            if reasons.iter().any(|r| matches!(r, Reason::BaseChanged { .. })) =>
        {
            Some(Box::new(answer(workspace, registry, inputs, base)?))
        }
        _ => None,
    };
    Ok(Answer { image: image.clone(), version: version.map(|version| version.digest), reasons, base })
}
