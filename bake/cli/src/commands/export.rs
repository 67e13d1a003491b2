//! `olbake export IMAGE[@VERSION]`: a version's disk as a file.

use camino::{Utf8Path, Utf8PathBuf};
use olbake_engine::bake::look::version_disk;
use olbake_engine::machine::MachineError;
use olbake_engine::registry::Version;
use serde_json::json;

use super::Context;
use super::machines::block_on;
use super::place::Place;
use crate::args::{ExportArgs, Format};
use crate::errors::{CliError, Result};
use crate::exit_codes::Kind;
use crate::interrupt;
use crate::ui::human;

pub(super) fn run(args: &ExportArgs, context: &mut Context) -> Result {
    let place = context.place()?;
    let version = place.registry()?.records().resolve(&args.version)?;
    let output = context.startup.cwd.join(&args.output);
    // The file has its name only when it is whole.
    let partial = beside(&output)?;
    let written = block_on(interruptible(context, write(&place, &version, args.format, partial.clone())));
    let ended = written.and_then(|()| {
        readable(&partial).map_err(|error| file_error("cannot write", &partial, error))?;
        std::fs::rename(&partial, &output).map_err(|error| file_error("cannot write", &output, error))?;
        std::fs::metadata(&output).map_err(|error| file_error("cannot read", &output, error))
    });
    let size = match ended {
        Ok(metadata) => metadata.len(),
        Err(error) => {
            // What never got its name is of no use; that it may not be there is no trouble.
            drop(std::fs::remove_file(&partial));
            return Err(error);
        }
    };
    if context.ui.json {
        let (image, digest) = (version.image_ref(), version.digest);
        context
            .ui
            .result("export", &json!({ "image": image, "digest": digest, "file": output, "bytes": size }));
    } else {
        context.ui.print(&format!("{output}  {}\n", human::size(size)));
    }
    Ok(())
}

fn beside(output: &Utf8Path) -> Result<Utf8PathBuf> {
    let name = output.file_name().ok_or_else(|| CliError::user(format!("`{output}` names no file")))?;
    Ok(output.with_file_name(format!(".{name}.{}", std::process::id())))
}

/// Store and cache keep disks to themselves; what a person asked for is for others to read too.
fn readable(path: &Utf8Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

fn file_error(action: &str, path: &Utf8Path, error: std::io::Error) -> CliError {
    CliError::environment(anyhow::Error::new(error).context(format!("{action} `{path}`")))
}

async fn interruptible(context: &Context, work: impl Future<Output = Result>) -> Result {
    let ui = context.ui.clone();
    let cancel = interrupt::listen(move |message| ui.say(message))?;
    tokio::select! {
        done = work => done,
        () = cancel.cancelled() => Err(CliError::new(Kind::Interrupted, anyhow::anyhow!("interrupted"))),
    }
}

async fn write(place: &Place, version: &Version, format: Format, to: Utf8PathBuf) -> Result {
    let (registry, cache) = (place.registry()?, place.cache()?);
    if format == Format::Raw {
        let map = registry.map(&version.map).await?;
        return Ok(registry.read_disk(&map, &to).await?);
    }
    let disk = version_disk(&registry, &cache, version).await?.disk;
    let mount_point = cache.dir().join(format!("export-{}", std::process::id()));
    let convert = move || match format {
        Format::TarZst => olbake_local::export_tar(&disk, &mount_point, &to),
        Format::Qcow2 | Format::Raw => olbake_local::export_qcow2(&disk, &to),
    };
    Ok(blocking(convert).await?)
}

async fn blocking(
    work: impl FnOnce() -> std::result::Result<(), MachineError> + Send + 'static,
) -> std::result::Result<(), MachineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
