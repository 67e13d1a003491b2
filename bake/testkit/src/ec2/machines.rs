//! Gives instances their bodies: starts, stops and ends them as moto's records say, and tells moto what they did by
//! themselves. Main type: [`Machines`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use camino::Utf8PathBuf;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};

use super::body::{Bodies, Body, BodyError, BodyState};
use super::calls::held;
use super::error::{CloudError, io_error};
use super::shared::Shared;
use super::snapshots::Snapshots;

/// How long an instance waits for its address.
const PLACE_PATIENCE: Duration = Duration::from_secs(30);

/// What moto knows of an instance: `instance_record` of `moto/instances.py`.
#[derive(Clone, Debug, Deserialize)]
struct Record {
    id: String,
    region: String,
    state: String,
    address: String,
    prefix: u8,
    user_data: String,
    volume: Option<String>,
    snapshot: Option<String>,
    size: Option<u32>,
    on_shutdown: String,
    metadata: BTreeMap<String, String>,
}

/// Where an instance's body is, as far as was done for it.
#[derive(Clone, Debug, Default)]
enum Life {
    /// Nothing was done yet.
    #[default]
    Unborn,
    /// Its image has no disk: there is a record and nothing else.
    Bodiless,
    /// It was started.
    Running(Box<Body>),
    /// It was stopped.
    Stopped,
    /// It was ended.
    Ended,
}

type Turn = OwnedMutexGuard<Life>;

#[derive(Clone, Default)]
struct Machine {
    /// Region and address.
    place: (String, String),
    volume: Option<String>,
    snapshot: Option<String>,
    life: Arc<AsyncMutex<Life>>,
}

pub(super) struct Machines {
    bodies: Option<Arc<dyn Bodies>>,
    folder: Utf8PathBuf,
    known: Mutex<BTreeMap<String, Machine>>,
    /// Rung when records may have changed.
    pub(super) bell: Notify,
}

/// An instance that was stopped for a while.
pub(super) struct Resting {
    turn: Turn,
    body: Body,
    bodies: Arc<dyn Bodies>,
}

impl Resting {
    /// Starts it again.
    pub(super) async fn wake(self) -> Result<(), BodyError> {
        let Self { turn, body, bodies } = self;
        let started = bodies.start(&body).await;
        drop(turn);
        started
    }
}

impl Machines {
    /// Those of a folder, which is empty.
    pub(super) fn new(bodies: Option<Arc<dyn Bodies>>, folder: Utf8PathBuf) -> Self {
        Self { bodies, folder, known: Mutex::default(), bell: Notify::new() }
    }

    fn disk(&self, volume: &str) -> Utf8PathBuf {
        self.folder.join(format!("{volume}.raw"))
    }

    fn machine(&self, id: &str) -> Option<Machine> {
        held(&self.known).get(id).cloned()
    }

