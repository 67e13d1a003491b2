//! The demo: bakes the example images, boots and checks them, and says what it did.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::{self, Built};
use crate::setup;

/// Bakes every example image and prints the table of what there is.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    eprintln!("building olbake and its agent");
    let built = build::release()?;
    olbake(&built, &["check"])?;
    olbake(&built, &["bake", "--all"])?;
    olbake(&built, &["images"])?;
    println!();
    println!("The images above were baked, booted fresh and checked. Look further with:");
    for line in [
        "show web           what is in the version and what was checked",
        "why web            what a bake would do now, and why",
        "shell web          a shell on a throw-away copy",
        "verify web --vm    the checks again, under UEFI in QEMU",
    ] {
        println!("  {} {line}", built.olbake);
    }
    Ok(())
}

fn olbake(built: &Built, arguments: &[&str]) -> Result<()> {
    eprintln!("\n$ olbake {}", arguments.join(" "));
    let status = Command::new(&built.olbake)
        .args(arguments)
        .current_dir(build::root())
        .status()
        .with_context(|| format!("cannot run `{}`", built.olbake))?;
    if !status.success() {
        bail!("`olbake {}` failed", arguments.join(" "));
    }
    Ok(())
}
