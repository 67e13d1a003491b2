//! What the commands about stacks share: projects, states, providers. Main type: [`Desk`].

mod change;
mod config;
mod look;
mod providers;
mod rollout;
mod secrets;
mod state;
mod status;

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::Arc;

use async_trait::async_trait;
use camino::Utf8PathBuf;
use olbake_core::Digest;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::stack::declare::PinnedImage;
use olbake_core::stack::{Catalog, StackName};
use olbake_engine::bake::look::version_disk;
use olbake_engine::cache::Cache;
use olbake_engine::config::Config;
use olbake_engine::registry::{Registry, RegistryError};
use olbake_engine::stack::provider::ProviderError;
use olbake_engine::stack::{Site, Stacks};
use olbake_engine::state::{HoldOptions, StateStore, SystemClock, Takeover};
use olbake_lang::{Evaluated, OtherStack, StackInputs, WantedImage, Workspace};
use olbake_local::{Disks, LocalProvider};

use super::Context;
use super::place::Place;
use super::promotion::who;
use crate::args::{Settings, StackArg, StackCommand};
use crate::errors::{CliError, Result};

pub(super) use secrets::Unsealed;

/// Runs a command about stacks.
pub(super) fn run(command: StackCommand, context: &mut Context) -> Result {
    match command {
        StackCommand::Preview(args) => change::preview(&args, context),
        StackCommand::Deploy(args) => change::deploy(&args, context),
        StackCommand::Destroy(args) => change::destroy(&args, context),
        StackCommand::Refresh(args) => look::refresh(&args, context),
        StackCommand::Drift(args) => look::drift(&args, context),
        StackCommand::Outputs(args) => look::outputs(&args, context),
        StackCommand::Graph(args) => look::graph(&args, context),
        StackCommand::Status(args) => status::run(&args, context),
        StackCommand::Rollout(args) => rollout::run(&args, context),
        StackCommand::Stack(args) => state::stack(&args, context),
        StackCommand::State(args) => state::state(&args, context),
        StackCommand::Config(args) => config::run(&args, context),
    }
}

/// The types of resources of all providers.
pub(super) fn catalog() -> Catalog {
    LocalProvider::types().and(olbake_postgresql::catalog()).and(olbake_aws::types::catalog())
}

/// A workspace with its stacks, the registry, and the states.
pub(super) struct Desk {
    pub(super) place: Place,
    pub(super) workspace: Workspace,
    pub(super) registry: Registry,
    pub(super) store: StateStore,
}

impl Desk {
    pub(super) fn open(context: &mut Context) -> Result<Self> {
        let place = context.place()?;
        let workspace = context.workspace(&place)?;
        let registry = place.registry()?;
        let store = super::backends::states(&place)?;
        Ok(Self { place, workspace, registry, store })
    }

    /// The stack that was named, or the only one of the project that one stands in; else one is asked for.
    pub(super) fn choose(&self, asked: &StackArg, context: &Context) -> Result<StackName> {
        let project = self.workspace.project_at(&context.directory);
        if let Some(name) = &asked.stack {
            // In a project, the environment is enough.
            let full = match &project {
                Some(project) if !name.contains('.') => format!("{project}.{name}"),
                _ => name.clone(),
            };
            if !full.contains('.') {
                let named =
                    self.workspace.stacks().into_iter().filter(|stack| stack.environment().as_str() == full);
                let named: Vec<String> = named.map(|stack| stack.to_string()).collect();
                if !named.is_empty() {
                    let error = format!(
                        "`{name}` is an environment: outside of a project's folder a stack has its whole name"
                    );
                    return Err(CliError::user(error).help(format!("there are: {}", named.join(", "))));
                }
            }
            return Ok(self.workspace.stack(&full)?);
        }
        let all = self.workspace.stacks();
        let among: Vec<StackName> = match &project {
            Some(project) => all.iter().filter(|stack| stack.project() == project).cloned().collect(),
            None => all,
        };
        match among.as_slice() {
            [] => Err(CliError::user("there is no stack here")
                .help("`olbake new project NAME` writes a project with one stack")),
            [only] => Ok(only.clone()),
            several => menu(several, context),
        }
    }

    /// What evaluating a stack needs from states and the registry.
    pub(super) fn inputs(&self, context: &Context, settings: &Settings) -> Result<StackInputs> {
        let inputs = context.inputs(&self.place, settings)?;
        let (store, registry, config) =
            (self.store.clone(), self.registry.clone(), Arc::new(self.place.config.clone()));
        Ok(StackInputs {
            outputs: Arc::new(move |stack| outputs_of(&store, stack)),
            images: Arc::new(move |wanted| image_of(&config, &registry, wanted).map(Some)),
            ..StackInputs::offline(&inputs)
        })
    }

    /// A stack's declaration where neither a state nor a registry is looked at: what comes from there is unknown.
    pub(super) fn evaluate_offline(
        &self,
        context: &Context,
        stack: &StackName,
        settings: &Settings,
    ) -> Result<Evaluated> {
        let inputs = StackInputs::offline(&context.inputs(&self.place, settings)?);
        let evaluated = self.workspace.evaluate(stack, &inputs)?;
        context.ui.diagnostics(&evaluated.warnings);
        Ok(evaluated)
    }

    /// A stack's declaration; warnings are shown.
    pub(super) fn evaluate(
        &self,
        context: &Context,
        stack: &StackName,
        settings: &Settings,
    ) -> Result<Evaluated> {
        let evaluated = self.workspace.evaluate(stack, &self.inputs(context, settings)?)?;
        context.ui.diagnostics(&evaluated.warnings);
        Ok(evaluated)
    }

