//! Where events go: workers put them into a channel, one thread takes them out and draws. Main type: [`Reporter`].

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use olbake_engine::event::{Event, EventSink};

use super::diagnostics::Drawing;
use super::lines;

/// How often bars move.
const TICK: Duration = Duration::from_millis(100);

/// Shows events, one at a time.
pub(crate) trait Listener: Send {
    /// Something happened.
    fn hear(&mut self, event: &Event);

    /// Time passed.
    fn tick(&mut self) {}

    /// Nothing more will happen.
    fn close(&mut self) {}
}

enum Message {
    Event(Box<Event>),
    Close,
}

/// The thread that draws.
pub(crate) struct Reporter {
    sender: Sender<Message>,
    thread: JoinHandle<()>,
}

impl Reporter {
    /// Starts drawing.
    pub(crate) fn start(listener: Box<dyn Listener>) -> Self {
        let (sender, receiver) = channel();
        let thread = std::thread::spawn(move || draw(listener, &receiver));
        Self { sender, thread }
    }

    /// Where workers say what happens.
    pub(crate) fn sink(&self) -> EventSink {
        let sender = self.sender.clone();
        // After the end nobody listens, and nothing that matters is said.
        EventSink::new(move |event| drop(sender.send(Message::Event(Box::new(event)))))
    }

    /// Draws what was said so far, and ends.
    pub(crate) fn finish(self) {
        let Self { sender, thread } = self;
        drop(sender.send(Message::Close));
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

fn draw(mut listener: Box<dyn Listener>, receiver: &Receiver<Message>) {
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(Message::Event(event)) => listener.hear(&event),
            Err(RecvTimeoutError::Timeout) => listener.tick(),
            Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    listener.close();
}

/// Lines on standard error, for where there is no terminal.
pub(crate) struct Lines(pub(crate) Drawing);

impl Listener for Lines {
    fn hear(&mut self, event: &Event) {
        let Self(drawing) = self;
        let line = lines::ended(event, drawing).or_else(|| lines::began(event, drawing.palette));
        if let Some(line) = line {
            super::write_stderr(&line, true);
        }
    }
}

/// Every event as a line of JSON on standard output. Results are left to the command, which writes them last.
pub(crate) struct Json;

impl Listener for Json {
    fn hear(&mut self, event: &Event) {
        if !matches!(event, Event::Result(_)) {
            super::write_json(event);
        }
    }
}
