//! The only place that draws. Standard output is data: results, tables, with `--json` every event. Standard error
//! is talk: progress, diagnostics, errors. Main type: [`Ui`].

pub(crate) mod apply;
pub(crate) mod diagnostics;
pub(crate) mod explain;
pub(crate) mod graph;
pub(crate) mod human;
mod lines;
pub(crate) mod plan;
mod progress;
pub(crate) mod promotion;
pub(crate) mod reporter;
pub(crate) mod results;
pub(crate) mod stack;
mod stack_bars;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod why;

use std::borrow::Cow;
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;

use camino::Utf8Path;
use olbake_core::diagnostic::{Diagnostic, Diagnostics};
use olbake_core::redact::Redactor;
use olbake_engine::event::{EVENT_SCHEMA, Event};
use serde::Serialize;

use crate::errors::CliError;
use crate::startup::Startup;
use diagnostics::Drawing;
use reporter::Reporter;
use style::{ColorChoice, Palette};

/// How this command talks.
#[derive(Clone, Debug)]
pub(crate) struct Ui {
    /// Colours of standard output.
    pub(crate) out: Palette,
    /// How talk is drawn on standard error.
    pub(crate) drawing: Drawing,
    /// Events and results as JSON on standard output.
    pub(crate) json: bool,
    /// Standard error is a terminal.
    bars: bool,
}

/// A line of `--json` that is no event of the engine.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Record<'a, T: Serialize> {
    Diagnostic(&'a Diagnostic),
    Result {
        command: &'a str,
        #[serde(flatten)]
        result: &'a T,
    },
}

/// Says what went wrong before there was anything to draw with.
pub(crate) fn before_anything(error: &CliError) {
    eprintln!("error: {}", error.message());
}

impl Ui {
    /// As the terminal, the environment and the command line ask for.
    pub(crate) fn new(startup: &Startup, color: ColorChoice, json: bool) -> Self {
        let Startup { env, terminal, .. } = startup;
        let palette = Palette::choose(color, terminal.stderr, env);
        let dumb = env.get("TERM").is_some_and(|term| term == "dumb");
        Self {
            out: Palette::choose(color, terminal.stdout, env),
            drawing: Drawing { palette, width: terminal.width, root: None },
            json,
            bars: terminal.stderr && !dumb,
        }
    }

    /// Reads the recipes that are shown below this directory.
    pub(crate) fn set_root(&mut self, root: &Utf8Path) {
        self.drawing.root = Some(root.to_owned());
    }

    /// Masks these secrets in all that is said from now on. The first call of a process counts.
    pub(crate) fn hide(&self, secrets: Redactor) {
        SECRETS.get_or_init(|| secrets);
    }

    /// Begins to show events.
    pub(crate) fn reporter(&self, command: &str) -> Reporter {
        if self.json {
            let reporter = Reporter::start(Box::new(reporter::Json));
            reporter.sink().send(Event::Start {
                schema: EVENT_SCHEMA,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                command: command.to_owned(),
            });
            reporter
        } else if self.bars {
            Reporter::start(Box::new(progress::Bars::new(self.drawing.clone())))
        } else {
            Reporter::start(Box::new(reporter::Lines(self.drawing.clone())))
        }
    }

    /// Writes text to standard output as it is.
    pub(crate) fn print(&self, text: &str) {
        write_stdout(text);
    }

    /// Writes a value as one JSON document to standard output.
    pub(crate) fn document<T: Serialize>(&self, value: &T) {
        let text = serde_json::to_string_pretty(value).expect("results are expressible in JSON");
        write_stdout(&(text + "\n"));
    }

    /// Writes the last line of `--json`.
    pub(crate) fn result<T: Serialize>(&self, command: &str, result: &T) {
        write_json(&Record::Result { command, result });
    }

    /// Writes an event, or another value, as one line of JSON.
    pub(crate) fn line<T: Serialize>(&self, value: &T) {
        write_json(value);
    }

    /// Says something to people; with `--json` nobody listens.
    pub(crate) fn say(&self, text: &str) {
        if !self.json {
            write_stderr(text, true);
        }
    }

    /// Shows diagnostics and counts them.
    pub(crate) fn diagnostics(&self, all: &Diagnostics) {
        if self.json {
            for diagnostic in &all.0 {
                write_json(&Record::<()>::Diagnostic(diagnostic));
            }
        } else if !all.0.is_empty() {
            write_stderr(&self.drawing.diagnostics(all), false);
        }
    }

    /// Shows an error.
    pub(crate) fn error(&self, error: &CliError) {
        let CliError { kind, image, error: _, help, diagnostics } = error;
        if let Some(diagnostics) = diagnostics {
            self.diagnostics(diagnostics);
        }
        let message = error.message();
        if self.json {
            let help = (!help.is_empty()).then(|| help.join("\n"));
            write_json(&Event::Error { image: image.clone(), kind: kind.name().to_owned(), message, help });
        } else if diagnostics.is_none() {
            write_stderr(&self.error_text(error, &message), true);
        }
    }

    fn error_text(&self, error: &CliError, message: &str) -> String {
        let palette = self.drawing.palette;
        let image = error.image.as_ref().map(|image| format!("{image}: ")).unwrap_or_default();
        let mut text = format!("{} {image}{}", palette.bad("error:"), style::clean(message));
        for help in &error.help {
            text.push_str(&format!("\n{} {}", palette.hint("help:"), style::clean(help)));
        }
        text
    }
}

/// What is masked in all that leaves this process, as soon as secrets were read. It belongs to the process as its
/// streams do.
static SECRETS: OnceLock<Redactor> = OnceLock::new();

/// A text without the secrets of this command.
fn masked(text: &str) -> Cow<'_, str> {
    SECRETS.get().map_or(Cow::Borrowed(text), |redactor| redactor.mask(text))
}

/// Writes to standard output. Who closed it has read enough.
fn write_stdout(text: &str) {
    let mut out = std::io::stdout().lock();
    match out.write_all(masked(text).as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => write_stderr(&format!("error: cannot write to standard output: {error}"), true),
    }
}

fn write_json<T: Serialize>(value: &T) {
    let line = serde_json::to_string(value).expect("events are expressible in JSON");
    write_stdout(&(line + "\n"));
}

/// Writes to standard error. Where that cannot be, nobody can be told.
fn write_stderr(text: &str, line: bool) {
    let mut out = std::io::stderr().lock();
    drop(
        out.write_all(masked(text).as_bytes())
            .and_then(|()| if line { out.write_all(b"\n") } else { Ok(()) }),
    );
}
