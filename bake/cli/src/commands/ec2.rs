//! Commands that need AWS. Each is known to every olbake; one that was built without AWS says so.

#[cfg(feature = "aws")]
mod publish;

use super::Context;
use crate::args::PublishArgs;
use crate::errors::Result;

/// `olbake publish`.
pub(super) fn publish(args: &PublishArgs, context: &mut Context) -> Result {
    #[cfg(feature = "aws")]
    return publish::run(args, context);
    #[cfg(not(feature = "aws"))]
    return without(args, context);
}

/// What a build without AWS does about a command that needs it.
#[cfg(not(feature = "aws"))]
fn without<A>(_args: &A, _context: &mut Context) -> Result {
    Err(super::backends::without_aws())
}
