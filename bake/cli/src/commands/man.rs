//! `olbake man DIRECTORY`: the manual's pages, one for each command.

use std::fs;

use clap::CommandFactory;

use crate::args::{Cli, ManArgs};
use crate::errors::{CliError, Result};
use crate::exit_codes::Kind;
use crate::ui::Ui;

pub(super) fn run(args: &ManArgs, ui: &Ui) -> Result {
    let directory = &args.directory;
    let failed = |source| {
        let error = anyhow::Error::new(source).context(format!("cannot write the pages into `{directory}`"));
        CliError::new(Kind::Environment, error)
    };
    fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(failed)?;
    ui.say(&format!("the pages are in {directory}: `man -l {}`", directory.join("olbake.1")));
    Ok(())
}
