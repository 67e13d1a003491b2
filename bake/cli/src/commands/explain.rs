//! `olbake explain IMAGE COMPONENT.SETTING`: where a setting's value comes from.

use std::collections::BTreeMap;

use olbake_core::diagnostic::Diagnostics;
use olbake_core::plan::{Base, Plan, Setting};
use olbake_core::settings::did_you_mean;
use olbake_core::{ComponentName, ImageRef};
use olbake_lang::{Inputs, Workspace};
use serde_json::json;

use super::Context;
use crate::args::ExplainArgs;
use crate::errors::{CliError, Result};
use crate::ui::explain;

pub(super) fn run(args: &ExplainArgs, context: &mut Context) -> Result {
    let place = context.place()?;
    let workspace = context.workspace(&place)?;
    let image = context.image(&workspace, Some(&args.image))?;
    let inputs = context.offline(&place, &args.settings)?;
    let (component, setting) = match args.setting.split_once('.') {
        Some((component, setting)) => (component, Some(setting)),
        None => (args.setting.as_str(), None),
    };
    let layers = layers(&workspace, &inputs, image, context)?;
    let layer = layers.iter().find(|layer| layer.component.as_str() == component).ok_or_else(|| {
        let error = CliError::user(format!("`{}` has no component `{component}`", args.image));
        help(error, component, layers.iter().map(|layer| layer.component.as_str()))
    })?;
    for (name, setting) in chosen(layer, setting)? {
        tell(args, layer, name, setting, context);
    }
    Ok(())
}

/// The settings of a component.
struct Layer {
    component: ComponentName,
    settings: BTreeMap<String, Setting>,
}

/// The layers of an image and of those it starts from. Where it cannot be planned, what the values are is known all the
/// same, and why it cannot be is said besides.
fn layers(workspace: &Workspace, inputs: &Inputs, image: ImageRef, context: &Context) -> Result<Vec<Layer>> {
    let layer = |(component, settings)| Layer { component, settings };
    match lineage(workspace, inputs, image.clone()) {
        Ok(plans) => {
            let layers = plans.into_iter().flat_map(|plan| plan.layers);
            Ok(layers.map(|planned| layer((planned.component, planned.settings))).collect())
        }
        Err(problems) => {
            let explained = workspace.settings(&image, inputs)?;
            context.ui.diagnostics(&problems);
            Ok(explained.layers.into_iter().map(layer).collect())
        }
    }
}

/// The plan of an image and of those it starts from.
fn lineage(
    workspace: &Workspace,
    inputs: &Inputs,
    image: ImageRef,
) -> std::result::Result<Vec<Plan>, Diagnostics> {
    let mut plans = Vec::new();
    let mut next = Some(image);
    while let Some(image) = next {
        let plan = workspace.plan(&image, inputs)?.plan;
        next = match &plan.base {
            Base::Image { image, .. } => Some(image.clone()),
            _ => None,
        };
        plans.push(plan);
    }
    Ok(plans)
}

/// One setting of a layer, or all.
fn chosen<'a>(layer: &'a Layer, name: Option<&str>) -> Result<Vec<(&'a str, &'a Setting)>> {
    let all = layer.settings.iter().map(|(name, setting)| (name.as_str(), setting));
    let Some(name) = name else { return Ok(all.collect()) };
    let found: Vec<_> = all.filter(|(known, _)| *known == name).collect();
    if found.is_empty() {
        let error = CliError::user(format!("component `{}` has no setting `{name}`", layer.component));
        return Err(help(error, name, layer.settings.keys().map(String::as_str)));
    }
    Ok(found)
}

fn help<'a>(error: CliError, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> CliError {
    match did_you_mean(name, known) {
        Some(help) => error.help(help),
        None => error,
    }
}

fn tell(args: &ExplainArgs, layer: &Layer, name: &str, setting: &Setting, context: &Context) {
    let Context { ui, .. } = context;
    if !ui.json {
        return ui.print(&explain::text(&format!("{}.{name}", layer.component), setting, ui.out));
    }
    let provenance: Vec<_> = setting
        .provenance
        .iter()
        .map(|from| {
            let mut from = from.clone();
            from.value = explain::masked(&from.value);
            from
        })
        .collect();
    ui.line(&json!({
        "image": args.image,
        "component": layer.component,
        "setting": name,
        "value": explain::masked(&setting.value),
        "provenance": provenance,
    }));
}
