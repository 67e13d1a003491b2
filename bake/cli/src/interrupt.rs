//! Ctrl-C and SIGTERM: the first asks the command to stop and clean up, the second ends it at once.

use olbake_engine::cancel::{Cancel, cancel};
use olbake_engine::event::{Event, EventSink};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::errors::{CliError, Result};
use crate::exit_codes::Kind;

/// Tells people among the events of a command.
pub(crate) fn as_note(events: EventSink) -> impl Fn(&str) + Send + 'static {
    move |message| events.send(Event::Note { image: None, message: message.to_owned() })
}

/// Listens from now on; what is given hears the first signal, and `say` tells people. Must be called inside the
/// runtime.
pub(crate) fn listen(say: impl Fn(&str) + Send + 'static) -> Result<Cancel> {
    let (canceller, heard) = cancel();
    let (mut interrupt, mut terminate) = (open(SignalKind::interrupt())?, open(SignalKind::terminate())?);
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        say("stopping and cleaning up; once more to end at once");
        canceller.cancel();
        either(&mut interrupt, &mut terminate).await;
        std::process::exit(i32::from(Kind::Interrupted.code()));
    });
    Ok(heard)
}

fn open(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| {
        CliError::environment(anyhow::Error::new(error).context("cannot listen for signals"))
    })
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
