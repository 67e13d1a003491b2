//! One small file for each command.

mod completions;

use crate::args::{Cli, Command};
use crate::errors::Result;
use crate::startup::Startup;
use crate::ui::Ui;

/// Runs a command.
pub(crate) fn run(cli: Cli, _startup: &Startup, ui: &mut Ui) -> Result {
    match cli.command {
        Command::Completions(args) => completions::run(&args, ui),
        _ => Ok(()),
    }
}
