//! The journal: which operations of a run have ended, so that an interrupted run resumes at the first that has not.
//!
//! One JSON text a line: first the run's key, then a report for each operation that ended well, each written
//! through to the disk before it is told. A last line without its end was torn by the interruption and is
//! dropped. The journal of another run is discarded.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::sync::Mutex;

use camino::Utf8Path;
use olbake_core::report::{OperationReport, Outcome};
use olbake_core::{Digest, OperationId};
use serde::{Deserialize, Serialize};

use crate::error::{At, Result};

/// The file in the agent's directory.
pub(crate) const FILE: &str = "journal-v1.jsonl";
/// The form of the file.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Head {
    version: u32,
    run: Digest,
}

/// The journal of a run.
pub(crate) struct Journal {
    file: Mutex<File>,
}

impl Journal {
    /// Opens the journal of a run and returns what ended before.
    pub(crate) fn open(
        work_dir: &Utf8Path,
        run: Digest,
    ) -> Result<(Self, HashMap<OperationId, OperationReport>)> {
        let path = work_dir.join(FILE);
        let head = Head { version: VERSION, run };
        let text = fs::read_to_string(&path).unwrap_or_default();
        let ended = parse(&text, &head);
        let mut whole = serde_json::to_string(&head).expect("a head is expressible in JSON") + "\n";
        let mut reports: Vec<&OperationReport> = ended.values().collect();
        reports.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        for report in reports {
            whole.push_str(&line(report));
        }
        let temporary = work_dir.join("journal-v1.new");
        let mut file = File::create(&temporary).at("create", &temporary)?;
        file.write_all(whole.as_bytes()).and_then(|()| file.sync_data()).at("write", &temporary)?;
        fs::rename(&temporary, &path).at("rename", &temporary)?;
        Ok((Self { file: Mutex::new(file) }, ended))
    }

    /// Notes that an operation ended. Failures are not noted: they are tried again.
    pub(crate) fn note(&self, report: &OperationReport) -> Result<()> {
        if report.outcome == Outcome::Failed {
            return Ok(());
        }
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let written = file.write_all(line(report).as_bytes()).and_then(|()| file.sync_data());
        written.at("write", Utf8Path::new("the journal"))
    }
}

fn line(report: &OperationReport) -> String {
    serde_json::to_string(report).expect("a report is expressible in JSON") + "\n"
}

/// The reports of a journal with this head; none when it has another.
fn parse(text: &str, expected: &Head) -> HashMap<OperationId, OperationReport> {
    let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let head = lines.next().and_then(|line| serde_json::from_str::<Head>(line).ok());
    if head.as_ref() != Some(expected) {
        return HashMap::new();
    }
    lines
        .map_while(|line| serde_json::from_str::<OperationReport>(line).ok())
        .map(|report| (report.id.clone(), report))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use olbake_core::operation::Phase;

    fn report(number: usize, outcome: Outcome) -> OperationReport {
        let id = OperationId::new(&"c".parse().unwrap(), Phase::Install, number);
        OperationReport {
            id,
            outcome,
            changes: Vec::new(),
            reason: None,
            failure: None,
            micros: 1,
            resumed: false,
        }
    }

    #[test]
    fn what_ended_is_found_again_and_a_torn_line_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let work_dir = Utf8Path::from_path(directory.path()).unwrap();
        let run = Digest::of(b"run");
        let (journal, ended) = Journal::open(work_dir, run).unwrap();
        assert!(ended.is_empty());
        journal.note(&report(1, Outcome::Changed)).unwrap();
        journal.note(&report(2, Outcome::Failed)).unwrap();
        journal.note(&report(3, Outcome::Ok)).unwrap();
        journal.file.lock().unwrap().write_all(b"{\"id\":\"c.install.4\"").unwrap();
        let (journal, ended) = Journal::open(work_dir, run).unwrap();
        let mut ids: Vec<_> = ended.keys().map(OperationId::as_str).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["c.install.1", "c.install.3"]);
        journal.note(&report(4, Outcome::Ok)).unwrap();
        assert_eq!(Journal::open(work_dir, run).unwrap().1.len(), 3);
        assert!(Journal::open(work_dir, Digest::of(b"other")).unwrap().1.is_empty());
        assert!(Journal::open(work_dir, run).unwrap().1.is_empty());
    }
}
