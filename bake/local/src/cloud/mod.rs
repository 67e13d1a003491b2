//! The local cloud: networks, names, volumes, instances and load balancers on this host that outlive the command.
//!
//! Every verb can be repeated: `ensure_…` makes what is missing and says whether there was anything to do,
//! `inspect_…` says what is there by the account of the kernel and the processes, `delete_…` succeeds when it is
//! gone. The caller chooses the ids; everything follows from the cloud's folder and the id, so that a command that
//! was killed at any point leaves nothing that the next one cannot finish. Main type: [`Cloud`].

mod balancer;
mod container;
mod disks;
mod error;
mod exec;
mod haproxy;
pub(crate) mod hostlimits;
mod id;
mod inputs;
mod instance;
pub(crate) mod keeper;
mod limits;
mod list;
mod names;
pub(crate) mod network;
mod place;
pub mod probe;
mod runtime;
mod vm;
mod volume;

use std::collections::BTreeMap;
use std::time::Duration;

use camino::Utf8Path;
use olbake_core::Digest;
use olbake_engine::machine::MachineError;

pub use balancer::{
    BalancerSpec, BalancerView, Health, HealthCheck, ListenOn, Listener, Member, MemberView, Mode,
};
pub use error::CloudError;
pub use exec::{Executed, Outcome};
pub use id::{Cidr, CidrError, Id, Kind};
pub use instance::{Attached, InstanceSpec, InstanceView, State};
pub use limits::Limits;
pub use list::{Found, Object};
pub use names::{RecordSpec, RecordView};
pub use network::{NetworkSpec, NetworkView};
use place::Place;
pub use runtime::{Runtime, Slot};
use serde::Serialize;
pub use volume::{VolumeSpec, VolumeView};

/// Whether there was anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It did not exist.
    Created,
    /// It existed and was changed or repaired.
    Updated,
    /// It was what it was to be.
    AsItIs,
}

impl Change {
    fn of(known: bool, whole: bool) -> Self {
        match (known, whole) {
            (false, _) => Self::Created,
            (true, false) => Self::Updated,
            (true, true) => Self::AsItIs,
        }
    }
}

/// What a verb that ensures something returns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ensured<T> {
    /// Whether there was anything to do.
    pub change: Change,
    /// What is there now.
    pub view: T,
}

/// A cloud on this host. Clones are the same cloud.
#[derive(Clone, Debug)]
pub struct Cloud {
    place: Place,
}

impl Cloud {
    /// The cloud of a folder, which is made where it is missing. Only root can use it.
    pub fn open(folder: &Utf8Path) -> Result<Self, CloudError> {
        Ok(Self { place: Place::open(folder)? })
    }

    /// What the host lacks for a local cloud, all at once, with the package that has it.
    pub fn preflight() -> Result<(), Vec<MachineError>> {
        crate::preflight::check_cloud()
    }

    /// Makes a network, or finds it as it is to be.
    pub async fn ensure_network(&self, spec: NetworkSpec) -> Result<Ensured<NetworkView>, CloudError> {
        self.run(move |place| network::ensure(place, &spec)).await
    }

    /// What a network is; `None`: there is none.
    pub async fn inspect_network(&self, id: &Id) -> Result<Option<NetworkView>, CloudError> {
        let id = id.clone();
        self.run(move |place| network::inspect(place, &id)).await
    }

    /// Removes a network, which nothing may have a part in.
    pub async fn delete_network(&self, id: &Id) -> Result<(), CloudError> {
        let id = id.clone();
        self.run(move |place| network::delete(place, &id)).await
    }

    /// Has a name answered in a network.
    pub async fn ensure_record(&self, spec: RecordSpec) -> Result<Ensured<RecordView>, CloudError> {
        self.run(move |place| names::ensure(place, &spec)).await
    }

    /// What a name is; `None`: there is none.
    pub async fn inspect_record(&self, id: &Id) -> Result<Option<RecordView>, CloudError> {
        let id = id.clone();
        self.run(move |place| names::inspect(place, &id)).await
    }

