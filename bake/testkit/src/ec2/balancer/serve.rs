//! The HAProxy of one load balancer: started, told what changes, and replaced where that is not enough. Main type:
//! [`Serving`].
//!
//! Every backend has slots for targets from the beginning. Who is in which is in the configuration too, so that a
//! process that is started again knows what the one before was told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_local::cloud::{Runtime, Slot};
use olbake_local::disk_machine::HostProcess;

use super::Target;
use super::haproxy::{Plan, servers_of};

/// How many targets a backend can have.
const SLOTS: usize = 64;
/// How long a new process may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// The new process takes over the listeners of the one before, which ends its connections.
const SCRIPT: &str = r#"# Written by olbake.
serve() {
    haproxy -db -f haproxy.cfg "$@" &
    child=$!
}
trap 'serve -x admin.sock -sf "$child"' HUP
serve
while :; do
    wait "$child"
    kill -0 "$child" 2>/dev/null && continue
    sleep 0.2
    serve
done
"#;

/// A balancer's process. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Serving {
    folder: Utf8PathBuf,
    process: Option<HostProcess>,
    /// The word for the template that the process has read.
    structure: String,
    /// Who is in which slot, by backend.
    seats: BTreeMap<String, Seats>,
    served: Plan,
}

/// The slots of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seats {
    /// The slot to try next: one that became free may have requests that still end.
    next: usize,
    slots: Vec<Option<(Target, u16)>>,
}

impl Serving {
    pub(super) fn new(folder: Utf8PathBuf) -> Self {
        Self {
            folder,
            process: None,
            structure: String::new(),
            seats: BTreeMap::new(),
            served: Plan::default(),
        }
    }

    /// Serves by a plan, which may be the one that is served already; why not, if it cannot be.
    pub(super) async fn serve(&mut self, plan: Plan) -> Result<(), String> {
        let runs = self.process.as_mut().is_some_and(HostProcess::runs);
        if runs && self.served == plan {
            return Ok(());
        }
        let mut own = std::mem::replace(self, Self::new(self.folder.clone()));
        let done = tokio::task::spawn_blocking(move || {
            let served = own.serve_now(plan, runs);
            (own, served)
        });
        let (own, served) = done.await.map_err(|error| error.to_string())?;
        *self = own;
        served
    }

    fn serve_now(&mut self, plan: Plan, runs: bool) -> Result<(), String> {
        let structure = Digest::of(plan.template.as_bytes()).short();
        self.seat(&plan)?;
        self.write(&plan, &structure)
            .map_err(|error| format!("cannot write the configuration in `{}`: {error}", self.folder))?;
        let failed = |error: olbake_engine::machine::MachineError| error.to_string();
        match self.process.as_ref().filter(|_| runs) {
            None => {
                self.process = None;
                let process = HostProcess::start(
                    "env",
                    ["--default-signal=HUP", "sh", "serve.sh"],
                    &self.folder,
                    "haproxy.log",
                );
                self.process = Some(process.map_err(failed)?);
            }
            Some(process) if self.structure != structure => process.hang_up().map_err(failed)?,
            Some(_) => {}
        }
        let runtime = Runtime::of(self.folder.clone());
        self.await_structure(&runtime, &structure)?;
        self.structure = structure;
        runtime.converge(|backend, slot| self.slot(backend, slot))?;
        self.served = plan;
        Ok(())
    }

    /// Gives every target a slot; those that stay keep theirs.
    fn seat(&mut self, plan: &Plan) -> Result<(), String> {
        self.seats.retain(|backend, _| plan.backends.contains_key(backend));
        for (backend, targets) in &plan.backends {
            let empty = || Seats { next: 0, slots: vec![None; SLOTS] };
            self.seats.entry(backend.clone()).or_insert_with(empty).put(targets)?;
        }
        Ok(())
    }

    fn slot(&self, backend: &str, slot: u16) -> Option<Slot> {
        let seats = self.seats.get(backend)?;
        let (Target { id: _, address, port }, weight) = seats.slots.get(usize::from(slot))?.as_ref()?;
        Some(Slot { address: *address, port: *port, weight: *weight, draining: false })
    }

    fn write(&self, plan: &Plan, structure: &str) -> std::io::Result<()> {
        let mark = format!("global\n    description olbake:{structure}\n");
        let mut text = plan.template.replacen("global\n", &mark, 1);
        for (backend, seats) in &self.seats {
            text = text.replacen(&servers_of(backend), &seats.lines(), 1);
        }
        let Self { folder, .. } = self;
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("serve.sh"), SCRIPT)?;
        let new = folder.join("haproxy.new");
        std::fs::write(&new, text)?;
        std::fs::rename(new, folder.join("haproxy.cfg"))
    }

    fn await_structure(&self, runtime: &Runtime, structure: &str) -> Result<(), String> {
        let end = Instant::now() + ANSWER;
        while !runtime.structure().is_ok_and(|found| found == structure) {
            if Instant::now() >= end {
                return Err(format!(
                    "HAProxy does not serve: {}",
                    last_lines(&self.folder.join("haproxy.log"))
                ));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

impl Seats {
    fn put(&mut self, targets: &BTreeMap<Target, u16>) -> Result<(), String> {
        for slot in &mut self.slots {
            *slot = slot.take().and_then(|(target, _)| targets.get(&target).map(|weight| (target, *weight)));
        }
        for (target, weight) in targets {
            if self.slots.iter().flatten().any(|(seated, _)| seated == target) {
                continue;
            }
            let free = (0..SLOTS).map(|step| (self.next + step) % SLOTS);
            let free = { free }.find(|slot| self.slots[*slot].is_none());
            let free = free.ok_or_else(|| format!("more than {SLOTS} targets get the same requests"))?;
            self.slots[free] = Some((target.clone(), *weight));
            self.next = (free + 1) % SLOTS;
        }
        Ok(())
    }

    fn lines(&self) -> String {
        let lines = self.slots.iter().enumerate().map(|(number, slot)| match slot {
            Some((Target { id: _, address, port }, weight)) => {
                format!("    server s{number} {address}:{port} weight {weight}\n")
            }
            None => format!("    server s{number} 127.0.0.1:1 disabled\n"),
        });
        lines.collect()
    }
}

fn last_lines(log: &Utf8Path) -> String {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_keep_their_slots_and_those_left_are_not_taken_at_once() {
        let target = |port| Target { id: "i-1".into(), address: [10, 0, 0, 1].into(), port };
        let mut seats = Seats { next: 0, slots: vec![None; SLOTS] };
        let ports = |seats: &Seats| -> Vec<Option<u16>> {
            seats.slots[..3].iter().map(|slot| slot.as_ref().map(|(target, _)| target.port)).collect()
        };
        seats.put(&[(target(1), 1), (target(2), 1)].into()).unwrap();
        assert_eq!(ports(&seats), [Some(1), Some(2), None]);
        seats.put(&[(target(2), 7), (target(3), 1)].into()).unwrap();
        assert_eq!(ports(&seats), [None, Some(2), Some(3)]);
        assert!(seats.lines().contains("server s1 10.0.0.1:2 weight 7\n"));
    }
}
