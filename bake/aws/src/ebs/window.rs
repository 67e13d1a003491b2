//! How many calls may be under way: more while all goes well, half as many when AWS says that there are too many.
//! Main type: [`Window`].

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// What is tried first.
const FIRST: usize = 96;
/// The fewest, whatever AWS says.
const LEAST: usize = 4;
/// The most: a snapshot takes a thousand blocks a second, each in about a tenth.
const MOST: usize = 160;
/// Refusals that come together are of one cause and count once.
const TOGETHER: Duration = Duration::from_secs(1);

/// A number of places that adapts.
#[derive(Debug)]
pub(super) struct Window {
    places: Mutex<Places>,
    free: Notify,
}

/// A place, held until this value goes.
#[derive(Debug)]
pub(super) struct Place(Arc<Window>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.lock().expect(LOCKED).taken -= 1;
        self.0.free.notify_one();
    }
}

#[derive(Debug)]
struct Places {
    limit: usize,
    taken: usize,
    /// Successes since the limit last changed.
    well: usize,
    shrunk: Option<Instant>,
}

impl Places {
    fn succeeded(&mut self) {
        self.well += 1;
        if self.well >= self.limit && self.limit < MOST {
            self.limit = (self.limit + self.limit.div_ceil(8)).min(MOST);
            self.well = 0;
        }
    }

    fn refused(&mut self, now: Instant) {
        if self.shrunk.is_none_or(|then| now.duration_since(then) >= TOGETHER) {
            self.limit = (self.limit / 2).max(LEAST);
            self.shrunk = Some(now);
        }
        self.well = 0;
    }
}

const LOCKED: &str = "no thread panics while it counts";

impl Window {
    pub(super) fn new() -> Arc<Self> {
        let places = Places { limit: FIRST, taken: 0, well: 0, shrunk: None };
        Arc::new(Self { places: Mutex::new(places), free: Notify::new() })
    }

    /// Waits for a place.
    pub(super) async fn enter(self: &Arc<Self>) -> Place {
        loop {
            let free = self.free.notified();
            {
                let mut places = self.places.lock().expect(LOCKED);
                if places.taken < places.limit {
                    places.taken += 1;
                    return Place(self.clone());
                }
            }
            free.await;
        }
    }

    pub(super) fn succeeded(&self) {
        self.places.lock().expect(LOCKED).succeeded();
        self.free.notify_one();
    }

    pub(super) fn refused(&self) {
        self.places.lock().expect(LOCKED).refused(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_by_success_and_halves_once_for_refusals_together() {
        let mut places = Places { limit: FIRST, taken: 0, well: 0, shrunk: None };
        (0..10_000).for_each(|_| places.succeeded());
        assert_eq!(places.limit, MOST);
        let now = Instant::now();
        (0..50).for_each(|_| places.refused(now));
        assert_eq!(places.limit, MOST / 2);
        (1..20).for_each(|round| places.refused(now + TOGETHER * round));
        assert_eq!(places.limit, LEAST);
    }
}
