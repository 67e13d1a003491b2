//! Runs one list of operations on a machine and says what happens as events.

use std::collections::BTreeMap;
use std::time::Duration;

use olbake_core::operation::{Action, Operation};
use olbake_core::protocol::{FromAgent, Mode, Reboots};
use olbake_core::report::{OperationReport, Outcome};
use olbake_core::secret::SecretId;
use olbake_core::{Digest, ImageRef};

use crate::cancel::Cancel;
use crate::event::{Event, EventSink};
use crate::machine::Machine;
use crate::session::{self, Blobs, RunEnd};

use super::BakeError;

/// What operations are run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To change the machine: the first failure ends it.
    Change,
    /// To look at it: all of them run, and the machine says what is installed on it.
    Check,
}

/// What running operations needs, the same for all of an image's.
pub(super) struct Operations<'a> {
    pub(super) image: &'a ImageRef,
    pub(super) events: &'a EventSink,
    pub(super) cancel: &'a Cancel,
    pub(super) blobs: &'a dyn Blobs,
    pub(super) secrets: &'a BTreeMap<SecretId, String>,
    pub(super) architecture: &'static str,
}

impl Operations<'_> {
    /// Runs them. A failed operation is in the reports; a run that was cancelled is an error.
    pub(super) async fn run(
        &self,
        machine: &mut dyn Machine,
        operations: &[Operation],
        run: Digest,
        purpose: Purpose,
    ) -> Result<RunEnd, BakeError> {
        let work_dir = machine.agent_work_dir().to_string();
        let stream = machine.agent().await?;
        let run = session::Run {
            mode: Mode::Apply,
            run,
            work_dir,
            operations: operations.to_vec(),
            secrets: used_secrets(operations, self.secrets),
            workers: 0,
            shuffle: None,
            keep_going: purpose == Purpose::Check,
            packages: purpose == Purpose::Check,
            // Machines that are built are booted again when they are done.
            reboots: Reboots::Skipped,
            architecture: Some(self.architecture),
        };
        let index: BTreeMap<&str, &Operation> =
            operations.iter().map(|operation| (operation.id.as_str(), operation)).collect();
        let end =
            session::run(stream, run, self.blobs, self.cancel, |message| self.tell(message, &index)).await?;
        if end.cancelled || self.cancel.is_cancelled() { Err(BakeError::Cancelled) } else { Ok(end) }
    }

    fn tell(&self, message: &FromAgent, index: &BTreeMap<&str, &Operation>) {
        if let Some(event) = event_of(self.image, message, index) {
            self.events.send(event);
        }
    }
}

/// The secrets that operations put in; all of them, where leaks are searched for.
pub(crate) fn used_secrets(
    operations: &[Operation],
    values: &BTreeMap<SecretId, String>,
) -> BTreeMap<SecretId, String> {
    if operations.iter().any(|operation| matches!(operation.action, Action::LeakScan { .. })) {
        return values.clone();
    }
    operations
        .iter()
        .flat_map(|operation| operation.action.secrets())
        .filter_map(|id| Some((id.clone(), values.get(id)?.clone())))
        .collect()
}

/// What an agent says, as an event; `index` has the operations by identity.
pub(crate) fn event_of(
    image: &ImageRef,
    message: &FromAgent,
    index: &BTreeMap<&str, &Operation>,
) -> Option<Event> {
    let image = image.clone();
    Some(match message {
        FromAgent::Started { id } => Event::OperationStarted {
            image,
            id: id.clone(),
            title: index.get(id.as_str()).map(|operation| operation.title.clone()).unwrap_or_default(),
        },
        FromAgent::Output { id, line } => {
            Event::OperationOutput { image, id: id.clone(), line: line.clone() }
        }
        FromAgent::Finished(report) => finished(image, report, index.get(report.id.as_str()).copied()),
        _ => return None,
    })
}

fn finished(image: ImageRef, report: &OperationReport, operation: Option<&Operation>) -> Event {
    let OperationReport { id, outcome, changes, reason, failure, micros, resumed: _ } = report.clone();
    Event::OperationFinished {
        image,
        id,
        title: operation.map(|operation| operation.title.clone()).unwrap_or_default(),
        span: operation.and_then(|operation| operation.spans.first().cloned()),
        outcome,
        changes,
        reason,
        failure,
        seconds: Duration::from_micros(micros).as_secs_f64(),
    }
}

/// How many operations ended how.
pub(crate) fn counts(reports: &[OperationReport]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for report in reports {
        let name = match report.outcome {
            Outcome::Ok => "ok",
            Outcome::Changed => "changed",
            Outcome::Skipped => "skipped",
            Outcome::Failed => "failed",
        };
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}
