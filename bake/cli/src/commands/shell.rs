//! `olbake shell IMAGE[@VERSION]`: a shell on a throw-away booted copy.

use camino::Utf8Path;
use olbake_engine::machine::Snapshot;
use olbake_engine::registry::Version;

use super::Context;
use super::machines::{self, Wants};
use super::place::Place;
use crate::args::ShellArgs;
use crate::errors::{CliError, Result};
use crate::interrupt;

/// What is booted.
enum Subject {
    Version(Box<Version>),
    Disk(Snapshot),
}

pub(super) fn run(args: &ShellArgs, context: &mut Context) -> Result {
    if context.ui.json {
        return Err(CliError::user("`shell` is for a person, `--json` for a script"));
    }
    let place = context.place()?;
    let subject = match (&args.version, &args.disk) {
        (_, Some(disk)) => Subject::Disk(disk_at(context, disk)?),
        (Some(version), None) => Subject::Version(Box::new(place.registry()?.records().resolve(version)?)),
        (None, None) => return Err(CliError::user("name an image, or a disk with `--disk`")),
    };
    let substrate = machines::substrate(args.vm);
    machines::preflight(context, &[substrate])?;
    machines::block_on(shell(context, &place, Wants { substrate, ..Wants::default() }, subject))
}

fn disk_at(context: &Context, disk: &Utf8Path) -> Result<Snapshot> {
    let path = context.startup.cwd.join(disk);
    let disk = path
        .canonicalize_utf8()
        .map_err(|error| CliError::user(format!("cannot use the disk `{path}`: {error}")))?;
    Ok(Snapshot { disk })
}

async fn shell(context: &Context, place: &Place, wants: Wants, subject: Subject) -> Result {
    let reporter = context.ui.reporter("shell");
    let cancel = interrupt::listen(interrupt::as_note(reporter.sink()))?;
    let ended = open(context, place, wants, subject, &reporter, cancel).await;
    reporter.finish();
    ended
}

async fn open(
    context: &Context,
    place: &Place,
    wants: Wants,
    subject: Subject,
    reporter: &crate::ui::reporter::Reporter,
    cancel: olbake_engine::cancel::Cancel,
) -> Result {
    let bake = machines::bake(context, place, wants, reporter.sink(), cancel)?;
    let (name, disk, version) = match &subject {
        Subject::Version(version) => {
            (version.image.to_string(), bake.version_disk(version).await?, Some(&**version))
        }
        Subject::Disk(disk) => ("failed".to_owned(), disk.clone(), None),
    };
    // How a person left the shell is no error of this command.
    let _status = bake.shell(&name, disk, version).await?;
    Ok(())
}
