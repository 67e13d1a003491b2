//! Time that passes only while nothing else happens, and goes on from one process to the next. Main type:
//! [`SimulatedClock`].

use std::sync::Mutex;
use std::time::Duration;

use olbake_engine::state::{Clock, Timestamp};
use tokio::time::Instant;

/// The calendar at its beginning, in milliseconds since 1970.
const BEGINNING: u64 = 1_750_000_000_000;

/// Follows tokio's paused time while a process runs, and keeps what has passed when it is gone.
#[derive(Debug, Default)]
pub struct SimulatedClock(Mutex<Ticks>);

#[derive(Debug, Default)]
struct Ticks {
    passed: Duration,
    running: Option<Instant>,
}

impl SimulatedClock {
    /// A process begins. To be called inside its runtime.
    pub(super) fn start(&self) {
        self.ticks().running = Some(Instant::now());
    }

    /// A process is over. To be called inside its runtime.
    pub(super) fn stop(&self) {
        let mut ticks = self.ticks();
        if let Some(began) = ticks.running.take() {
            ticks.passed += began.elapsed();
        }
    }

    /// Another clock that shows the same.
    pub(super) fn fork(&self) -> Self {
        Self(Mutex::new(Ticks { passed: self.steady(), running: None }))
    }

    /// Lets time pass between processes.
    pub fn advance(&self, by: Duration) {
        self.ticks().passed += by;
    }

    fn ticks(&self) -> std::sync::MutexGuard<'_, Ticks> {
        self.0.lock().expect("no thread panics while it looks at the clock")
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        Timestamp(BEGINNING + u64::try_from(self.steady().as_millis()).unwrap_or(u64::MAX))
    }

    fn steady(&self) -> Duration {
        let ticks = self.ticks();
        ticks.passed + ticks.running.map_or(Duration::ZERO, |began| began.elapsed())
    }
}