    /// Waits until nobody else has an address: who was terminated has it until the body is gone, and moto gives it to
    /// others at once.
    async fn wait_for_place(&self, id: &str, place: &(String, String)) {
        let others: Vec<Machine> = held(&self.known)
            .iter()
            .filter(|(other, machine)| *other != id && machine.place == *place)
            .map(|(_, machine)| machine.clone())
            .collect();
        for machine in others {
            let since = Instant::now();
            while since.elapsed() < PLACE_PATIENCE
                && machine.life.try_lock().map_or(true, |life| matches!(*life, Life::Running(_)))
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// The console of an instance that has a body.
    pub(super) async fn console(&self, id: &str) -> Option<String> {
        self.machine(id)?;
        Some(self.bodies.as_ref()?.console(id).await)
    }

    /// Has instances boot again.
    pub(super) async fn reboot(&self, ids: &[&str]) -> Result<(), CloudError> {
        for id in ids {
            let (Some(machine), Some(bodies)) = (self.machine(id), &self.bodies) else { continue };
            if let Life::Running(_) = &*machine.life.lock_owned().await {
                bodies.reboot(id).await?;
            }
        }
        Ok(())
    }

    /// Stops an instance that runs, so that its disk is at rest, until [`Resting::wake`].
    pub(super) async fn rest(&self, id: &str) -> Result<Option<Resting>, CloudError> {
        let (Some(machine), Some(bodies)) = (self.machine(id), &self.bodies) else { return Ok(None) };
        let turn = machine.life.lock_owned().await;
        let Life::Running(body) = &*turn else { return Ok(None) };
        let body = (**body).clone();
        bodies.stop(id).await?;
        Ok(Some(Resting { turn, body, bodies: Arc::clone(bodies) }))
    }

    /// Takes a snapshot of a volume as it is: what a running instance has not written through yet is not in it. Says
    /// whether the volume has bytes.
    pub(super) async fn take(
        &self,
        snapshots: &Arc<Snapshots>,
        (region, id): (&str, &str),
        volume: &str,
        resting: Option<&Resting>,
    ) -> Result<bool, CloudError> {
        let disk = self.disk(volume);
        let owner = held(&self.known)
            .iter()
            .find(|(_, machine)| machine.volume.as_deref() == Some(volume))
            .map(|(instance, machine)| (instance.clone(), machine.clone()));
        let _turn = match (&owner, resting) {
            (Some((_, machine)), None) => Some(Arc::clone(&machine.life).lock_owned().await),
            _ => None,
        };
        if !disk.exists() {
            return Ok(false);
        }
        let base = owner.as_ref().and_then(|(_, machine)| machine.snapshot.clone());
        let (taking, region, id) = (Arc::clone(snapshots), region.to_owned(), id.to_owned());
        let copied = disk.clone();
        let take = move || taking.take(&id, &region, &copied, base.as_deref());
        let taken = tokio::task::spawn_blocking(take).await;
        taken.expect("copying does not panic").map_err(io_error("cannot copy", &disk))?;
        Ok(true)
    }

    /// Ends all bodies.
    pub(super) async fn end_all(&self) {
        let Some(bodies) = &self.bodies else { return };
        let known: Vec<_> =
            held(&self.known).iter().map(|(id, machine)| (id.clone(), machine.clone())).collect();
        for (id, machine) in known {
            let mut turn = machine.life.lock_owned().await;
            if matches!(*turn, Life::Running(_) | Life::Stopped) {
                // What cannot be ended now is ended by who opens the folder next.
                bodies.end(&id).await.ok();
            }
            *turn = Life::Ended;
        }
    }

    /// The body that a record asks for; nothing if its image has no disk.
    async fn body(&self, record: &Record, snapshots: &Arc<Snapshots>) -> Result<Option<Body>, CloudError> {
        let (Some(volume), Some(snapshot)) = (&record.volume, &record.snapshot) else { return Ok(None) };
        let (disk, size) = (self.disk(volume), record.size.unwrap_or(8));
        if !disk.exists() {
            let (all, from, new) = (Arc::clone(snapshots), snapshot.clone(), disk.with_extension("new"));
            let made = new.clone();
            let made = tokio::task::spawn_blocking(move || all.materialise(&from, &made, size)).await;
            if !made.expect("copying does not panic").map_err(io_error("cannot make", &new))? {
                return Ok(None);
            }
            std::fs::rename(&new, &disk).map_err(io_error("cannot make", &disk))?;
        }
        let wrong = |what: &str| CloudError::Answer(format!("{}: {what}", record.id));
        Ok(Some(Body {
            instance: record.id.clone(),
            address: record.address.parse().map_err(|_| wrong("no address"))?,
            prefix: record.prefix,
            disk,
            user_data: STANDARD.decode(&record.user_data).map_err(|_| wrong("user data is no base64"))?,
            metadata: record.metadata.clone(),
        }))
    }
}

/// Whether one of these instances was terminated.
pub(super) async fn ended(shared: &Shared, instances: &[String]) -> Result<bool, CloudError> {
    if instances.is_empty() {
        return Ok(false);
    }
    let records = shared.moto.record("instances", &json!({})).await?;
    let lives = |id: &String| {
        let mut all = records.as_array().into_iter().flatten();
        all.any(|record| record["id"] == **id && record["state"] != "terminated")
    };
    Ok(!instances.iter().all(lives))
}

/// Makes bodies be as records say, once; what takes long goes on by itself.
pub(super) async fn reconcile(shared: &Arc<Shared>) -> Result<(), CloudError> {
    if shared.machines.bodies.is_none() {
        return Ok(());
    }
    let records = shared.moto.record("instances", &json!({})).await?;
    let records: Vec<Record> =
        serde_json::from_value(records).map_err(|error| CloudError::Answer(error.to_string()))?;
    for record in records {
        let machine = {
            let mut known = held(&shared.machines.known);
            let machine = known.entry(record.id.clone()).or_default();
            machine.place = (record.region.clone(), record.address.clone());
            if record.volume.is_some() {
                machine.volume.clone_from(&record.volume);
                machine.snapshot.clone_from(&record.snapshot);
            }
            machine.clone()
        };
        // Whoever has the turn rings the bell afterwards.
        let Ok(turn) = machine.life.clone().try_lock_owned() else { continue };
        if matches!(
            (&*turn, record.state.as_str()),
            (Life::Ended, _) | (Life::Stopped, "stopped") | (Life::Bodiless, "running" | "stopped")
        ) {
            continue;
        }
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            if let Err(error) = step(&shared, &record, &machine, turn).await {
                shared.log(&format!("{}: {error}: {:?}", record.id, std::error::Error::source(&error)));
                let reason = "Server.InternalError";
                let ended = json!({ "region": record.region, "id": record.id, "state": "terminated", "reason": reason });
                shared.moto.record("set_instance", &ended).await.ok();
            }
        });
    }
    Ok(())
}

