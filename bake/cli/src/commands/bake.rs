//! `olbake bake IMAGE…`: images made, verified and registered; those they start from first.

use std::num::NonZero;
use std::sync::Arc;

use olbake_core::diagnostic::Diagnostics;
use olbake_core::promotion::{Channel, Why};
use olbake_core::{Digest, ImageRef};
use olbake_engine::bake::{BakeError, ImageEnd, OnFailure as EngineOnFailure, PlannedImage};
use olbake_engine::event::{BakeResult, Event};
use olbake_engine::machine::Substrate;
use olbake_engine::registry::Registry;
use olbake_lang::{Inputs, Planned, Workspace};

use super::Context;
use super::ec2;
use super::machines::{self, Wants};
use super::place::Place;
use super::promotion::Desk;
use crate::args::{BakeArgs, BakeOn, OnFailure, Verify};
use crate::errors::{CliError, Result};
use crate::interrupt;
use crate::ui::results;

pub(super) fn run(args: &BakeArgs, context: &mut Context) -> Result {
    if context.ui.json && args.on_failure == OnFailure::Shell {
        return Err(CliError::user("`--on-failure shell` needs a person, `--json` a script"));
    }
    let place = context.place()?;
    let workspace = context.workspace(&place)?;
    let images = chosen(args, context, &workspace)?;
    let inputs = context.inputs(&place, &args.settings)?;
    let channel = args.channel.as_ref().map(|name| place.config.channel(name)).transpose()?;
    let planned = plans(context, &workspace, &inputs, images.clone())?;
    let secrets = place.secrets(&context.startup);
    context.ui.hide(secrets.redactor(planned.iter().map(|image| &*image.plan))?);
    if args.on == BakeOn::Ec2 {
        let ends = ec2::bake(args, context, &place, planned)?;
        return promoted(context, channel.as_ref(), &images, ends);
    }
    if args.region.is_some() || args.resume {
        return Err(CliError::user("`--region` and `--resume` are for `--on ec2`"));
    }
    let wants = wants(args);
    if !all_known(&place.registry()?, &planned)? {
        machines::preflight(context, &substrates(wants.substrate))?;
    }
    let ends = machines::block_on(bake(context, &place, wants, planned))?;
    let ends = ends.into_iter().map(|(image, end)| (image, end.map_err(CliError::from))).collect();
    promoted(context, channel.as_ref(), &images, ends)
}

/// How each image ended.
pub(super) type End = (ImageRef, Result<BakeResult>);

/// Tells how images ended, and moves the channel to those that were asked for.
fn promoted(context: &mut Context, channel: Option<&Channel>, images: &[ImageRef], ends: Vec<End>) -> Result {
    let asked: Vec<(ImageRef, Digest)> = ends
        .iter()
        .filter(|(image, _)| images.contains(image))
        .filter_map(|(image, end)| Some((image.clone(), end.as_ref().ok()?.digest)))
        .collect();
    let told = tell(context, ends);
    let Some(channel) = channel else { return told };
    match (promote(context, channel, &asked), told) {
        (promoted, Ok(())) => promoted,
        (Ok(()), told) => told,
        (Err(error), told) => {
            context.ui.error(&error);
            told
        }
    }
}

/// Promotes what was asked for and baked; what it starts from only came along.
fn promote(context: &mut Context, channel: &Channel, baked: &[(ImageRef, Digest)]) -> Result {
    let desk = Desk::open(context)?;
    for (image, digest) in baked {
        let version = desk.records().resolve(&format!("{image}@{digest}"))?;
        let promotions = desk.promotions(&context.startup);
        let moved = promotions.promote(&version, channel, Why::Baked, None).map_err(CliError::from)?;
        crate::ui::promotion::moved(&context.ui, "promote", &moved, &[]);
        desk.tell_readers(moved.record())?;
    }
    Ok(())
}

fn chosen(args: &BakeArgs, context: &Context, workspace: &Workspace) -> Result<Vec<ImageRef>> {
    if args.all {
        return Ok(workspace.images());
    }
    if args.images.is_empty() {
        return context.image(workspace, None).map(|image| vec![image]);
    }
    args.images.iter().map(|image| context.image(workspace, Some(image))).collect()
}

