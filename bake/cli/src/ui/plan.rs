//! A plan as people read it: base, components with their operations by phase, seal, checks.

use olbake_core::operation::{Operation, Phase};
use olbake_core::plan::Plan;

use super::human::{mask, plural};
use super::style::{Palette, clean};

/// The listing.
pub(crate) fn text(plan: &Plan, palette: Palette) -> String {
    let operations: usize = plan.layers.iter().map(|layer| layer.operations.len()).sum();
    let mut text = format!(
        "{}  {}  {}, {}, {}\n",
        palette.bold(&plan.image),
        plan.key.short(),
        plan.architecture.debian(),
        plural(plan.layers.len(), "component"),
        plural(operations, "operation"),
    );
    text.push_str(&format!("base: {}\n", super::why::base(&plan.base)));
    for layer in &plan.layers {
        let booted = layer.booted.as_ref().map(|why| format!("  booted: {}", clean(why))).unwrap_or_default();
        text.push_str(&format!(
            "\n{}  {}{booted}\n",
            palette.bold(&layer.component),
            palette.dim(layer.key.short())
        ));
        push_operations(&mut text, &layer.operations, palette);
    }
    if !plan.seal.is_empty() {
        text.push_str(&format!("\n{}\n", palette.bold("seal")));
        for operation in &plan.seal {
            text.push_str(&format!("  {}\n", title(operation)));
        }
    }
    if !plan.checks.is_empty() {
        text.push_str(&format!("\n{}\n", palette.bold("checks on a fresh boot")));
        for checks in &plan.checks {
            for operation in &checks.operations {
                text.push_str(&format!("  {}: {}\n", checks.component, title(operation)));
            }
        }
    }
    text
}

fn push_operations(text: &mut String, operations: &[Operation], palette: Palette) {
    let mut phase: Option<Phase> = None;
    for operation in operations {
        if phase != Some(operation.phase) {
            phase = Some(operation.phase);
            text.push_str(&format!("  {}\n", operation.phase));
        }
        let place =
            operation.spans.first().map(|span| format!("  {}:{}", span.file, span.line)).unwrap_or_default();
        text.push_str(&format!("    {}{}\n", title(operation), palette.dim(place)));
    }
}

fn title(operation: &Operation) -> String {
    clean(&mask(&operation.title)).into_owned()
}
