//! A run: operations in the order that their effects allow, on a few threads, each decided, carried out or
//! predicted, verified, noted in the journal and reported.
//!
//! Main function: [`execute`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use olbake_core::OperationId;
use olbake_core::effects::{dependencies, is_unit_path};
use olbake_core::operation::{Action, Operation};
use olbake_core::protocol::{FromAgent, Summary};
use olbake_core::report::{Change, OperationReport, Outcome};

use crate::context::{Context, Run, Stale};
use crate::edit;
use crate::error::{OpError, Result};
use crate::journal::Journal;
use crate::ops::{self, Decision, Effect, Work};
use crate::schedule::{Next, Schedule};

/// How operations are to be ordered and what a failure means.
pub(crate) struct Options {
    pub(crate) workers: usize,
    pub(crate) shuffle: Option<u64>,
    pub(crate) keep_going: bool,
}

struct Shared {
    schedule: Schedule,
    summary: Summary,
    fault: Option<String>,
}

/// Carries operations out. `ended` are those that the journal knows. Returns the numbers, or why the run could
/// not go on.
pub(crate) fn execute(
    run: &Run,
    operations: &[Operation],
    journal: Option<&Journal>,
    ended: HashMap<OperationId, OperationReport>,
    options: &Options,
) -> std::result::Result<Summary, String> {
    let schedule = Schedule::new(&dependencies(operations), options.shuffle);
    let shared = Mutex::new(Shared { schedule, summary: Summary::default(), fault: None });
    let moved = Condvar::new();
    let ended = Mutex::new(ended);
    let worker = || {
        while let Some(index) = next(run, &shared, &moved) {
            let operation = &operations[index];
            let before = lock(&ended).remove(&operation.id);
            let before = before.filter(|report| !ops::reboot::is_outstanding(&operation.action, report));
            let resumed = before.is_some();
            let report =
                before.map_or_else(|| perform(run, operation), |report| resume(run, operation, report));
            finish(run, &shared, index, report, journal.filter(|_| !resumed), options.keep_going);
            moved.notify_all();
        }
        moved.notify_all();
    };
    let workers = if options.shuffle.is_some() { 1 } else { threads(options.workers) };
    std::thread::scope(|scope| {
        for _ in 1..workers.min(operations.len()) {
            scope.spawn(worker);
        }
        worker();
    });
    let shared = shared.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match shared.fault {
        Some(fault) => Err(fault),
        None => Ok(Summary { not_run: shared.schedule.not_run(), ..shared.summary }),
    }
}

