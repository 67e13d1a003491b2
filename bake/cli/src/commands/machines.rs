//! What commands that start machines share: builder, cache, agent, runtime, and what the host lacks.

use std::future::Future;
use std::sync::Arc;

use camino::Utf8PathBuf;
use olbake_core::plan::Architecture;
use olbake_engine::bake::{Bake, BakeOptions, OnFailure};
use olbake_engine::cancel::Cancel;
use olbake_engine::event::EventSink;
use olbake_engine::machine::{Builder, Substrate};
use olbake_local::LocalBuilder;
use olbake_local::cloud::Cloud;

use super::Context;
use super::place::Place;
use crate::errors::{CliError, Result};
use crate::ui::human;

/// What a command wants of its machines.
pub(super) struct Wants {
    pub(super) substrate: Substrate,
    pub(super) on_failure: OnFailure,
    pub(super) jobs: usize,
    pub(super) wait: bool,
}

impl Default for Wants {
    fn default() -> Self {
        Self { substrate: Substrate::Container, on_failure: OnFailure::Cleanup, jobs: 1, wait: true }
    }
}

/// `--vm` or not.
pub(super) fn substrate(vm: bool) -> Substrate {
    if vm { Substrate::Vm } else { Substrate::Container }
}

/// Runs what waits for machines, on a runtime of its own. Threads that still block when it is over (a copy that was
/// interrupted) are not waited for.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| CliError::environment(anyhow::Error::new(error).context("cannot start threads")))?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// Everything that bakes, verifies and opens shells.
pub(super) fn bake(
    context: &Context,
    place: &Place,
    wants: Wants,
    events: EventSink,
    cancel: Cancel,
) -> Result<Bake> {
    let Wants { substrate, on_failure, jobs, wait } = wants;
    Ok(Bake {
        builder: Arc::new(LocalBuilder::new()),
        registry: Arc::new(place.registry()?),
        cache: Arc::new(place.cache()?),
        secrets: Arc::new(place.secrets(&context.startup)),
        events,
        cancel,
        options: BakeOptions {
            verify: substrate,
            on_failure,
            jobs,
            wait,
            workspace: place.root.clone(),
            agent: agent(context)?,
            now: human::rfc3339(context.startup.now),
        },
    })
}

/// Fails with all that this host lacks for machines of these kinds.
pub(super) fn preflight(context: &Context, substrates: &[Substrate]) -> Result {
    let builder = LocalBuilder::new();
    let mut lacking: Vec<CliError> = Vec::new();
    for substrate in substrates {
        let errors = builder.preflight(*substrate).err().unwrap_or_default();
        for error in errors.into_iter().map(CliError::from) {
            // Both kinds of machines need much the same.
            if !lacking.iter().any(|known| known.message() == error.message()) {
                lacking.push(error);
            }
        }
    }
    let last = lacking.pop();
    for error in &lacking {
        context.ui.error(error);
    }
    last.map_or(Ok(()), Err)
}

/// Fails with all that this host lacks for a local cloud.
pub(super) fn cloud_preflight(context: &Context) -> Result {
    let mut lacking: Vec<CliError> =
        Cloud::preflight().err().unwrap_or_default().into_iter().map(CliError::from).collect();
    let last = lacking.pop();
    for error in &lacking {
        context.ui.error(error);
    }
    last.map_or(Ok(()), Err)
}

/// The agent's executable: what `OLBAKE_AGENT` names, or the one beside this executable.
pub(super) fn agent(context: &Context) -> Result<Utf8PathBuf> {
    let name = format!("olbake-agent-{}", architecture().kernel());
    if let Some(path) = context.startup.env.get("OLBAKE_AGENT") {
        let path = context.startup.cwd.join(path);
        let missing = || CliError::user(format!("OLBAKE_AGENT names `{path}`, which is no file"));
        return if path.is_file() { Ok(path) } else { Err(missing()) };
    }
    let executable = &context.startup.executable;
    let beside = executable.with_file_name(&name);
    if beside.is_file() {
        return Ok(beside);
    }
    let error = anyhow::anyhow!("the agent `{name}` is not beside `{executable}`");
    Err(CliError::environment(error)
        .help("`cargo xtask build` makes both; the environment variable OLBAKE_AGENT can name one elsewhere"))
}

/// The architecture of this host's machines.
pub(super) fn architecture() -> Architecture {
    LocalBuilder::new().architecture()
}
