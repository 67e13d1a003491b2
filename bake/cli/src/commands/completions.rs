//! `olbake completions SHELL`: what the shell needs to complete command lines.

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};
use crate::errors::Result;
use crate::ui::Ui;

pub(super) fn run(args: &CompletionsArgs, ui: &Ui) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "olbake", &mut script);
    ui.print(&String::from_utf8_lossy(&script));
    Ok(())
}
