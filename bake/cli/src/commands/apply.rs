//! `olbake apply IMAGE --host USER@ADDRESS`: an image's components on a machine that is there already; with `--check`,
//! how it differs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use olbake_core::ImageRef;
use olbake_core::operation::Operation;
use olbake_core::protocol::{Mode, Summary};
use olbake_core::report::{Change, OperationReport, Outcome};
use olbake_engine::apply::Application;
use olbake_engine::bake::{BakeError, component_of};
use olbake_engine::event::{Event, EventSink, Stage};
use olbake_engine::payload::Payloads;
use olbake_engine::session::{Run, RunEnd};
use olbake_ssh::{Agent, Host, Notice, Remote, Trust};
use serde::Serialize;

use super::Context;
use super::bake::plans;
use super::machines;
use super::place::Place;
use crate::args::ApplyArgs;
use crate::errors::{CliError, Result};
use crate::exit_codes::Kind;
use crate::interrupt;
use crate::ui::apply as ui;

pub(super) fn run(args: &ApplyArgs, context: &mut Context) -> Result {
    let place = context.place()?;
    let workspace = context.workspace(&place)?;
    let image = context.image(&workspace, args.image.as_ref())?;
    let inputs = context.inputs(&place, &args.settings)?;
    let planned = plans(context, &workspace, &inputs, vec![image])?;
    let application = Application::of(&planned).map_err(|error| CliError::new(Kind::Recipe, error))?;
    let secrets = place.secrets(&context.startup);
    context.ui.hide(secrets.redactor(planned.iter().map(|image| &*image.plan))?);
    let mode = if args.check { Mode::Check } else { Mode::Apply };
    let run = application.run(mode, Remote::work_dir(&application.operations, mode), &secrets)?;
    let remote = remote(args, context)?;
    let began = Instant::now();
    let end = machines::block_on(over_ssh(context, &place, &application, &remote, &run))?;
    tell(context, &Applied::of(&application, args, &end, began.elapsed()), &application, &end)
}

fn remote(args: &ApplyArgs, context: &Context) -> Result<Remote> {
    let below = |path: &camino::Utf8PathBuf| context.startup.cwd.join(path);
    let trust = match (&args.known_hosts, &args.host_key) {
        (Some(file), _) if !below(file).is_file() => {
            return Err(CliError::user(format!("`--known-hosts` names `{file}`, which is no file")));
        }
        (Some(file), _) => Trust::File(below(file)),
        (None, Some(key)) => Trust::Key(key.clone()),
        (None, None) => Trust::User,
    };
    let identity = args.identity.as_ref().map(below);
    if let Some(missing) = identity.as_ref().filter(|identity| !identity.is_file()) {
        return Err(CliError::user(format!("`--identity` names `{missing}`, which is no file")));
    }
    let host = Host { port: args.port, identity, trust, ..Host::new(args.host.clone()) };
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(|error| {
        CliError::environment(anyhow::Error::new(error).context("cannot get random numbers"))
    })?;
    Ok(Remote {
        host,
        agent: Agent::read(&machines::agent(context)?)?,
        token: random.iter().map(|byte| format!("{byte:02x}")).collect(),
        patience: Duration::from_secs(args.patience),
    })
}

async fn over_ssh(
    context: &Context,
    place: &Place,
    application: &Application,
    remote: &Remote,
    run: &Run,
) -> Result<RunEnd> {
    let reporter = context.ui.reporter("apply");
    let events = reporter.sink();
    let cancel = interrupt::listen(interrupt::as_note(reporter.sink()))?;
    let (payloads, inline) = (application.payloads.clone(), application.inline.clone());
    let blobs = Payloads::new(payloads, inline, place.root.clone(), place.cache()?.downloads());
    let image = &application.image;
    events.send(Event::StageStarted { image: image.clone(), stage: Stage::Apply });
    let notice = |notice: Notice| tell_notice(notice, image, remote, &events);
    let end = remote
        .run(None, run, &blobs, &cancel, notice, application.tell(&application.operations, &events))
        .await;
    if let Ok(end) = &end {
        application.tell_layers(&end.reports, &events);
    }
    reporter.finish();
    let end = end.map_err(|error| CliError::from(error).about(image.clone()))?;
    if end.cancelled { Err(CliError::new(Kind::Interrupted, BakeError::Cancelled)) } else { Ok(end) }
}

