//! Local machines: containers (systemd-nspawn) and VMs (QEMU), and the disks they start from.
//!
//! [`LocalBuilder`] is the way in: it carries out what `olbake_engine::machine` asks of a place where machines
//! run. A process that uses it calls [`isolate`] first of all, so that mounts and loop devices end with it;
//! processes end with it by themselves. What an older process left all the same is ended by `sweep`.

mod basedisk;
mod boot;
mod builder;
mod cgroup;
pub mod cloud;
mod container;
mod copy;
mod debian;
mod disk;
pub mod disk_machine;
mod export;
mod guest;
mod host;
mod kvm;
mod mount;
mod nspawn;
mod packages;
mod port;
mod preflight;
mod provider;
mod seed;
mod session;
mod sweep;
mod terminal;
mod vm;

pub use builder::LocalBuilder;
pub use copy::copy_disk;
pub use disk::root_partition;
pub use export::{export_qcow2, export_tar};
pub use mount::{Access, MountGuard, isolate, mount_root};
pub use provider::{Disks, LocalProvider};
