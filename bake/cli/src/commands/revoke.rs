//! `olbake revoke IMAGE@VERSION --reason TEXT`: forbids a version and all that starts from it.

use super::Context;
use super::promotion::Desk;
use crate::args::RevokeArgs;
use crate::errors::{CliError, Result};
use crate::ui::promotion as draw;

pub(super) fn run(args: &RevokeArgs, context: &mut Context) -> Result {
    if args.reason.trim().is_empty() {
        return Err(CliError::user("a revocation is for good: say why"));
    }
    let desk = Desk::open(context)?;
    let version = desk.exact(&args.version)?;
    let revoked = desk.promotions(&context.startup).revoke(&version, &args.reason)?;
    draw::revoked(&context.ui, &revoked);
    Ok(())
}