fn tell_notice(notice: Notice, image: &ImageRef, remote: &Remote, events: &EventSink) {
    let host = &remote.host;
    let message = match notice {
        Notice::Connected => format!("connected to `{host}`"),
        Notice::Pushed => "the agent was pushed to it".to_owned(),
        Notice::Lost => {
            let message = format!("the connection to `{host}` was lost: connecting again, to go on");
            return events.send(Event::Note { image: Some(image.clone()), message });
        }
        Notice::Rebooting => {
            let message = format!("`{host}` boots again, as the recipe asks");
            return events.send(Event::Note { image: Some(image.clone()), message });
        }
    };
    events.send(Event::StageProgress { image: image.clone(), stage: Stage::Apply, message });
}

/// What was applied, or would be.
#[derive(Serialize)]
pub(crate) struct Applied<'a> {
    image: &'a ImageRef,
    host: String,
    check: bool,
    summary: Summary,
    /// The operations that changed something, or would.
    pub(crate) changes: Vec<Changed<'a>>,
    pub(crate) seconds: f64,
}

/// An operation that changed something.
#[derive(Serialize)]
pub(crate) struct Changed<'a> {
    id: &'a str,
    pub(crate) title: &'a str,
    pub(crate) changes: &'a [Change],
}

impl<'a> Applied<'a> {
    fn of(application: &'a Application, args: &ApplyArgs, end: &'a RunEnd, took: Duration) -> Self {
        let reports: BTreeMap<&str, &OperationReport> =
            end.reports.iter().map(|report| (report.id.as_str(), report)).collect();
        let changed = |operation: &'a Operation| {
            let report = reports.get(operation.id.as_str())?;
            (report.outcome == Outcome::Changed).then(|| Changed {
                id: operation.id.as_str(),
                title: &operation.title,
                changes: &report.changes,
            })
        };
        Self {
            image: &application.image,
            host: args.host.to_string(),
            check: args.check,
            summary: end.summary,
            changes: application.operations.iter().filter_map(changed).collect(),
            seconds: took.as_secs_f64(),
        }
    }
}

fn tell(context: &Context, applied: &Applied<'_>, application: &Application, end: &RunEnd) -> Result {
    let Applied { image, host, check, summary, .. } = applied;
    let failed = first_failure(application, end);
    let drifted = *check && summary.changed > 0;
    if context.ui.json && failed.is_none() && !drifted {
        context.ui.result("apply", applied);
    } else if context.ui.json {
        context.ui.line(&serde_json::json!({ "event": "applied", "applied": applied }));
    } else {
        context.ui.print(&ui::applied(applied, *summary, context.ui.out));
    }
    if let Some(error) = failed {
        return Err(CliError::from(error).about((*image).clone()));
    }
    if drifted {
        let error = anyhow::anyhow!("`{host}` is not as `{image}` says");
        return Err(CliError::new(Kind::Failed, error).help("`olbake apply` without `--check` mends it"));
    }
    Ok(())
}

fn first_failure(application: &Application, end: &RunEnd) -> Option<BakeError> {
    let report = end.reports.iter().find(|report| report.outcome == Outcome::Failed)?;
    let operation = application.operations.iter().find(|operation| operation.id == report.id)?;
    Some(BakeError::Operation {
        component: component_of(operation),
        title: operation.title.clone(),
        span: operation.spans.first().cloned(),
        failure: Box::new(report.failure.clone()?),
    })
}
