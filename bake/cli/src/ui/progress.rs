//! Bars on a terminal: a line for each image that bakes, and under it one for what goes on in it.
//!
//! Nothing is drawn for the first 250 ms, so that what is quick does not flicker. Main type: [`Bars`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use olbake_core::{ImageRef, OperationId};
use olbake_engine::event::{Event, LayerOutcome};

use super::diagnostics::Drawing;
use super::human::plural;
use super::lines;
use super::reporter::Listener;
use super::stack_bars::StackBars;
use super::style::{Palette, clean};

/// How long nothing is drawn.
const DELAY: Duration = Duration::from_millis(250);

/// The bars of a command.
pub(crate) struct Bars {
    drawing: Drawing,
    screen: MultiProgress,
    began: Instant,
    shown: bool,
    /// A person has the terminal: what there is to say waits.
    away: bool,
    waiting: Vec<String>,
    images: BTreeMap<ImageRef, ImageBars>,
    stack: StackBars,
}

/// The two lines of an image.
struct ImageBars {
    head: ProgressBar,
    layers: usize,
    done: usize,
    cached: usize,
    step: Option<Step>,
}

/// A layer or stage that goes on.
struct Step {
    bar: ProgressBar,
    /// The operations that run, in the order they began.
    running: Vec<(OperationId, String)>,
}

impl Bars {
    /// Bars on standard error.
    pub(crate) fn new(drawing: Drawing) -> Self {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        Self {
            stack: StackBars::new(screen.clone(), drawing.palette),
            drawing,
            screen,
            began: Instant::now(),
            shown: false,
            away: false,
            waiting: Vec::new(),
            images: BTreeMap::new(),
        }
    }

    fn palette(&self) -> Palette {
        self.drawing.palette
    }

    /// Writes a line above the bars.
    fn say(&mut self, line: &str) {
        if self.away {
            self.waiting.push(line.to_owned());
            return;
        }
        // Where the terminal is gone, there is nobody to tell.
        if self.shown {
            drop(self.screen.println(super::masked(line)));
        } else {
            super::write_stderr(line, true);
        }
    }

    /// An image's lines; they are drawn from now on.
    fn image_started(&mut self, image: &ImageRef, layers: usize) {
        let head = self.screen.add(ProgressBar::new_spinner());
        head.set_style(style("{spinner} {prefix}  {wide_msg} {elapsed:>5}"));
        head.set_prefix(self.palette().bold(image));
        self.images.insert(image.clone(), ImageBars { head, layers, done: 0, cached: 0, step: None });
        self.head_changed(image);
    }

    fn head_changed(&self, image: &ImageRef) {
        let Some(ImageBars { head, layers, done, cached, .. }) = self.images.get(image) else { return };
        let cached = if *cached > 0 {
            format!(", {}", self.palette().good(format!("{cached} cached")))
        } else {
            String::new()
        };
        if *layers > 0 {
            head.set_message(format!("{done} of {}{cached}", plural(*layers, "layer")));
        }
    }

    fn step_started(&mut self, image: &ImageRef, name: &str, operations: Option<usize>) {
        if !self.images.contains_key(image) {
            self.image_started(image, 0);
        }
        let Some(bars) = self.images.get_mut(image) else { return };
        if let Some(step) = bars.step.take() {
            step.bar.finish_and_clear();
        }
        let (bar, template) = match operations {
            Some(count) => (
                ProgressBar::new(count as u64),
                "    {prefix} {bar:16.green/dim} {pos:>3}/{len} {wide_msg} {elapsed:>5}",
            ),
            None => (ProgressBar::new_spinner(), "    {prefix} {wide_msg} {elapsed:>5}"),
        };
        let bar = self.screen.insert_after(&bars.head, bar);
        bar.set_style(style(template));
        bar.set_prefix(name.to_owned());
        bars.step = Some(Step { bar, running: Vec::new() });
    }

    fn step_ended(&mut self, image: &ImageRef) {
        if let Some(step) = self.images.get_mut(image).and_then(|bars| bars.step.take()) {
            step.bar.finish_and_clear();
        }
    }

