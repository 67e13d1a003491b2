//! The command `olbake`: reads the command line, runs one command, gives its exit code.

mod args;
mod commands;
mod errors;
mod exit_codes;
mod interrupt;
mod startup;
mod ui;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::Cli;
use errors::{CliError, Result};
use startup::Startup;
use ui::Ui;

fn main() -> ExitCode {
    // A broken promise of the program itself ends like any other error of it, after Rust has said where.
    std::panic::catch_unwind(run).unwrap_or_else(|_| ExitCode::from(exit_codes::Kind::Bug.code()))
}

fn run() -> ExitCode {
    let (cli, startup) = match begin() {
        Ok(begun) => begun,
        Err(error) => {
            ui::before_anything(&error);
            return ExitCode::from(error.kind.code());
        }
    };
    let ui = Ui::new(&startup, cli.color, cli.json);
    commands::run(cli, startup, ui).map_or_else(ExitCode::from, |()| ExitCode::SUCCESS)
}

/// What must be done while there is only one thread: the outside is asked, and mounts are made to end with us.
fn begin() -> Result<(Cli, Startup)> {
    let startup = Startup::collect()?;
    let width = startup.terminal.width.min(100);
    let matches = Cli::command().term_width(width).after_long_help(exit_codes::help()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if commands::starts_machines(&cli.command) {
        olbake_local::isolate().map_err(|error| {
            let context = "cannot give this process mounts of its own";
            CliError::environment(anyhow::Error::new(error).context(context))
        })?;
    }
    Ok((cli, startup))
}