    /// Has a name not answered any more.
    pub async fn delete_record(&self, id: &Id) -> Result<(), CloudError> {
        let id = id.clone();
        self.run(move |place| names::delete(place, &id)).await
    }

    /// Makes a volume with an empty file system, or finds it as it is to be.
    pub async fn ensure_volume(&self, spec: VolumeSpec) -> Result<Ensured<VolumeView>, CloudError> {
        self.run(move |place| volume::ensure(place, &spec)).await
    }

    /// What a volume is; `None`: there is none.
    pub async fn inspect_volume(&self, id: &Id) -> Result<Option<VolumeView>, CloudError> {
        let id = id.clone();
        self.run(move |place| volume::inspect(place, &id)).await
    }

    /// Removes a volume and what is on it; no instance may have it.
    pub async fn delete_volume(&self, id: &Id) -> Result<(), CloudError> {
        let id = id.clone();
        self.run(move |place| volume::delete(place, &id)).await
    }

    /// Launches an instance, starts it again, or finds it running. Does not wait for its boot.
    pub async fn ensure_instance(&self, spec: InstanceSpec) -> Result<Ensured<InstanceView>, CloudError> {
        self.run(move |place| instance::ensure(place, &spec)).await
    }

    /// What an instance is; `None`: there is none.
    pub async fn inspect_instance(&self, id: &Id) -> Result<Option<InstanceView>, CloudError> {
        let id = id.clone();
        self.run(move |place| instance::inspect(place, &id)).await
    }

