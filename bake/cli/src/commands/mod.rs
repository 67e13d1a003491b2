//! One small file for each command, and what they share: [`Context`].

mod apply;
mod approve;
mod backends;
mod bake;
mod check;
mod completions;
mod ec2;
mod explain;
mod export;
mod gc;
mod history;
mod images;
mod machines;
mod man;
mod new;
mod place;
mod plan;
mod promote;
mod promotion;
mod reference;
mod revoke;
mod rollback;
mod shell;
mod show;
mod stacks;
mod verify;
mod why;

use std::sync::Arc;

use camino::Utf8PathBuf;
use olbake_core::ImageRef;
use olbake_core::settings::did_you_mean;
use olbake_lang::{Inputs, Workspace};

use crate::args::{Cli, Command, Settings, StackCommand};
use crate::errors::{CliError, Result};
use crate::startup::Startup;
use crate::ui::Ui;
pub(crate) use apply::Applied;
use place::Place;

/// What commands share.
struct Context {
    startup: Startup,
    ui: Ui,
    /// Where the workspace is looked for.
    directory: Utf8PathBuf,
}

/// Whether a command mounts disks and starts machines: then the process isolates itself first.
pub(crate) fn starts_machines(command: &Command) -> bool {
    matches!(
        command,
        Command::Bake(_)
            | Command::Shell(_)
            | Command::Verify(_)
            | Command::Export(_)
            | Command::Stacks(StackCommand::Deploy(_) | StackCommand::Destroy(_))
    )
}

/// Runs a command; an error is shown, and its exit code given.
pub(crate) fn run(cli: Cli, startup: Startup, ui: Ui) -> std::result::Result<(), u8> {
    let directory = cli.directory.map_or_else(|| startup.cwd.clone(), |below| startup.cwd.join(below));
    let mut context = Context { startup, ui, directory };
    dispatch(cli.command, &mut context).map_err(|error| {
        context.ui.error(&error);
        error.kind.code()
    })
}

fn dispatch(command: Command, context: &mut Context) -> Result {
    match command {
        Command::Check(args) => check::run(&args, context),
        Command::Plan(args) => plan::run(&args, context),
        Command::Why(args) => why::run(&args, context),
        Command::Explain(args) => explain::run(&args, context),
        Command::New(args) => new::run(&args, context),
        Command::Bake(args) => bake::run(&args, context),
        Command::Apply(args) => apply::run(&args, context),
        Command::Images => images::run(context),
        Command::Show(args) => show::run(&args, context),
        Command::Publish(args) => ec2::publish(&args, context),
        Command::Import(args) => ec2::import(&args, context),
        Command::Promote(args) => promote::run(&args, context),
        Command::Approve(args) => approve::run(&args, context),
        Command::Rollback(args) => rollback::run(&args, context),
        Command::Revoke(args) => revoke::run(&args, context),
        Command::History(args) => history::run(&args, context),
        Command::Shell(args) => shell::run(&args, context),
        Command::Verify(args) => verify::run(&args, context),
        Command::Export(args) => export::run(&args, context),
        Command::Gc(args) if args.on.is_some() => ec2::gc(&args, context),
        Command::Gc(args) => gc::run(&args, context),
        Command::Reference(args) => reference::run(&args, context),
        Command::Stacks(command) => stacks::run(command, context),
        Command::Completions(args) => completions::run(&args, &context.ui),
        Command::Man(args) => man::run(&args, &context.ui),
    }
}

impl Context {
    fn place(&mut self) -> Result<Place> {
        Place::find(self)
    }

    /// The recipes of a workspace.
    fn workspace(&self, place: &Place) -> Result<Workspace> {
        Ok(Workspace::load(&place.root)?.with_stacks(stacks::catalog(), &place.config.environments))
    }

    /// What settings get from outside of recipes, where no secret is read: the keys of plans are not those of bakes.
    fn offline(&self, place: &Place, settings: &Settings) -> Result<Inputs> {
        Ok(Inputs { secret_version: Arc::new(|_| Ok(None)), ..self.inputs(place, settings)? })
    }

    /// What settings get from outside of recipes.
    fn inputs(&self, place: &Place, settings: &Settings) -> Result<Inputs> {
        let file = place.root.join(".env");
        let dotenv = match std::fs::read_to_string(&file) {
            Ok(text) => Some((".env".to_owned(), text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                let context = format!("cannot read `{file}`");
                return Err(CliError::environment(anyhow::Error::new(error).context(context)));
            }
        };
        let secrets = place.secrets(&self.startup);
        Ok(Inputs {
            architecture: machines::architecture(),
            environment: self.startup.env.clone(),
            dotenv,
            sets: settings.set.clone(),
            secret_version: Arc::new(move |source| match secrets.version(source) {
                Ok(version) => Ok(Some(version)),
                Err(error) => Err(format!("{:#}", anyhow::Error::new(error))),
            }),
        })
    }

    /// The image that was asked for, if the workspace has it.
    fn image(&self, workspace: &Workspace, asked: Option<&ImageRef>) -> Result<ImageRef> {
        let known: Vec<String> = workspace.images().iter().map(ToString::to_string).collect();
        let names = || known.iter().map(String::as_str);
        let Some(asked) = asked else {
            let error = CliError::user("name an image");
            return Err(match known.is_empty() {
                true => error.help("there is none yet; `olbake new image NAME` writes one"),
                false => error.help(format!("there are: {}", known.join(", "))),
            });
        };
        if names().any(|name| *name == asked.to_string()) {
            return Ok(asked.clone());
        }
        let error = CliError::user(format!("there is no image `{asked}`"));
        Err(match did_you_mean(&asked.to_string(), names()) {
            Some(help) => error.help(help),
            None => error.help(format!("`olbake images` lists the {} there are", known.len())),
        })
    }
}
