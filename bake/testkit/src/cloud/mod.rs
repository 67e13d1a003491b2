//! A cloud in memory, and processes that come and go while it stays: what the tests of stacks are made of.
//!
//! | file | what it has |
//! |---|---|
//! | `world.rs` | objects, instances, and the rules between them |
//! | `types.rs` | the types of objects |
//! | `provider.rs` | the world as a provider |
//! | `journal.rs` | journals in memory |
//! | `faults.rs` | every call counted; one goes wrong |
//! | `clock.rs` | time that passes only while nothing else happens |
//!
//! [`Cloud::run`] is the life of one process: what it does goes on until it ends or the chosen call hangs, and then
//! everything that it had is dropped, as SIGKILL would.

mod clock;
mod faults;
mod journal;
mod provider;
mod settled;
mod types;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use olbake_core::Digest;
use olbake_core::rollout::{Availability, Lien};
use olbake_engine::stack::{HookCommand, Site, Stacks};
use olbake_engine::state::{
    Clock, Heartbeat, HoldOptions, Holder, Process as ProcessId, StateStore, Takeover, Writer,
};

pub use clock::SimulatedClock;
pub use faults::{Among, Call, Chosen, Fault, Faults, Nature};
pub use types::catalog;
pub use world::{Extent, Instance, Manner, Thing, World};

use journal::Journals;

/// What is known of images, and of the place.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Images that cannot be launched.
    pub availability: BTreeMap<Digest, Availability>,
    /// Images that are registered, and not whole.
    pub damaged: BTreeSet<Digest>,
    /// The commands that images want run.
    pub hooks: BTreeMap<Digest, Vec<HookCommand>>,
    /// The temporary changes of a group that rollouts need.
    pub liens: BTreeSet<Lien>,
    /// For how many instances more there is room, where that is bounded.
    pub room: Option<u32>,
}

/// Everything that outlives a process.
#[derive(Default)]
pub struct Cloud {
    /// What time it is.
    pub clock: Arc<SimulatedClock>,
    /// What goes wrong.
    pub faults: Faults,
    world: Mutex<World>,
    settings: Mutex<Settings>,
    journals: Mutex<Journals>,
    processes: AtomicU32,
    busy: AtomicUsize,
    busiest: AtomicUsize,
}

/// A process, as the cloud and the journals see it.
pub struct Process {
    cloud: Arc<Cloud>,
    number: u32,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.number)
    }
}

impl Cloud {
    /// Nothing is there yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Looks at what is there, or changes it from outside.
    pub fn with<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world.lock().expect("no thread panics with the world");
        world.now = self.clock.steady();
        let result = act(&mut world);
        world.take_note();
        result
    }

    /// Another cloud, with the same in it.
    pub fn fork(&self) -> Arc<Self> {
        let journals = self.journals.lock().expect("no thread panics with a journal").clone();
        Arc::new(Self {
            clock: Arc::new(self.clock.fork()),
            world: Mutex::new(self.with(|world| world.clone())),
            settings: Mutex::new(self.settings().clone()),
            journals: Mutex::new(journals),
            processes: AtomicU32::new(self.processes.load(Ordering::SeqCst)),
            ..Self::default()
        })
    }

    /// Stands for all that outlives processes, but for the time.
    pub fn fingerprint(&self) -> Digest {
        let journals = self.journals.lock().expect("no thread panics with a journal");
        let world = self.with(|world| {
            format!("{:?} {:?} {:?} {:?}", world.things, world.instances, world.liens, world.foreign)
        });
        Digest::of(format!("{world} {:?}", *journals).as_bytes())
    }

    /// What is known of images.
    pub fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().expect("no thread panics with settings")
    }

    /// The most changes that were under way at the same time since this was asked last.
    pub fn busiest(&self) -> usize {
        self.busiest.swap(0, Ordering::SeqCst)
    }

    fn busy(&self) -> impl Drop + use<'_> {
        struct Busy<'a>(&'a AtomicUsize);
        impl Drop for Busy<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let now = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        self.busiest.fetch_max(now, Ordering::SeqCst);
        Busy(&self.busy)
    }

    /// A new process: its own view of the cloud and the journals, and how it holds stacks.
    pub fn process(self: &Arc<Self>) -> (Stacks, HoldOptions) {
        let number = self.processes.fetch_add(1, Ordering::SeqCst) + 1;
        let process = Arc::new(Process { cloud: self.clone(), number });
        let mut site = Site::new(vec![process.clone()], process.clone());
        site.clock = self.clock.clone();
        (Stacks { store: StateStore::new(process), site }, self.options(number))
    }

    /// A process that cannot be looked at from here, so that only its lease says whether it lives.
    fn options(&self, number: u32) -> HoldOptions {
        let process = ProcessId {
            pid: number,
            started: 1,
            boot: "b".into(),
            namespace: "n".into(),
            machine: "elsewhere".into(),
        };
        let holder = Holder {
            who: format!("person-{number}"),
            host: "far".into(),
            process,
            command: "olbake deploy".into(),
            since: self.clock.now(),
        };
        HoldOptions {
            holder,
            writer: Writer::fixed(number.into()),
            clock: self.clock.clone(),
            ttl: HoldOptions::TTL,
            heartbeat: Heartbeat::Task,
            takeover: Takeover::Refuse,
        }
    }

    /// Lets a process do something until it ends, or until the chosen call hangs; then everything that it had is
    /// dropped. None: it was cut short so.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.freeze(work) {
            Ok(ended) => Some(ended),
            Err(Frozen { runtime, work, .. }) => {
                drop(work);
                runtime.shutdown_background();
                self.busy.store(0, Ordering::SeqCst);
                None
            }
        }
    }

    /// Lets a process do something until it ends, or until the chosen call hangs; then nothing of it moves any more.
    pub fn freeze<'a, T>(&'a self, work: impl Future<Output = T> + 'a) -> Result<T, Frozen<'a, T>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime of one thread can be had");
        let mut work: Pin<Box<dyn Future<Output = T> + 'a>> = Box::pin(work);
        let ended = runtime.block_on(async {
            self.clock.start();
            let ended = tokio::select! {
                biased;
                ended = &mut work => Some(ended),
                () = self.faults.hung() => None,
            };
            self.clock.stop();
            ended
        });
        ended.ok_or(Frozen { cloud: self, runtime, work })
    }

    /// Lets so much time pass that no lease is left.
    pub fn let_leases_end(&self) {
        self.clock.advance(HoldOptions::TTL + Duration::from_secs(1));
    }
}

/// A process that was stopped.
pub struct Frozen<'a, T> {
    cloud: &'a Cloud,
    runtime: tokio::runtime::Runtime,
    work: Pin<Box<dyn Future<Output = T> + 'a>>,
}

impl<T> Frozen<'_, T> {
    /// Lets it go on to its end, with the call that hung.
    pub fn wake(self) -> T {
        let Self { cloud, runtime, work } = self;
        cloud.faults.release();
        let ended = runtime.block_on(async {
            cloud.clock.start();
            let ended = work.await;
            cloud.clock.stop();
            ended
        });
        runtime.shutdown_background();
        ended
    }
}
