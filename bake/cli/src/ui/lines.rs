//! What a log line says of an event; most events are no line. The same lines stand above the bars on a terminal
//! and make up the whole talk elsewhere.

use std::collections::BTreeMap;

use olbake_core::report::Outcome;
use olbake_engine::event::{Event, LayerOutcome, Stage};

use super::diagnostics::Drawing;
use super::human::{plural, seconds};
use super::style::{Palette, clean};

/// The line, or block of lines, of something that is over; no line end at its end.
pub(crate) fn ended(event: &Event, drawing: &Drawing) -> Option<String> {
    let palette = drawing.palette;
    let line = match event {
        Event::ImageStarted { image, key, components } => {
            let names: Vec<&str> = components.iter().map(|component| component.as_str()).collect();
            let names = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
            format!("{}: baking {}{names}", palette.bold(image), key.short())
        }
        Event::StageFinished { image, stage, seconds: took } => {
            let took = palette.dim(seconds(*took));
            format!("{}: {} ({took})", palette.bold(image), stage_ended(*stage)?)
        }
        Event::LayerFinished { image, component, outcome: LayerOutcome::Cached, .. } => {
            format!("{}: {component} ({})", palette.bold(image), known(palette))
        }
        Event::LayerFinished { image, component, operations, seconds: took, .. } => {
            let took =
                if *took > 0.0 { format!(" ({})", palette.dim(seconds(*took))) } else { String::new() };
            format!("{}: {component}: {}{took}", palette.bold(image), counts(operations, palette))
        }
        Event::OperationFinished {
            title, span, outcome: Outcome::Failed, failure: Some(failure), ..
        } => drawing.failure(title, span.as_ref(), failure).trim_end().to_owned(),
        Event::Note { image, message } => {
            let image = image.as_ref().map(|image| format!("{}: ", palette.bold(image))).unwrap_or_default();
            format!("{image}{} {}", palette.hint("note:"), clean(message))
        }
        Event::Stack(event) => super::stack::ended(event, palette)?,
        _ => return None,
    };
    Some(line)
}

/// The line of something that begins, for where no bar says so.
pub(crate) fn began(event: &Event, palette: Palette) -> Option<String> {
    match event {
        Event::StageStarted { image, stage } => {
            let stage = stage_begins(*stage)?;
            Some(format!("{}: {stage}", palette.bold(image)))
        }
        Event::LayerStarted { image, component, operations } => {
            Some(format!("{}: {component}: {}", palette.bold(image), plural(*operations, "operation")))
        }
        _ => None,
    }
}

fn known(palette: Palette) -> String {
    palette.good("cached")
}

/// What goes on in a stage, for a bar.
pub(crate) fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Base => "base",
        Stage::Checkpoint => "keeping the disk",
        Stage::Seal => "sealing",
        Stage::Verify => "verifying on a fresh boot, searching for leaks",
        Stage::Apply => "applying",
        Stage::Register => "registering",
    }
}

fn stage_begins(which: Stage) -> Option<&'static str> {
    match which {
        Stage::Base => Some("making the base disk"),
        Stage::Verify => Some(stage(which)),
        // Short, and told when they end.
        Stage::Checkpoint | Stage::Seal | Stage::Register | Stage::Apply => None,
    }
}

fn stage_ended(stage: Stage) -> Option<&'static str> {
    match stage {
        Stage::Base => Some("base disk ready"),
        // Nothing that anyone waits for.
        Stage::Checkpoint | Stage::Apply => None,
        Stage::Seal => Some("sealed"),
        Stage::Verify => Some("verified on a fresh boot, no leaks found"),
        Stage::Register => Some("registered"),
    }
}

/// `9 changed, 3 ok`, worst first.
fn counts(operations: &BTreeMap<String, usize>, palette: Palette) -> String {
    const ORDER: [&str; 4] = ["failed", "changed", "ok", "skipped"];
    let place = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    let mut counts: Vec<(&String, &usize)> = operations.iter().filter(|(_, count)| **count > 0).collect();
    counts.sort_by_key(|(name, _)| place(name));
    let parts: Vec<String> = counts
        .into_iter()
        .map(|(name, count)| {
            let text = format!("{count} {name}");
            if name == "failed" { palette.bad(text) } else { text }
        })
        .collect();
    if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(event: &Event, expect: Option<&str>) {
        let drawing = Drawing { palette: Palette { enabled: false }, width: 80, root: None };
        assert_eq!(ended(event, &drawing).as_deref(), expect);
    }

    #[test]
    fn lines() {
        let image: olbake_core::ImageRef = "web/large".parse().unwrap();
        let key = olbake_core::Digest::of(b"");
        let component: olbake_core::ComponentName = "caddy".parse().unwrap();
        check(
            &Event::ImageStarted { image: image.clone(), key, components: vec![component.clone()] },
            Some("web/large: baking e3b0c44298fc: caddy"),
        );
        let layer = |outcome, operations: &[(&str, usize)]| Event::LayerFinished {
            image: image.clone(),
            component: component.clone(),
            key,
            outcome,
            operations: operations.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            seconds: 4.2,
        };
        check(&layer(LayerOutcome::Cached, &[]), Some("web/large: caddy (cached)"));
        check(
            &layer(LayerOutcome::Run, &[("changed", 9), ("failed", 1), ("ok", 0), ("skipped", 2)]),
            Some("web/large: caddy: 1 failed, 9 changed, 2 skipped (4.2 s)"),
        );
        check(
            &Event::StageFinished { image: image.clone(), stage: Stage::Verify, seconds: 75.0 },
            Some("web/large: verified on a fresh boot, no leaks found (1 min 15 s)"),
        );
        check(
            &Event::Note { image: None, message: "\u{1b}[1mremoved a mount".into() },
            Some("note: removed a mount"),
        );
        check(&Event::StageStarted { image, stage: Stage::Base }, None);
    }
}