    /// Waits until an instance is up, has stopped, or the time is over; returns what it is then.
    pub async fn await_boot(&self, id: &Id, time: Duration) -> Result<Option<InstanceView>, CloudError> {
        let end = tokio::time::Instant::now() + time;
        loop {
            let view = self.inspect_instance(id).await?;
            let waits = view.as_ref().is_some_and(|view| view.state == State::Booting);
            if !waits || tokio::time::Instant::now() >= end {
                return Ok(view);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stops an instance: in order where it can within `grace`. Ensuring it starts it again.
    pub async fn stop_instance(&self, id: &Id, grace: Duration) -> Result<(), CloudError> {
        let id = id.clone();
        self.run(move |place| instance::stop(place, &id, grace)).await
    }

    /// Stops an instance and removes all of it but its volumes.
    pub async fn terminate_instance(&self, id: &Id, grace: Duration) -> Result<(), CloudError> {
        let id = id.clone();
        self.run(move |place| instance::terminate(place, &id, grace)).await
    }

    /// Runs a command in an instance as root, without a shell.
    pub async fn exec(&self, id: &Id, argv: Vec<String>, time: Duration) -> Result<Executed, CloudError> {
        let id = id.clone();
        self.run(move |place| exec::run(place, &id, &argv, time)).await
    }

    /// The digest of the image that an instance says it runs; `None`: it says nothing.
    pub async fn running_digest(&self, id: &Id) -> Result<Option<Digest>, CloudError> {
        let id = id.clone();
        self.run(move |place| instance::running_digest(place, &id)).await
    }

    /// The end of what an instance wrote to its console, running or not.
    pub async fn console(&self, id: &Id) -> Result<String, CloudError> {
        let id = id.clone();
        self.run(move |place| instance::console(place, &id)).await
    }

    /// Makes a load balancer, repairs it, or finds it as it is to be. Its members stay.
    pub async fn ensure_balancer(&self, spec: BalancerSpec) -> Result<Ensured<BalancerView>, CloudError> {
        self.run(move |place| balancer::ensure(place, &spec)).await
    }

    /// What a load balancer is, members and all; `None`: there is none.
    pub async fn inspect_balancer(&self, id: &Id) -> Result<Option<BalancerView>, CloudError> {
        let id = id.clone();
        self.run(move |place| balancer::inspect(place, &id)).await
    }

    /// Removes a load balancer.
    pub async fn delete_balancer(&self, id: &Id) -> Result<(), CloudError> {
        let id = id.clone();
        self.run(move |place| balancer::delete(place, &id)).await
    }

    /// Makes exactly these the members of a backend. Those that stay go on draining if they do; those that leave get
    /// nothing new from now on, and connections to them end by themselves.
    pub async fn set_members(
        &self,
        id: &Id,
        backend: &Id,
        members: Vec<Member>,
    ) -> Result<Change, CloudError> {
        self.change(id, backend, move |backend| backend.set(&members)).await
    }

    /// Adds one member, or changes its address, port or weight. It gets nothing before it has passed its checks.
    pub async fn put_member(&self, id: &Id, backend: &Id, member: Member) -> Result<Change, CloudError> {
        self.change(id, backend, move |backend| backend.put(&member)).await
    }

    /// Sets the weight of members, all at once: 0 to 256.
    pub async fn set_weights(
        &self,
        id: &Id,
        backend: &Id,
        weights: BTreeMap<Id, u16>,
    ) -> Result<Change, CloudError> {
        self.change(id, backend, move |backend| backend.weigh(&weights)).await
    }

    /// Has a member get nothing new, as long as it is one; also when the balancer is killed meanwhile.
    pub async fn drain(&self, id: &Id, backend: &Id, instance: &Id) -> Result<Change, CloudError> {
        let instance = instance.clone();
        self.change(id, backend, move |backend| backend.drain(&instance, true)).await
    }

    /// Takes a member back that was to drain.
    pub async fn undrain(&self, id: &Id, backend: &Id, instance: &Id) -> Result<Change, CloudError> {
        let instance = instance.clone();
        self.change(id, backend, move |backend| backend.drain(&instance, false)).await
    }

    /// Removes a member; it may be none.
    pub async fn remove_member(&self, id: &Id, backend: &Id, instance: &Id) -> Result<Change, CloudError> {
        let instance = instance.clone();
        let remove = move |backend: &mut balancer::Backend| {
            backend.remove(&instance);
            Ok(())
        };
        self.change(id, backend, remove).await
    }

    /// The members of a backend, with their health and connections.
    pub async fn members(&self, id: &Id, backend: &Id) -> Result<Vec<MemberView>, CloudError> {
        let view = self.inspect_balancer(id).await?;
        let missing = || CloudError::Missing { kind: Kind::Balancer, id: id.clone() };
        Ok(view.ok_or_else(missing)?.backends.remove(backend).unwrap_or_default())
    }

    /// One member; `None`: it is none.
    pub async fn member(
        &self,
        id: &Id,
        backend: &Id,
        instance: &Id,
    ) -> Result<Option<MemberView>, CloudError> {
        let members = self.members(id, backend).await?;
        Ok(members.into_iter().find(|view| view.member.instance == *instance))
    }

    /// Waits until a member has no connection or the time is over; returns how many it has then.
    pub async fn await_drained(
        &self,
        id: &Id,
        backend: &Id,
        instance: &Id,
        time: Duration,
    ) -> Result<u32, CloudError> {
        let end = tokio::time::Instant::now() + time;
        loop {
            let member = self.member(id, backend, instance).await?;
            // A balancer that does not answer is no sign that nobody is connected.
            let left =
                member.map_or(0, |view| if view.health == Health::Unknown { 1 } else { view.sessions });
            if left == 0 || tokio::time::Instant::now() >= end {
                return Ok(left);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Everything that exists of this cloud, with and without a specification.
    pub async fn list(&self) -> Result<Vec<Found>, CloudError> {
        self.run(list::list).await
    }

    /// Ends and removes everything, volumes and the folder included.
    pub async fn destroy_all(&self) -> Result<(), CloudError> {
        self.run(list::destroy_all).await
    }

    async fn change(
        &self,
        id: &Id,
        backend: &Id,
        how: impl FnOnce(&mut balancer::Backend) -> Result<(), String> + Send + 'static,
    ) -> Result<Change, CloudError> {
        let (id, backend) = (id.clone(), backend.clone());
        self.run(move |place| balancer::change(place, &id, &backend, how)).await
    }

    /// Runs blocking work where it blocks nobody.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Place) -> Result<T, CloudError> + Send + 'static,
    ) -> Result<T, CloudError> {
        let place = self.place.clone();
        match tokio::task::spawn_blocking(move || work(&place)).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(crate::host::host_error("olbake is stopping").into()),
            },
        }
    }
}