    fn layer_ended(&mut self, image: &ImageRef, outcome: LayerOutcome, failed: bool) {
        self.step_ended(image);
        if failed {
            return;
        }
        if let Some(bars) = self.images.get_mut(image) {
            bars.done += 1;
            bars.cached += usize::from(outcome == LayerOutcome::Cached);
        }
        self.head_changed(image);
    }

    fn step_message(&self, image: &ImageRef, message: &str) {
        if let Some(step) = self.images.get(image).and_then(|bars| bars.step.as_ref()) {
            let line = clean(message).lines().last().unwrap_or_default().to_owned();
            step.bar.set_message(super::masked(&line).into_owned());
        }
    }

    fn operation_started(&mut self, image: &ImageRef, id: &OperationId, title: &str) {
        if let Some(step) = self.images.get_mut(image).and_then(|bars| bars.step.as_mut()) {
            step.running.push((id.clone(), super::masked(&clean(title)).into_owned()));
            step.tell();
        }
    }

    fn operation_ended(&mut self, image: &ImageRef, id: &OperationId) {
        if let Some(step) = self.images.get_mut(image).and_then(|bars| bars.step.as_mut()) {
            step.running.retain(|(running, _)| running != id);
            step.bar.inc(1);
            step.tell();
        }
    }

    fn image_ended(&mut self, image: &ImageRef) {
        self.step_ended(image);
        if let Some(bars) = self.images.remove(image) {
            bars.head.finish_and_clear();
        }
    }
}

impl Step {
    /// Shows the operation that has run longest, and how many others run.
    fn tell(&self) {
        let message = match &self.running[..] {
            [] => String::new(),
            [(_, title)] => title.clone(),
            [(_, title), others @ ..] => format!("{title} (and {} more)", others.len()),
        };
        self.bar.set_message(message);
    }
}

impl Listener for Bars {
    fn hear(&mut self, event: &Event) {
        if let Some(line) = lines::ended(event, &self.drawing) {
            self.say(&line);
        }
        match event {
            Event::ImageStarted { image, components, .. } => self.image_started(image, components.len()),
            Event::StageStarted { image, stage } => self.step_started(image, lines::stage(*stage), None),
            Event::StageProgress { image, message, .. } => self.step_message(image, message),
            Event::StageFinished { image, .. } => self.step_ended(image),
            Event::LayerStarted { image, component, operations } => {
                self.step_started(image, component.as_str(), Some(*operations));
            }
            Event::LayerFinished { image, outcome, operations, .. } => {
                self.layer_ended(image, *outcome, operations.get("failed").is_some_and(|count| *count > 0));
            }
            Event::OperationStarted { image, id, title } => self.operation_started(image, id, title),
            Event::OperationFinished { image, id, .. } => self.operation_ended(image, id),
            Event::Error { image: Some(image), .. } => self.image_ended(image),
            Event::Result(result) => {
                let name = match &result.variant {
                    Some(variant) => format!("{}/{variant}", result.image),
                    None => result.image.clone(),
                };
                if let Ok(image) = name.parse() {
                    self.image_ended(&image);
                }
            }
            Event::Stack(event) => self.stack.hear(event),
            Event::TerminalTaken => {
                drop(self.screen.clear());
                self.away = true;
                self.screen.set_draw_target(ProgressDrawTarget::hidden());
            }
            Event::TerminalReturned => {
                self.away = false;
                self.shown = false;
                for line in std::mem::take(&mut self.waiting) {
                    self.say(&line);
                }
            }
            _ => {}
        }
    }

    fn tick(&mut self) {
        if !self.shown && !self.away && self.began.elapsed() >= DELAY {
            self.shown = true;
            self.screen.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.stack.tick();
        for bars in self.images.values() {
            bars.head.tick();
            if let Some(step) = &bars.step {
                step.bar.tick();
            }
        }
    }

    fn close(&mut self) {
        drop(self.screen.clear());
    }
}

pub(super) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates of this file are well formed")
        .progress_chars("━╸─")
}
