//! A reboot in mid-run. The operation only asks for it: its report goes to the journal first, and the session boots the
//! machine when nothing else runs.

use std::sync::atomic::Ordering;

use camino::Utf8Path;
use olbake_core::operation::Action;
use olbake_core::protocol::Reboots;
use olbake_core::report::OperationReport;

use super::{Decision, Effect, NONE, Work, change};
use crate::context::Context;
use crate::error::Result;

/// What Debian's packages leave where a change takes effect at the next boot only.
const REQUIRED: &str = "/run/reboot-required";
/// What differs, in the report: from which boot the machine was asked away.
const BOOT: &str = "boot";

/// [`Action::Reboot`].
pub(crate) fn reboot<'a>(context: &Context<'_>, required: bool) -> Result<Decision<'a>> {
    if context.verifying || (required && !context.world().exists(Utf8Path::new(REQUIRED))?) {
        return Ok(Decision::Fine);
    }
    if !context.run.booted {
        return Ok(Decision::Skip("systemd does not run here".to_owned()));
    }
    if context.run.reboots == Reboots::Skipped && !context.is_check() {
        return Ok(Decision::Skip("this machine is not booted again while it is worked on".to_owned()));
    }
    let changes = vec![change(BOOT, Some(boot_id()), NONE)];
    let ask = |context: &Context<'_>| {
        context.run.reboot.store(true, Ordering::SeqCst);
        Ok(Effect::Changed)
    };
    Ok(Work::act(changes, ask, |world| {
        world.predict_opaque();
        Ok(())
    })
    .decide())
}

/// Whether this is the report of a reboot that was asked for and did not come.
pub(crate) fn is_outstanding(action: &Action, report: &OperationReport) -> bool {
    let from =
        report.changes.iter().find(|change| change.what == BOOT).and_then(|change| change.from.as_ref());
    matches!(action, Action::Reboot { .. }) && from.is_some_and(|from| *from == boot_id())
}

/// The kernel's boot identity; empty where it has none.
pub(crate) fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}
