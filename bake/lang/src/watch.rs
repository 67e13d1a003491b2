//! The limits of an evaluation: a recipe ends, whatever it says, and what ended it is known by its line.
//!
//! The interpreter itself looks at its limits only every thousand steps, in which a text that is doubled takes all the
//! memory there is, and where it gives up altogether it panics. Main type: [`Watch`], which looks before each statement.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::Once;

use olbake_core::diagnostic::Diagnostic;
use olbake_core::span::Span;
use starlark::codemap::{FileSpan, FileSpanRef};
use starlark::eval::{BeforeStmtFunc, BeforeStmtFuncDyn, Evaluator};

use crate::fault;
use crate::sources::Sources;

/// The most calls and loop turns of one evaluation.
pub(crate) const STEP_LIMIT: u64 = 1_000_000;
/// The most memory that a recipe's values may take.
const HEAP_LIMIT: usize = 256 << 20;

/// Where an evaluation is.
#[derive(Clone, Default)]
pub(crate) struct Watch(Rc<RefCell<Option<FileSpan>>>);

impl Watch {
    /// Sets the limits of an evaluation and watches it.
    pub(crate) fn limit(&self, eval: &mut Evaluator<'_, '_, '_>) {
        // Each can fail only when it was set before, and the evaluator is new.
        let set = eval.set_max_callstack_size(100).is_ok()
            & eval.set_max_heap_size(HEAP_LIMIT).is_ok()
            & eval.set_max_tick_count(STEP_LIMIT).is_ok();
        debug_assert!(set, "limits are set once");
        // Meant for debuggers; there is no other way to see every statement.
        eval.before_stmt_for_dap(BeforeStmtFunc::from_dyn(Box::new(self.clone())));
    }

    /// An error of the interpreter as a diagnostic, at `place` where nothing knows one. What did not end is a loop.
    pub(crate) fn diagnose(
        &self,
        sources: &Sources,
        error: starlark::Error,
        place: Option<Span>,
    ) -> Diagnostic {
        let (statement, endless) = (self.statement(), fault::is_out_of_steps(&error));
        let mut problem = fault::diagnose(error);
        if let Some(statement) = statement.as_ref().filter(|_| endless) {
            problem.span = sources.text(&statement.file).map(|text| loop_around(&text, statement));
        }
        // Where memory ends the interpreter knows no place.
        let known = statement.filter(|_| problem.code == "endless").or(place);
        problem.span = problem.span.or(known);
        problem
    }

    /// The statement that ran last.
    fn statement(&self) -> Option<Span> {
        self.0.borrow().as_ref().map(fault::span)
    }
}

impl<'e> BeforeStmtFuncDyn<'e> for Watch {
    fn call<'v>(
        &mut self,
        statement: FileSpanRef<'_>,
        _continued: bool,
        eval: &mut Evaluator<'v, '_, 'e>,
    ) -> starlark::Result<()> {
        if eval.heap().allocated_bytes() > HEAP_LIMIT {
            return Err(fault::raise(too_large().at(self.statement())));
        }
        *self.0.borrow_mut() = Some(statement.to_file_span());
        Ok(())
    }
}

/// Whether the limits of an evaluation are reached: whatever else it runs ends at once.
pub(crate) fn is_spent(eval: &Evaluator<'_, '_, '_>) -> bool {
    eval.get_total_tick_count() > STEP_LIMIT || eval.heap().peak_allocated_bytes() > HEAP_LIMIT
}

/// A recipe that makes values without end.
pub(crate) fn too_large() -> Diagnostic {
    Diagnostic::error("endless", "the recipe uses more memory than a recipe may")
        .help("a text or list here grows without an end that is near enough")
}

thread_local! {
    /// Whether a panic of this thread is a fault of a recipe, of which a diagnostic tells.
    static EVALUATING: Cell<bool> = const { Cell::new(false) };
}

/// Runs an evaluation; where the interpreter itself gives up (text of gigabytes, values nested without end), that is a
/// fault of the recipe in `file` and not the end of the program.
pub(crate) fn guarded<T>(file: &str, run: impl FnOnce(&Watch) -> T) -> Result<T, Diagnostic> {
    silence();
    let watch = Watch::default();
    let before = EVALUATING.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(&watch)));
    EVALUATING.set(before);
    outcome.map_err(|payload| {
        let reason = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let reason = reason.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        let start = Span { file: file.to_owned(), line: 1, column: 1, end_line: 1, end_column: 1 };
        let place = watch.statement().unwrap_or(start);
        Diagnostic::error("endless", format!("the interpreter gave up on this recipe: {reason}"))
            .at(place)
            .help("a value here is larger than the interpreter can hold")
    })
}

/// Keeps panics of the interpreter off the terminal: they are reported as faults of recipes.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EVALUATING.get() {
                others(info);
            }
        }));
    });
}

/// The loop that a statement is in, or the statement.
pub(crate) fn loop_around(text: &str, statement: &Span) -> Span {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let lines: Vec<&str> = text.lines().take(statement.line as usize).collect();
    let Some((own, above)) = lines.split_last() else { return statement.clone() };
    if own.trim_start().starts_with("for ") {
        return whole_line(statement, own, statement.line);
    }
    let around = above
        .iter()
        .enumerate()
        .rev()
        .find(|(_, line)| line.trim_start().starts_with("for ") && indent(line) < indent(own));
    let inside = above.iter().enumerate().rev().find(|(_, line)| line.trim_start().starts_with("def "));
    match around {
        Some((index, line)) if inside.is_none_or(|(def, _)| def < index) => {
            whole_line(statement, line, u32::try_from(index + 1).unwrap_or(statement.line))
        }
        _ => statement.clone(),
    }
}

fn whole_line(at: &Span, line: &str, number: u32) -> Span {
    let column = |text: &str| u32::try_from(text.chars().count() + 1).unwrap_or(1);
    let indent = &line[..line.len() - line.trim_start().len()];
    Span {
        file: at.file.clone(),
        line: number,
        column: column(indent),
        end_line: number,
        end_column: column(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_that_gives_up_is_a_fault_of_the_recipe() {
        assert_eq!(guarded("a.star", |_| 1), Ok(1));
        let fault = guarded("a.star", |_| panic!("len overflow")).expect_err("a fault");
        assert_eq!(
            fault.to_string(),
            "a.star:1:1: the interpreter gave up on this recipe: len overflow \
             (a value here is larger than the interpreter can hold)"
        );
        assert!(!EVALUATING.get());
    }

    #[test]
    fn the_loop_around_a_statement_is_in_its_function() {
        let text = "for a in b:\n    x\n    for c in d:\n        y\n\ndef f():\n    z\n    for e in g: w\n";
        let line = |line: u32| {
            let at = Span { file: "f".into(), line, column: 5, end_line: line, end_column: 6 };
            let found = loop_around(text, &at);
            (found.line, found.column)
        };
        assert_eq!(line(2), (1, 1));
        assert_eq!(line(4), (3, 5));
        assert_eq!(line(7), (7, 5));
        assert_eq!(line(8), (8, 5));
    }
}