async fn step(
    shared: &Arc<Shared>,
    record: &Record,
    machine: &Machine,
    mut turn: Turn,
) -> Result<(), CloudError> {
    let Some(bodies) = &shared.machines.bodies else { return Ok(()) };
    let set = async |state: &str, reason: Option<&str>| {
        let change = json!({
            "region": record.region, "id": record.id, "state": state, "was": record.state, "reason": reason,
        });
        shared.moto.record("set_instance", &change).await.map(drop)
    };
    match record.state.as_str() {
        "pending" => {
            match shared.machines.body(record, &shared.snapshots).await? {
                Some(body) => {
                    shared.machines.wait_for_place(&record.id, &machine.place).await;
                    bodies.start(&body).await?;
                    *turn = Life::Running(Box::new(body));
                }
                None => *turn = Life::Bodiless,
            }
            set("running", None).await?;
        }
        "stopping" => {
            if let Life::Running(_) = *turn {
                bodies.stop(&record.id).await?;
                *turn = Life::Stopped;
            }
            set("stopped", None).await?;
        }
        "running" => {
            let ended_itself =
                matches!(*turn, Life::Running(_)) && bodies.state(&record.id).await != BodyState::Running;
            if !ended_itself {
                return Ok(());
            }
            *turn = Life::Stopped;
            let terminate = record.on_shutdown == "terminate";
            set(if terminate { "terminated" } else { "stopped" }, Some("Client.InstanceInitiatedShutdown"))
                .await?;
        }
        "terminated" | "shutting-down" => {
            if matches!(*turn, Life::Running(_) | Life::Stopped) {
                bodies.end(&record.id).await?;
            }
            *turn = Life::Ended;
            if let Some(volume) = &machine.volume {
                let disk = shared.machines.disk(volume);
                if disk.exists() {
                    std::fs::remove_file(&disk).map_err(io_error("cannot remove", &disk))?;
                }
            }
        }
        _ => return Ok(()),
    }
    drop(turn);
    shared.machines.bell.notify_one();
    Ok(())
}