fn threads(wanted: usize) -> usize {
    if wanted > 0 { wanted } else { std::thread::available_parallelism().map_or(4, usize::from).max(4) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The next operation for a thread; none: it may go.
fn next(run: &Run, shared: &Mutex<Shared>, moved: &Condvar) -> Option<usize> {
    let mut guard = lock(shared);
    loop {
        let set = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
        if set(&run.cancelled) || set(&run.reboot) {
            guard.schedule.stop();
        }
        match guard.schedule.next() {
            Next::Start(index) => return Some(index),
            Next::Nothing => return None,
            Next::Wait => guard = moved.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner),
        }
    }
}

/// An operation that ended before the interruption.
fn resume(run: &Run, operation: &Operation, mut report: OperationReport) -> OperationReport {
    report.resumed = true;
    if report.outcome == Outcome::Changed && may_change_units(&operation.action) {
        *lock(&run.units_stale) = Stale::Units;
    }
    report
}

fn may_change_units(action: &Action) -> bool {
    match action {
        Action::Check(_) | Action::Hosts { .. } | Action::Hostname { .. } | Action::Reboot { .. } => false,
        action => action.claimed_path().is_none_or(is_unit_path),
    }
}

fn finish(
    run: &Run,
    shared: &Mutex<Shared>,
    index: usize,
    mut report: OperationReport,
    journal: Option<&Journal>,
    keep_going: bool,
) {
    run.secrets.mask_report(&mut report);
    let noted = journal.map_or(Ok(()), |journal| journal.note(&report));
    let outcome = report.outcome;
    if outcome == Outcome::Changed {
        lock(&run.changed).insert(report.id.clone());
    }
    run.outbox.send(FromAgent::Finished(Box::new(report)));
    let mut shared = lock(shared);
    let Shared { schedule, summary, fault } = &mut *shared;
    *match outcome {
        Outcome::Ok => &mut summary.ok,
        Outcome::Changed => &mut summary.changed,
        Outcome::Skipped => &mut summary.skipped,
        Outcome::Failed => &mut summary.failed,
    } += 1;
    match outcome {
        Outcome::Failed => {
            schedule.failed(index);
            if !keep_going {
                schedule.stop();
            }
        }
        Outcome::Ok | Outcome::Changed | Outcome::Skipped => schedule.ended(index),
    }
    if let Err(error) = noted {
        fault.get_or_insert(error.failure().message);
        schedule.stop();
    }
}

/// Runs one operation to its report.
fn perform(run: &Run, operation: &Operation) -> OperationReport {
    let start = Instant::now();
    let context = Context { run, id: &operation.id, verifying: false };
    run.outbox.send(FromAgent::Started { id: operation.id.clone() });
    let mut report = OperationReport {
        id: operation.id.clone(),
        outcome: Outcome::Ok,
        changes: Vec::new(),
        reason: None,
        failure: None,
        micros: 0,
        resumed: false,
    };
    match attempt(&context, operation) {
        Ok(Ended::Fine) => {}
        Ok(Ended::Skipped(reason)) => {
            report.outcome = Outcome::Skipped;
            report.reason = Some(reason);
        }
        Ok(Ended::Changed(changes)) => {
            report.outcome = Outcome::Changed;
            report.changes = changes;
        }
        Err(OpError::Missing(message)) if context.is_check() && context.world().is_opaque() => {
            report.outcome = Outcome::Changed;
            let to = Some(format!("known only after an earlier operation: {message}"));
            report.changes = vec![Change { what: "state".to_owned(), from: None, to }];
            context.world().predict_opaque();
        }
        Err(error) => {
            report.outcome = Outcome::Failed;
            report.failure = Some(error.failure());
        }
    }
    report.micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    report
}

enum Ended {
    Fine,
    Skipped(String),
    Changed(Vec<Change>),
}

fn attempt(context: &Context<'_>, operation: &Operation) -> Result<Ended> {
    if !operation.when_changed.is_empty() && context.any_changed(&operation.when_changed).is_none() {
        return Ok(Ended::Skipped("nothing that it waits for changed".to_owned()));
    }
    let work = match ops::decide(&operation.action, context)? {
        Decision::Fine => return Ok(Ended::Fine),
        Decision::Skip(reason) => return Ok(Ended::Skipped(reason)),
        Decision::Change(work) => work,
    };
    if context.is_check() { predict(context, work) } else { carry_out(context, &operation.action, work) }
}

fn predict(context: &Context<'_>, work: Work<'_>) -> Result<Ended> {
    for edit in &work.edits {
        edit.predict(context.world())?;
    }
    if let Some(prediction) = work.prediction {
        prediction(context.world())?;
    }
    Ok(Ended::Changed(work.changes))
}

fn carry_out(context: &Context<'_>, action: &Action, work: Work<'_>) -> Result<Ended> {
    let Work { changes, edits, act, prediction: _, final_word } = work;
    edit::apply(&edits, context)?;
    for edit in edits.iter().filter(|edit| is_unit_path(edit.path())) {
        context.unit_changed(edit.path());
    }
    if let Some(act) = act
        && act(context)? == Effect::Unchanged
        && edits.is_empty()
    {
        return Ok(Ended::Fine);
    }
    if !final_word {
        verify(&Context { verifying: true, ..*context }, action)?;
    }
    Ok(Ended::Changed(changes))
}

/// Looks again: what was carried out must have taken.
fn verify(context: &Context<'_>, action: &Action) -> Result<()> {
    let Decision::Change(work) = ops::decide(action, context)? else { return Ok(()) };
    let left: Vec<String> = work.changes.iter().map(|change| change.what.clone()).collect();
    let left = left.join(", ");
    Err(OpError::wrong(format!("it was carried out, but the machine is still not as it should be: {left}")))
}
