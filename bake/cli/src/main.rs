//! The command `olbake`: reads the command line, runs one command, turns its error into text and exit code.

mod args;
mod commands;
mod errors;
mod exit_codes;
mod startup;
mod ui;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::Cli;
use errors::CliError;
use startup::Startup;
use ui::Ui;

fn main() -> ExitCode {
    let startup = match Startup::collect() {
        Ok(startup) => startup,
        Err(error) => return early(&error),
    };
    let command =
        Cli::command().term_width(startup.terminal.width.min(100)).after_long_help(exit_codes::help());
    let cli = command.get_matches();
    let cli = Cli::from_arg_matches(&cli).unwrap_or_else(|error| error.exit());
    let mut ui = Ui::new(&startup, cli.color, cli.json);
    match commands::run(cli, &startup, &mut ui) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.kind.code())
        }
    }
}

/// An error before anybody knows how to talk.
fn early(error: &CliError) -> ExitCode {
    eprintln!("error: {}", error.message());
    ExitCode::from(error.kind.code())
}
