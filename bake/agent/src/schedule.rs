//! Which operation starts next: a state machine over a dependency graph, free of threads, clocks and operations.
//!
//! Main type: [`Schedule`]. Operations are numbers; waiting ones become ready when all they wait for have ended.

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Ended,
    /// Never to start.
    Dropped,
}

/// What is to be started next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// This operation.
    Start(usize),
    /// None before another ends.
    Wait,
    /// None any more.
    Nothing,
}

/// The order of a run.
pub(crate) struct Schedule {
    /// How many of those that it waits for have not ended, by operation.
    open: Vec<usize>,
    dependents: Vec<Vec<usize>>,
    states: Vec<State>,
    random: Option<u64>,
    stopped: bool,
}

impl Schedule {
    /// A schedule where operation `i` waits for `waits[i]`. With a seed, ready operations start one at a time in an
    /// order drawn from it; else the first of the recipe starts first.
    pub(crate) fn new(waits: &[Vec<usize>], seed: Option<u64>) -> Self {
        let mut dependents = vec![Vec::new(); waits.len()];
        for (index, waits) in waits.iter().enumerate() {
            for other in waits {
                dependents[*other].push(index);
            }
        }
        let open = waits.iter().map(Vec::len).collect();
        let states = vec![State::Waiting; waits.len()];
        Self { open, dependents, states, random: seed, stopped: false }
    }

    /// What to start; it counts as running from now on.
    pub(crate) fn next(&mut self) -> Next {
        let running = self.states.contains(&State::Running);
        if self.stopped || (running && self.random.is_some()) {
            return if running { Next::Wait } else { Next::Nothing };
        }
        let ready = |(index, state): (usize, &State)| {
            (*state == State::Waiting && self.open[index] == 0).then_some(index)
        };
        let mut ready = self.states.iter().enumerate().filter_map(ready);
        let chosen = match &mut self.random {
            None => ready.next(),
            Some(seed) => {
                let ready: Vec<usize> = ready.collect();
                (!ready.is_empty()).then(|| ready[(draw(seed) % ready.len() as u64) as usize])
            }
        };
        match chosen {
            Some(index) => {
                self.states[index] = State::Running;
                Next::Start(index)
            }
            None if running => Next::Wait,
            None => Next::Nothing,
        }
    }

    /// Starts an operation together with others, if it waits for nothing but them.
    pub(crate) fn join(&mut self, batch: &mut Vec<usize>, index: usize) -> bool {
        let among = batch.iter().filter(|other| self.dependents[**other].contains(&index)).count();
        let joins = self.random.is_none()
            && self.states.get(index) == Some(&State::Waiting)
            && self.open[index] == among;
        if joins {
            self.states[index] = State::Running;
            batch.push(index);
        }
        joins
    }

    /// An operation ended well.
    pub(crate) fn ended(&mut self, index: usize) {
        self.states[index] = State::Ended;
        for dependent in &self.dependents[index] {
            self.open[*dependent] -= 1;
        }
    }

    /// An operation failed: what waits for it never starts, and where it waits itself, what waits for that.
    pub(crate) fn failed(&mut self, index: usize) {
        self.states[index] = State::Ended;
        let mut lost = self.dependents[index].clone();
        while let Some(index) = lost.pop() {
            if self.states[index] == State::Waiting {
                self.states[index] = State::Dropped;
                lost.extend(&self.dependents[index]);
            }
        }
    }

    /// Nothing starts from now on.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    /// How many operations never started.
    pub(crate) fn not_run(&self) -> usize {
        self.states.iter().filter(|state| matches!(state, State::Waiting | State::Dropped)).count()
    }
}

/// The next number of splitmix64, a public-domain generator by Sebastiano Vigna.
fn draw(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0 and 1 are free, 2 waits for 0, 3 for both 1 and 2.
    fn diamond() -> Vec<Vec<usize>> {
        vec![vec![], vec![], vec![0], vec![1, 2]]
    }

    #[test]
    fn what_is_ready_starts_in_the_recipes_order() {
        let mut schedule = Schedule::new(&diamond(), None);
        assert_eq!(schedule.next(), Next::Start(0));
        assert_eq!(schedule.next(), Next::Start(1));
        assert_eq!(schedule.next(), Next::Wait);
        schedule.ended(0);
        assert_eq!(schedule.next(), Next::Start(2));
        schedule.ended(2);
        assert_eq!(schedule.next(), Next::Wait);
        schedule.ended(1);
        assert_eq!(schedule.next(), Next::Start(3));
        schedule.ended(3);
        assert_eq!(schedule.next(), Next::Nothing);
        assert_eq!(schedule.not_run(), 0);
    }

    #[test]
    fn every_seed_gives_an_order_that_respects_what_waits() {
        let mut orders = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let mut schedule = Schedule::new(&diamond(), Some(seed));
            let mut order = Vec::new();
            while let Next::Start(index) = schedule.next() {
                assert_eq!(schedule.next(), Next::Wait, "one at a time");
                assert!(diamond()[index].iter().all(|before| order.contains(before)));
                order.push(index);
                schedule.ended(index);
            }
            assert_eq!(order.len(), 4);
            orders.insert(order);
        }
        assert_eq!(orders.len(), 3, "all three orders appear");
    }

    #[test]
    fn a_failure_drops_what_waits_for_it_and_nothing_else() {
        let mut schedule = Schedule::new(&diamond(), None);
        assert_eq!(schedule.next(), Next::Start(0));
        schedule.failed(0);
        assert_eq!(schedule.next(), Next::Start(1));
        schedule.ended(1);
        assert_eq!(schedule.next(), Next::Nothing);
        assert_eq!(schedule.not_run(), 2);
    }

    #[test]
    fn what_waits_only_for_others_starts_together_with_them() {
        let mut schedule = Schedule::new(&diamond(), None);
        assert_eq!(schedule.next(), Next::Start(0));
        let mut batch = vec![0];
        assert!(schedule.join(&mut batch, 2));
        assert!(!schedule.join(&mut batch, 3), "it waits for 1, too");
        assert!(!schedule.join(&mut batch, 2), "it was started");
        assert!(!schedule.join(&mut batch, 4), "there is none");
        assert_eq!(batch, [0, 2]);
        assert_eq!(schedule.next(), Next::Start(1));
        [0, 1, 2].into_iter().for_each(|index| schedule.ended(index));
        assert_eq!(schedule.next(), Next::Start(3));
        let mut seeded = Schedule::new(&diamond(), Some(1));
        let Next::Start(first) = seeded.next() else { panic!("one can start") };
        assert!(!seeded.join(&mut vec![first], 2), "one at a time");
    }

    #[test]
    fn after_a_stop_only_the_running_are_waited_for() {
        let mut schedule = Schedule::new(&diamond(), None);
        assert_eq!(schedule.next(), Next::Start(0));
        schedule.stop();
        assert_eq!(schedule.next(), Next::Wait);
        schedule.ended(0);
        assert_eq!(schedule.next(), Next::Nothing);
        assert_eq!(schedule.not_run(), 3);
    }
}
