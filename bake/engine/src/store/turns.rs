//! Work done out of order by several threads, handed over in order. Main type: [`Turns`].

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex};

/// Hands results to `state` in the order of their tickets, whichever thread is ready first.
///
/// At most `window` results wait for their turn, which bounds memory.
pub(super) struct Turns<T, S, E> {
    inner: Mutex<Inner<T, S, E>>,
    moved: Condvar,
    window: usize,
}

struct Inner<T, S, E> {
    next: usize,
    waiting: BTreeMap<usize, T>,
    state: S,
    failed: Option<E>,
}

impl<T, S, E> Turns<T, S, E> {
    pub(super) fn new(state: S, window: usize) -> Self {
        let inner = Inner { next: 0, waiting: BTreeMap::new(), state, failed: None };
        Self { inner: Mutex::new(inner), moved: Condvar::new(), window }
    }

    /// Hands over the result of a ticket; `take` is called for each result whose turn has come. Tickets count from
    /// 0, each is used once, and a thread hands over one before it draws the next. False when all should stop.
    pub(super) fn deliver(
        &self,
        ticket: usize,
        result: Result<T, E>,
        mut take: impl FnMut(&mut S, T) -> Result<(), E>,
    ) -> bool {
        let mut inner = self.inner.lock().expect("no thread panics while it holds the turns");
        while inner.failed.is_none() && ticket >= inner.next + self.window {
            inner = self.moved.wait(inner).expect("no thread panics while it holds the turns");
        }
        if inner.failed.is_some() {
            return false;
        }
        let outcome = result.and_then(|result| {
            inner.waiting.insert(ticket, result);
            let Inner { next, waiting, state, .. } = &mut *inner;
            while let Some(ready) = waiting.remove(&*next) {
                take(state, ready)?;
                *next += 1;
            }
            Ok(())
        });
        inner.failed = outcome.err();
        self.moved.notify_all();
        inner.failed.is_none()
    }

    /// The state after the last turn, or why it came to an end.
    pub(super) fn finish(self) -> Result<S, E> {
        let inner = self.inner.into_inner().expect("no thread panics while it holds the turns");
        match inner.failed {
            Some(error) => Err(error),
            None => Ok(inner.state),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn run(fail_at: Option<usize>) -> Result<Vec<usize>, usize> {
        let turns = Turns::new(Vec::new(), 3);
        let tickets = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..3_u64 {
                let (turns, tickets) = (&turns, &tickets);
                scope.spawn(move || {
                    loop {
                        let ticket = tickets.fetch_add(1, Ordering::Relaxed);
                        if ticket >= 200 {
                            return;
                        }
                        if (ticket as u64).is_multiple_of(thread + 2) {
                            std::thread::yield_now();
                        }
                        let result = if fail_at == Some(ticket) { Err(ticket) } else { Ok(ticket) };
                        if !turns.deliver(ticket, result, |seen, ticket| {
                            seen.push(ticket);
                            Ok(())
                        }) {
                            return;
                        }
                    }
                });
            }
        });
        turns.finish()
    }

    #[test]
    fn results_come_in_order() {
        assert_eq!(run(None), Ok((0..200).collect()));
    }

    #[test]
    fn a_failure_stops_every_thread() {
        assert_eq!(run(Some(57)), Err(57));
    }
}
