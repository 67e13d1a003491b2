//! Calls counted, and one of them made to go wrong. Main type: [`Faults`].

use std::sync::Mutex;

use tokio::sync::{Notify, watch};

/// What becomes of the chosen call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It never gets there, and its caller never hears.
    HangBefore,
    /// It is carried out in part, and its caller never hears.
    HangHalfway,
    /// It is carried out, and its caller never hears.
    HangAfter,
    /// It does not work this time; nothing was done.
    Fail,
    /// It cannot be; nothing was done.
    Refuse,
    /// It is carried out, and its caller hears that it took too long.
    LoseAnswer,
}

/// Which calls are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Among {
    /// Every write to journal and cloud, and the first read after a write: between two reads nothing changes, so
    /// that to die at the second is the same as to die at the first.
    Boundaries,
    /// Every change of an object in the cloud, instances not counted.
    Objects,
    /// Every change of an instance.
    Instances,
}

/// A call to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Among these calls.
    pub among: Among,
    /// The one of this number, from 0.
    pub number: usize,
    /// How.
    pub fault: Fault,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// It looks.
    Read,
    /// It changes the journal.
    Journal,
    /// It changes an object.
    Object,
    /// It changes an instance.
    Instance,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// By which process, counted from 1.
    pub process: u32,
    /// What it does.
    pub nature: Nature,
    /// What it asks for: `create network-3f2a91cc`.
    pub what: String,
}

/// Counts calls and has the chosen one go wrong.
#[derive(Debug)]
pub struct Faults {
    book: Mutex<Book>,
    hung: Notify,
    released: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Book {
    calls: Vec<Call>,
    chosen: Option<Chosen>,
    numbers: [usize; 3],
    boundaries: Vec<Nature>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { book: Mutex::default(), hung: Notify::new(), released: watch::Sender::new(false) }
    }
}

impl Faults {
    /// Numbers calls from 0 again, and chooses one of them.
    pub fn choose(&self, chosen: Option<Chosen>) {
        let mut book = self.book();
        book.chosen = chosen;
        book.numbers = [0; 3];
        book.boundaries.clear();
        self.released.send_replace(false);
    }

    /// How many such calls there were since the last choice.
    pub fn count(&self, among: Among) -> usize {
        self.book().numbers[among as usize]
    }

    /// What each of [`Among::Boundaries`] since the last choice does.
    pub fn boundaries(&self) -> Vec<Nature> {
        self.book().boundaries.clone()
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Call> {
        self.book().calls.clone()
    }

    /// Waits until the chosen call hangs.
    pub async fn hung(&self) {
        self.hung.notified().await;
    }

    /// Lets the call that hangs go on.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// Takes note of a call, and says how it is to go wrong.
    pub(super) fn begin(&self, process: u32, nature: Nature, what: String) -> Option<Fault> {
        let mut book = self.book();
        let reads = nature == Nature::Read;
        let boundary = !reads || book.calls.last().is_none_or(|last| last.nature != Nature::Read);
        let counted = [boundary, nature == Nature::Object, nature == Nature::Instance];
        book.calls.push(Call { process, nature, what });
        if boundary {
            book.boundaries.push(nature);
        }
        let mut fault = None;
        for (among, counts) in [Among::Boundaries, Among::Objects, Among::Instances].into_iter().zip(counted)
        {
            if counts {
                let number = book.numbers[among as usize];
                book.numbers[among as usize] += 1;
                let chosen = book.chosen.filter(|chosen| (chosen.among, chosen.number) == (among, number));
                fault = fault.or(chosen.map(|chosen| chosen.fault));
            }
        }
        fault
    }

    /// Does not return before it is released.
    pub(super) async fn hang(&self) {
        let mut released = self.released.subscribe();
        self.hung.notify_one();
        // The sender lives as long as the cloud, which whoever waits here holds.
        drop(released.wait_for(|released| *released).await);
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().expect("no thread panics while it writes a call down")
    }
}
