//! Secrets on the agent's side: putting values in for markers, and taking values out of what is sent.
//!
//! How a value may be written elsewhere is [`olbake_core::redact`]'s to know. Main type: [`Secrets`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use olbake_core::protocol::FromAgent;
use olbake_core::redact::Redactor;
use olbake_core::report::OperationReport;
use olbake_core::secret::{Piece, SecretId, pieces};

use crate::error::{OpError, Result};

/// The secret values of a run, and what takes them out of texts.
#[derive(Default)]
pub(crate) struct Secrets {
    values: BTreeMap<SecretId, String>,
    redactor: Redactor,
}

impl Secrets {
    /// Takes the values of a run.
    pub(crate) fn new(values: BTreeMap<SecretId, String>) -> Self {
        let redactor = Redactor::new(values.values().map(String::as_str));
        Self { values, redactor }
    }

    /// The value of a secret.
    pub(crate) fn value(&self, id: &SecretId) -> Result<&str> {
        let missing = || OpError::wrong(format!("the secret `{}` was not sent to the machine", id.0));
        self.values.get(id).map(String::as_str).ok_or_else(missing)
    }

    /// All values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&SecretId, &str)> {
        self.values.iter().map(|(id, value)| (id, value.as_str()))
    }

    /// Puts values in for markers.
    pub(crate) fn reveal(&self, text: &str) -> Result<String> {
        let mut revealed = String::with_capacity(text.len());
        for piece in pieces(text) {
            revealed.push_str(match &piece {
                Piece::Text(text) => text,
                Piece::Secret(id) => self.value(id)?,
            });
        }
        Ok(revealed)
    }

    /// Takes values out of a text.
    fn mask(&self, text: &mut String) {
        if let Cow::Owned(masked) = self.redactor.mask(text) {
            *text = masked;
        }
    }

    /// Takes values out of a message.
    pub(crate) fn mask_message(&self, message: &mut FromAgent) {
        match message {
            FromAgent::Output { line, .. } => self.mask(line),
            FromAgent::Fault { message } => self.mask(message),
            FromAgent::Finished(report) => self.mask_report(report),
            FromAgent::Hello(_)
            | FromAgent::Need { .. }
            | FromAgent::Started { .. }
            | FromAgent::Packages { .. }
            | FromAgent::Rebooting
            | FromAgent::Done { .. } => {}
        }
    }

    /// Takes values out of a report.
    pub(crate) fn mask_report(&self, report: &mut OperationReport) {
        let OperationReport { id: _, outcome: _, changes, reason, failure, micros: _, resumed: _ } = report;
        for change in changes {
            self.mask(&mut change.what);
            change.from.iter_mut().chain(&mut change.to).for_each(|text| self.mask(text));
        }
        reason.iter_mut().for_each(|text| self.mask(text));
        if let Some(failure) = failure {
            self.mask(&mut failure.message);
            let details = failure.command.iter_mut().chain(&mut failure.status).chain(&mut failure.output);
            details.for_each(|text| self.mask(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use olbake_core::OperationId;
    use olbake_core::operation::Phase;
    use olbake_core::report::{Change, Failure, Outcome};

    use super::*;

    fn secrets(value: &str) -> Secrets {
        Secrets::new(BTreeMap::from([(SecretId("a.b".into()), value.to_owned())]))
    }

    #[test]
    fn markers_become_values() {
        let secrets = secrets("hunter2");
        let text = format!("k={}\n", SecretId("a.b".into()).marker());
        assert_eq!(secrets.reveal(&text).unwrap(), "k=hunter2\n");
        assert!(secrets.reveal(&SecretId("c".into()).marker()).is_err());
    }

    #[test]
    fn nothing_that_is_sent_holds_a_value() {
        let secrets = secrets("hunter22");
        let text = |name: &str| format!("{name}: hunter22, aHVudGVyMjI=, 68756e7465723232");
        let report = OperationReport {
            id: OperationId::new(&"caddy".parse().unwrap(), Phase::Install, 1),
            outcome: Outcome::Failed,
            changes: vec![Change { what: text("what"), from: Some(text("from")), to: Some(text("to")) }],
            reason: Some(text("reason")),
            failure: Some(Failure {
                message: text("message"),
                command: Some(text("command")),
                status: Some(text("status")),
                output: Some(text("output")),
            }),
            micros: 1,
            resumed: false,
        };
        let messages = [
            FromAgent::Finished(Box::new(report)),
            FromAgent::Fault { message: text("fault") },
            FromAgent::Output {
                id: OperationId::new(&"caddy".parse().unwrap(), Phase::Install, 1),
                line: text("line"),
            },
        ];
        for mut message in messages {
            secrets.mask_message(&mut message);
            let sent = serde_json::to_string(&message).unwrap();
            assert!(sent.contains("***"), "{sent}");
            for form in ["hunter22", "aHVudGVyMjI", "68756e74"] {
                assert!(!sent.contains(form), "{sent}");
            }
        }
    }
}
