//! Ends of bakes and what is in the registry, as tables.

use std::time::SystemTime;

use olbake_core::promotion::{Channel, Revocation};
use olbake_core::report::Outcome;
use olbake_engine::event::{BakeResult, CheckResult, LayerOutcome, LayerResult};
use olbake_engine::registry::Version;
use olbake_engine::registry::places::Place;

use super::diagnostics::Drawing;
use super::human;
use super::style::Palette;
use super::table::Table;

/// `web` or `web/large`.
pub(crate) fn image_name(result: &BakeResult) -> String {
    match &result.variant {
        Some(variant) => format!("{}/{variant}", result.image),
        None => result.image.clone(),
    }
}

/// What was baked.
pub(crate) fn bakes(results: &[BakeResult], palette: Palette) -> String {
    let mut table = Table::new(["IMAGE", "VERSION", "LAYERS", "CHECKS", "TIME"]);
    for result in results {
        table.row([
            image_name(result),
            result.digest.short(),
            layers(&result.layers),
            checks(&result.checks),
            human::seconds(result.seconds),
        ]);
    }
    table.render(palette)
}

fn layers(layers: &[LayerResult]) -> String {
    let run = layers.iter().filter(|layer| layer.outcome == LayerOutcome::Run).count();
    match (run, layers.len() - run) {
        (0, cached) => format!("{cached} cached"),
        (run, 0) => format!("{run} run"),
        (run, cached) => format!("{run} run, {cached} cached"),
    }
}

/// `12 passed`, `1 failed, 11 passed`.
pub(crate) fn checks(checks: &[CheckResult]) -> String {
    let failed = checks.iter().filter(|check| check.outcome == Outcome::Failed).count();
    let skipped = checks.iter().filter(|check| check.outcome == Outcome::Skipped).count();
    let passed = checks.len() - failed - skipped;
    let parts: Vec<String> = [(failed, "failed"), (passed, "passed"), (skipped, "skipped")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// Each check with how it ended; failures with their reason below.
pub(crate) fn check_list(checks: &[CheckResult], drawing: &Drawing, palette: Palette) -> String {
    let mut text = String::new();
    for CheckResult { component, title, outcome, seconds, failure } in checks {
        let mark = match outcome {
            Outcome::Ok | Outcome::Changed => palette.good("passed"),
            Outcome::Skipped => "skipped".to_owned(),
            Outcome::Failed => palette.bad("failed"),
        };
        let title = human::mask(title);
        let took = palette.dim(human::seconds(*seconds));
        text.push_str(&format!("{mark}  {component}: {} ({took})\n", super::style::clean(&title)));
        if let Some(failure) = failure {
            text.push_str(&format!("        {}\n", super::style::clean(&failure.message)));
            if let Some(output) = failure.output.as_deref().filter(|output| !output.trim().is_empty()) {
                text.push_str(&drawing.output(output));
            }
        }
    }
    text
}

/// How long ago a record was made; the record's own text where it is no time.
pub(crate) fn created(text: &str, now: SystemTime) -> String {
    human::parse_rfc3339(text).map_or_else(|| text.to_owned(), |then| human::age(then, now))
}

/// How a version stands to others.
#[derive(Clone, Copy)]
pub(crate) struct Standing<'a> {
    /// What it starts from, nearest first.
    pub(crate) lineage: &'a [Version],
    /// The channels that point to it.
    pub(crate) channels: &'a [Channel],
    /// What forbids it.
    pub(crate) revocation: Option<&'a Revocation>,
    /// Where it can be started from.
    pub(crate) places: &'a [Place],
}

/// All that is known of a version.
pub(crate) fn version(
    version: &Version,
    standing: Standing<'_>,
    now: SystemTime,
    drawing: &Drawing,
    palette: Palette,
) -> String {
    let mut text = format!("{} {}\n", palette.bold(version.image_ref()), version.digest);
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<9} {value}\n"));
    line("baked", format!("{} ({})", created(&version.created, now), version.created));
    line("for", version.architecture.debian().to_owned());
    line("size", format!("{} on a disk of {}", human::size(version.data), human::size(version.size)));
    line("key", version.key.to_string());
    let Standing { lineage, channels, revocation, places } = standing;
    for parent in lineage {
        line("from", format!("{} {}", parent.image_ref(), parent.digest.short()));
    }
    if !channels.is_empty() {
        let names: Vec<&str> = channels.iter().map(Channel::as_str).collect();
        line("channels", names.join(", "));
    }
    if let Some(revocation) = revocation {
        line("revoked", super::promotion::forbidden(version, revocation));
    }
    for place in places {
        line(&place.kind, format!("{} in {}", place.id, place.region));
    }
    if !version.packages.is_empty() {
        line("packages", format!("{}, named by --json", version.packages.len()));
    }
    text.push('\n');
    let mut table = Table::new(["LAYER", "KEY", "OUTCOME", "TIME"]);
    for layer in &version.layers {
        let outcome = match layer.outcome {
            LayerOutcome::Cached => "cached",
            LayerOutcome::Run => "run",
        };
        let took = human::seconds(layer.seconds);
        table.row([layer.component.clone(), layer.key.short(), outcome.to_owned(), took]);
    }
    text.push_str(&table.render(palette));
    if !version.checks.is_empty() {
        text.push('\n');
        text.push_str(&check_list(&version.checks, drawing, palette));
    }
    text
}
