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
    // Units that are only to run are started together, which costs as much as one of them.
    let joins = |index: usize| {
        operations.get(index).is_some_and(|operation| {
            run.booted && ops::service::is_plain(operation) && !lock(&ended).contains_key(&operation.id)
        })
    };
    let worker = || {
        while let Some(batch) = next(run, &shared, &moved, joins) {
            let mut chosen = Vec::with_capacity(batch.len());
            for index in &batch {
                let operation = &operations[*index];
                let before = lock(&ended).remove(&operation.id);
                match before.filter(|report| !ops::reboot::is_outstanding(&operation.action, report)) {
                    Some(report) => {
                        let report = resume(run, operation, report);
                        finish(run, &shared, *index, report, None, options.keep_going);
                    }
                    None => chosen.push(operation),
                }
            }
            for (index, report) in batch.into_iter().zip(perform(run, &chosen)) {
                finish(run, &shared, index, report, journal, options.keep_going);
            }
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

/// The next operation for a thread, with those after it that join it; none: it may go.
fn next(
    run: &Run,
    shared: &Mutex<Shared>,
    moved: &Condvar,
    joins: impl Fn(usize) -> bool,
) -> Option<Vec<usize>> {
    let mut guard = lock(shared);
    loop {
        let set = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
        if set(&run.cancelled) || set(&run.reboot) {
            guard.schedule.stop();
        }
        match guard.schedule.next() {
            Next::Start(index) => {
                let mut batch = vec![index];
                let mut last = index;
                while joins(last) && joins(last + 1) && guard.schedule.join(&mut batch, last + 1) {
                    last += 1;
                }
                return Some(batch);
            }
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

/// Runs operations to their reports: one, or units that are started together.
fn perform(run: &Run, operations: &[&Operation]) -> Vec<OperationReport> {
    let since = Instant::now();
    for operation in operations {
        run.outbox.send(FromAgent::Started { id: operation.id.clone() });
    }
    let states = ops::service::states(run, operations);
    let mut begun = Vec::with_capacity(operations.len());
    for operation in operations {
        let context = Context { run, id: &operation.id, verifying: false, states: &states };
        begun.push((context, *operation, begin(&context, operation)));
    }
    let units: Vec<&str> = begun.iter().filter_map(|(_, _, begun)| begun.as_ref().ok()?.start).collect();
    // Where they cannot be started together each is, and says what is wrong with it.
    let started = units.len() > 1 && ops::service::start(&begun[0].0, &units).is_ok();
    let reports = begun.into_iter().map(|(context, operation, begun)| {
        let ended = begun.and_then(|begun| end(&context, &operation.action, begun, started));
        report(&context, ended)
    });
    let mut reports: Vec<OperationReport> = reports.collect();
    let micros = since.elapsed().as_micros() / operations.len().max(1) as u128;
    for report in &mut reports {
        report.micros = u64::try_from(micros).unwrap_or(u64::MAX);
    }
    reports
}

fn report(context: &Context<'_>, ended: Result<Ended>) -> OperationReport {
    let mut report = OperationReport {
        id: context.id.clone(),
        outcome: Outcome::Ok,
        changes: Vec::new(),
        reason: None,
        failure: None,
        micros: 0,
        resumed: false,
    };
    match ended {
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
    report
}

enum Ended {
    Fine,
    Skipped(String),
    Changed(Vec<Change>),
}

/// What is left of an operation.
struct Begun<'a> {
    /// How it ends, if nothing goes wrong from here on.
    ended: Ended,
    /// The unit that is still to be started.
    start: Option<&'a str>,
    /// Whether it is to be looked at again.
    verify: bool,
}

impl Begun<'_> {
    fn ended(ended: Ended) -> Result<Self> {
        Ok(Self { ended, start: None, verify: false })
    }
}

/// Decides and predicts, or carries out all but the start of a unit.
fn begin<'a>(context: &Context<'a>, operation: &'a Operation) -> Result<Begun<'a>> {
    if !operation.when_changed.is_empty() && context.any_changed(&operation.when_changed).is_none() {
        return Begun::ended(Ended::Skipped("nothing that it waits for changed".to_owned()));
    }
    let work = match ops::decide(&operation.action, context)? {
        Decision::Fine => return Begun::ended(Ended::Fine),
        Decision::Skip(reason) => return Begun::ended(Ended::Skipped(reason)),
        Decision::Change(work) => work,
    };
    if context.is_check() {
        return Begun::ended(predict(context, work)?);
    }
    let Work { changes, edits, act, prediction: _, start, final_word } = work;
    edit::apply(&edits, context)?;
    for edit in edits.iter().filter(|edit| is_unit_path(edit.path())) {
        context.unit_changed(edit.path());
    }
    if let Some(act) = act
        && act(context)? == Effect::Unchanged
        && edits.is_empty()
    {
        return Begun::ended(Ended::Fine);
    }
    Ok(Begun { ended: Ended::Changed(changes), start, verify: !final_word })
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

fn end(context: &Context<'_>, action: &Action, begun: Begun<'_>, started: bool) -> Result<Ended> {
    if let Some(unit) = begun.start
        && !started
    {
        ops::service::start(context, &[unit])?;
    }
    if begun.verify {
        verify(&Context { verifying: true, ..*context }, action)?;
    }
    Ok(begun.ended)
}

/// Looks again: what was carried out must have taken.
fn verify(context: &Context<'_>, action: &Action) -> Result<()> {
    let Decision::Change(work) = ops::decide(action, context)? else { return Ok(()) };
    let left: Vec<String> = work.changes.iter().map(|change| change.what.clone()).collect();
    let left = left.join(", ");
    Err(OpError::wrong(format!("it was carried out, but the machine is still not as it should be: {left}")))
}
