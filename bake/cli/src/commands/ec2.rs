//! Commands that need AWS, and what others want of it. Each is known to every olbake; one that was built without AWS
//! says so.

#[cfg(feature = "aws")]
mod bake;
#[cfg(feature = "aws")]
mod gc;
#[cfg(feature = "aws")]
mod import;
#[cfg(feature = "aws")]
mod publish;
#[cfg(feature = "aws")]
mod shared;

#[cfg(feature = "aws")]
pub(super) use bake::run as bake;
#[cfg(feature = "aws")]
pub(super) use gc::run as gc;
#[cfg(feature = "aws")]
pub(super) use import::run as import;
#[cfg(feature = "aws")]
pub(super) use publish::run as publish;
#[cfg(feature = "aws")]
pub(super) use shared::{new_key, tell_readers, unwrap};
#[cfg(not(feature = "aws"))]
pub(super) use without::{
    bake, command as gc, command as import, command as publish, new_key, tell_readers, unwrap,
};

/// What a build without AWS does.
#[cfg(not(feature = "aws"))]
mod without {
    use olbake_core::promotion::Channel;
    use olbake_core::stack::StackName;
    use olbake_core::{Digest, ImageRef};
    use olbake_engine::bake::PlannedImage;
    use olbake_engine::envelope::{DataKey, Header};
    use olbake_engine::registry::Records;

    use super::super::Context;
    use super::super::backends::without_aws;
    use super::super::bake::End;
    use super::super::place::Place;
    use crate::args::BakeArgs;
    use crate::errors::Result;

    pub(in crate::commands) fn command<A>(_args: &A, _context: &mut Context) -> Result {
        Err(without_aws())
    }

    pub(in crate::commands) fn bake(
        _args: &BakeArgs,
        _context: &Context,
        _place: &Place,
        _planned: Vec<PlannedImage>,
    ) -> Result<Vec<End>> {
        Err(without_aws())
    }

    pub(in crate::commands) fn unwrap(_stack: &StackName, _header: &Header) -> Result<DataKey> {
        Err(without_aws())
    }

    pub(in crate::commands) fn new_key(_stack: &StackName, _kms_key: &str) -> Result<(DataKey, Header)> {
        Err(without_aws())
    }

    pub(in crate::commands) fn tell_readers(
        place: &Place,
        _records: &Records,
        _image: &ImageRef,
        _channel: &Channel,
        _version: &Digest,
    ) -> Result {
        if place.config.parameters.is_some() { Err(without_aws()) } else { Ok(()) }
    }
}
