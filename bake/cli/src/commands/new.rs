//! `olbake new component|image|project NAME`: the least that passes `olbake check`.

use olbake_lang::scaffold;
use serde::Serialize;

use super::Context;
use crate::args::{New, NewArgs};
use crate::errors::{CliError, Result};
use crate::exit_codes::Kind;

/// What was written.
#[derive(Serialize)]
struct Written {
    files: Vec<String>,
}

pub(super) fn run(args: &NewArgs, context: &mut Context) -> Result {
    let root = context.place()?.root;
    let files = match args.what {
        New::Component => scaffold::component(&root, &args.name),
        New::Image => scaffold::image(&root, &args.name),
        New::Project => scaffold::project(&root, &args.name),
    };
    // A name that cannot be one or is taken: the command is wrong, not a recipe.
    let files = files.map_err(|problems| CliError { kind: Kind::User, ..problems.into() })?;
    let written = Written { files: files.iter().map(ToString::to_string).collect() };
    if context.ui.json {
        context.ui.result("new", &written);
    } else {
        for file in written.files {
            context.ui.print(&format!("{file}\n"));
        }
    }
    Ok(())
}