    pub(super) fn stacks(&self, site: Site) -> Stacks {
        Stacks { store: self.store.clone(), site }
    }

    /// How this process holds a stack.
    pub(super) fn hold(&self, context: &Context, command: &str, takeover: Takeover) -> Result<HoldOptions> {
        let options = HoldOptions::here(who(&context.startup.env), command).map_err(|error| {
            CliError::environment(anyhow::Error::new(error).context("cannot make a random number"))
        })?;
        Ok(HoldOptions { takeover, ..options })
    }
}

/// Asks a person which stack is meant.
fn menu(stacks: &[StackName], context: &Context) -> Result<StackName> {
    let names: Vec<String> = stacks.iter().map(ToString::to_string).collect();
    if context.ui.json || !context.startup.terminal.asks() {
        return Err(
            CliError::user("name a stack with `--stack`").help(format!("there are: {}", names.join(", ")))
        );
    }
    let mut text = String::new();
    for (number, name) in names.iter().enumerate() {
        text.push_str(&format!("{:>3}  {name}\n", number + 1));
    }
    context.ui.say(text.trim_end());
    let answer = ask("which stack (number or name)? ")?;
    let chosen = answer.parse::<usize>().ok().and_then(|number| stacks.get(number.checked_sub(1)?));
    let named = || stacks.iter().find(|stack| stack.as_str() == answer);
    chosen.or_else(named).cloned().ok_or_else(|| CliError::user(format!("`{answer}` is none of them")))
}

/// A person's answer on the terminal.
pub(super) fn ask(question: &str) -> Result<String> {
    let failed = |error| CliError::environment(anyhow::Error::new(error).context("cannot use the terminal"));
    let mut out = std::io::stderr().lock();
    out.write_all(question.as_bytes()).and_then(|()| out.flush()).map_err(failed)?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(failed)?;
    Ok(line.trim().to_owned())
}

/// Runs something short that waits for a store, where there is no runtime.
pub(super) fn wait<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime of one thread needs nothing").block_on(work)
}

fn outputs_of(store: &StateStore, stack: &StackName) -> std::result::Result<OtherStack, Box<Diagnostic>> {
    let read = wait(store.read::<olbake_core::stack::StackState>(stack, &SystemClock));
    let viewed = read.map_err(|error| {
        let error = CliError::from(error);
        Box::new(Diagnostic::error(error.kind.diagnostic().unwrap_or("state"), error.message()))
    })?;
    Ok(match viewed {
        Some(viewed) if viewed.state.begun.is_some() && !viewed.state.is_empty() => {
            OtherStack::Deployed(viewed.state.outputs)
        }
        _ => OtherStack::NeverDeployed,
    })
}

fn image_of(
    config: &Config,
    registry: &Registry,
    wanted: &WantedImage,
) -> std::result::Result<PinnedImage, Box<Diagnostic>> {
    let WantedImage { image, channel, pinned } = wanted;
    if let Some(digest) = pinned {
        let version = registry.records().resolve_digest_for_deploy(image, digest);
        return version
            .map(|version| PinnedImage { digest: version.digest, channel: None })
            .map_err(|error| no_image(error, None));
    }
    let name = config.channel(channel).map_err(|error| {
        let message = error.to_string();
        Box::new(Diagnostic { help: error.help, ..Diagnostic::error("unknown-channel", message) })
    })?;
    let version = registry.records().resolve_for_deploy(image, &name).map_err(|error| {
        let help = format!(
            "`olbake promote {image}@DIGEST --to {channel}`, or `olbake bake {image} --channel {channel}`"
        );
        no_image(error, Some(help))
    })?;
    Ok(PinnedImage { digest: version.digest, channel: Some(channel.clone()) })
}

/// Why there is no version for a stack. The code says of what kind it is: it need not be the recipe's mistake.
fn no_image(error: RegistryError, help: Option<String>) -> Box<Diagnostic> {
    let empty = matches!(error, RegistryError::EmptyChannel { .. });
    let error = CliError::from(error);
    let code = error.kind.diagnostic().unwrap_or("image");
    let message = error.message();
    Box::new(Diagnostic {
        help: help.filter(|_| empty).or_else(|| error.help.into_iter().next()),
        ..Diagnostic::error(code, message)
    })
}

/// Raw disks from the cache, or brought back from the store.
struct RegistryDisks {
    registry: Registry,
    cache: Arc<Cache>,
}

#[async_trait]
impl Disks for RegistryDisks {
    async fn raw(&self, version: &Digest) -> std::result::Result<Utf8PathBuf, ProviderError> {
        let found = self.registry.by_digest(version).await;
        let found = found.map_err(|error| ProviderError::failed("cannot find the image", error))?;
        let found =
            found.ok_or_else(|| ProviderError::refused(format!("no version `{version}` is registered")))?;
        let snapshot = version_disk(&self.registry, &self.cache, &found).await;
        Ok(snapshot.map_err(|error| ProviderError::failed("cannot bring the image's disk", error))?.disk)
    }
}

/// Names of resources as they were typed.
pub(super) fn names<T: std::str::FromStr<Err = olbake_core::names::NameError> + Ord>(
    texts: &[String],
) -> Result<std::collections::BTreeSet<T>> {
    Ok(texts.iter().map(|text| text.parse()).collect::<std::result::Result<_, _>>()?)
}

/// The variables of the environment, for what reads them by name.
pub(super) fn environment(context: &Context) -> &BTreeMap<String, String> {
    &context.startup.env
}