/// The plans of images and of what they start from, bases first, each once. All mistakes come together.
pub(super) fn plans(
    context: &Context,
    workspace: &Workspace,
    inputs: &Inputs,
    images: Vec<ImageRef>,
) -> Result<Vec<PlannedImage>> {
    let mut order = Vec::new();
    for image in images {
        with_bases(workspace, image, &mut order)?;
    }
    let (mut found, mut problems) = (Vec::new(), Diagnostics::default());
    for (_, planned) in workspace.plan_all(&order, inputs) {
        match planned {
            Ok(Planned { plan, inline, warnings }) => {
                found.push(PlannedImage { plan: Arc::new(plan), inline });
                merge(&mut problems, warnings);
            }
            Err(errors) => merge(&mut problems, errors),
        }
    }
    if problems.has_errors() {
        return Err(problems.into());
    }
    context.ui.diagnostics(&problems);
    Ok(found)
}

fn with_bases(workspace: &Workspace, image: ImageRef, order: &mut Vec<ImageRef>) -> Result {
    if order.contains(&image) {
        return Ok(());
    }
    // A circle of images is for planning to report: it is entered once here.
    let mut below = vec![image];
    while let Some(base) = workspace.base_of(&below[below.len() - 1])? {
        if order.contains(&base) || below.contains(&base) {
            break;
        }
        below.push(base);
    }
    order.extend(below.into_iter().rev());
    Ok(())
}

/// Adds what is not there yet: images share components, and so mistakes.
fn merge(all: &mut Diagnostics, new: Diagnostics) {
    for diagnostic in new.0 {
        if !all.0.contains(&diagnostic) {
            all.push(diagnostic);
        }
    }
}

fn wants(args: &BakeArgs) -> Wants {
    Wants {
        substrate: machines::substrate(args.verify == Verify::Vm),
        on_failure: match args.on_failure {
            OnFailure::Cleanup => EngineOnFailure::Cleanup,
            OnFailure::Keep => EngineOnFailure::Keep,
            OnFailure::Shell => EngineOnFailure::Shell,
        },
        jobs: args.jobs.map_or_else(processors, usize::from),
        wait: !args.no_wait,
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The kinds of machines that a bake starts.
fn substrates(verify: Substrate) -> Vec<Substrate> {
    match verify {
        Substrate::Container => vec![Substrate::Container],
        Substrate::Vm => vec![Substrate::Container, Substrate::Vm],
    }
}

/// Whether there is nothing to do, for which no machine is needed.
fn all_known(registry: &Registry, planned: &[PlannedImage]) -> Result<bool> {
    for image in planned {
        if registry.records().by_key(&image.plan.key)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn bake(
    context: &Context,
    place: &Place,
    wants: Wants,
    planned: Vec<PlannedImage>,
) -> Result<Vec<ImageEnd>> {
    let reporter = context.ui.reporter("bake");
    let cancel = interrupt::listen(interrupt::as_note(reporter.sink()))?;
    let bake = machines::bake(context, place, wants, reporter.sink(), cancel);
    let ends = match bake {
        Ok(bake) => {
            let ends = bake.run(planned).await;
            // Nothing of this command uses a disk any more.
            bake.cache.trim().map(|_| ends).map_err(CliError::from)
        }
        Err(error) => Err(error),
    };
    reporter.finish();
    ends
}

/// Results first, then errors; the last error is the command's.
fn tell(context: &Context, ends: Vec<End>) -> Result {
    let (mut results, mut errors): (Vec<BakeResult>, Vec<CliError>) = (Vec::new(), Vec::new());
    for (image, end) in ends {
        match end {
            Ok(result) => results.push(result),
            Err(error) => {
                let follows = matches!(error.error.downcast_ref::<BakeError>(), Some(BakeError::Base { .. }));
                let error = error.about(image);
                // What only follows from another error comes first, so that the cause is the last word.
                errors.insert(if follows { 0 } else { errors.len() }, error);
            }
        }
    }
    if context.ui.json {
        for result in results {
            context.ui.line(&Event::Result(Box::new(result)));
        }
    } else if !results.is_empty() {
        context.ui.print(&results::bakes(&results, context.ui.out));
    }
    let last = errors.pop();
    for error in &errors {
        context.ui.error(error);
    }
    last.map_or(Ok(()), Err)
}
