//! Commands that need AWS. Each is known to every olbake; one that was built without AWS says so.

#[cfg(feature = "aws")]
mod gc;
#[cfg(feature = "aws")]
mod import;
#[cfg(feature = "aws")]
mod publish;

#[cfg(feature = "aws")]
pub(super) use gc::run as gc;
#[cfg(feature = "aws")]
pub(super) use import::run as import;
#[cfg(feature = "aws")]
pub(super) use publish::run as publish;
#[cfg(not(feature = "aws"))]
pub(super) use {without as gc, without as import, without as publish};

/// What a build without AWS does about a command that needs it.
#[cfg(not(feature = "aws"))]
pub(super) fn without<A>(_args: &A, _context: &mut super::Context) -> crate::errors::Result {
    Err(super::backends::without_aws())
}
