//! Instances that are VMs.

use std::time::Duration;

use super::exec::Executed;
use super::inputs::Address;
use super::instance::{InstanceSpec, State};
use super::place::Place;
use super::{CloudError, Id, Kind};

fn none(id: &Id) -> CloudError {
    CloudError::Spec { kind: Kind::Instance, id: id.clone(), problem: "no VMs yet".to_owned() }
}

pub(super) fn prepare(_: &Place, spec: &InstanceSpec, _: &Address) -> Result<String, CloudError> {
    Err(none(&spec.id))
}
pub(super) fn state(_: &Place, id: &Id) -> Result<State, CloudError> {
    Err(none(id))
}
pub(super) fn power_off(_: &Place, id: &Id) -> Result<(), CloudError> {
    Err(none(id))
}
pub(super) fn run(_: &Place, id: &Id, _: &[String], _: Duration) -> Result<Executed, CloudError> {
    Err(none(id))
}
