//! The only way out: messages, with secrets masked, as frames on one stream.

use std::io::Write;
use std::sync::{Mutex, OnceLock};

use olbake_core::protocol::{Frame, FromAgent};

use crate::secrets::Secrets;

/// Sends messages. Errors of the stream are not reported: nobody is left to hear of them, and the reading side
/// ends the run when the stream closes.
pub(crate) struct Outbox {
    stream: Mutex<Box<dyn Write + Send>>,
    secrets: OnceLock<std::sync::Arc<Secrets>>,
}

impl Outbox {
    /// Sends on a stream.
    pub(crate) fn new(stream: Box<dyn Write + Send>) -> Self {
        Self { stream: Mutex::new(stream), secrets: OnceLock::new() }
    }

    /// From now on, masks these.
    pub(crate) fn protect(&self, secrets: std::sync::Arc<Secrets>) {
        // A second run on one stream does not happen; were there one, the first secrets would stay masked.
        self.secrets.get_or_init(|| secrets);
    }

    /// Sends a message.
    pub(crate) fn send(&self, mut message: FromAgent) {
        if let Some(secrets) = self.secrets.get() {
            secrets.mask_message(&mut message);
        }
        let bytes = Frame::message(&message).encode();
        let mut stream = self.stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(stream.write_all(&bytes).and_then(|()| stream.flush()));
    }
}
