//! What recipes call: functions with a written signature, whose arguments are checked in one place.
//!
//! A signature is a text such as `path src? * owner? mode?`: names in order, `?` where one may be left out, `*` before
//! those that must be named, `**` where further names are taken, `...` where further values are. Operations take `when`, `after`, `when_changed` and `override`
//! besides.
//!
//! What is wrong with an argument is noted, and the call goes on with something in its place: the next argument may be
//! wrong too. The first problem of an argument counts; what follows from it is dropped. A call with problems adds
//! nothing to the plan and returns a stand-in.

#![allow(unsafe_code, reason = "the derives of values for the interpreter write it; none is written by hand")]

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use allocative::Allocative;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, Phase};
use olbake_core::settings::{did_you_mean, nearest};
use olbake_core::span::Span;
use starlark::any::ProvidesStaticType;
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_simple_value;
use starlark::values::{Heap, NoSerialize, StarlarkValue, Value, starlark_value};

use crate::fault;
use crate::session::{Common, Recording, Session, Target};
use crate::values::{Handle, StandIn, stands_in};

/// One action that a call is lowered to.
pub(crate) struct Step {
    /// What people read.
    pub(crate) title: String,
    /// What to do.
    pub(crate) action: Action,
    /// For units: what a restart is for.
    pub(crate) restart_on: Vec<Target>,
    /// For units: what a reload is for.
    pub(crate) reload_on: Vec<Target>,
    /// Run it only if the step before it changed something.
    pub(crate) follows: bool,
}

impl Step {
    /// An action without handlers.
    pub(crate) fn new(title: String, action: Action) -> Self {
        Self { title, action, restart_on: Vec::new(), reload_on: Vec::new(), follows: false }
    }
}

/// Lowers a call to actions.
pub(crate) type Lower = fn(&Call<'_, '_>) -> Result<Vec<Step>, Diagnostic>;
/// Makes a value.
pub(crate) type Make = for<'v> fn(&Call<'v, '_>, &mut Evaluator<'v, '_, '_>) -> Result<Value<'v>, Diagnostic>;

/// What a builtin does.
#[derive(Clone, Copy)]
pub(crate) enum Body {
    /// Adds operations to the phase that runs.
    Operation(Lower),
    /// Makes a value, in a file of recipes.
    Declaration(Make),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operation(_) => "operation",
            Self::Declaration(_) => "declaration",
        })
    }
}

/// A row in a table of builtins: name, signature, body.
pub(crate) type Row = (&'static str, &'static str, Body);

/// A row for an operation.
pub(crate) const fn operation(name: &'static str, signature: &'static str, lower: Lower) -> Row {
    (name, signature, Body::Operation(lower))
}

/// A row for a declaration.
pub(crate) const fn declaration(name: &'static str, signature: &'static str, make: Make) -> Row {
    (name, signature, Body::Declaration(make))
}

/// The parameters of a builtin.
#[derive(Debug)]
struct Signature {
    names: Vec<&'static str>,
    required: Vec<bool>,
    positional: usize,
    open: bool,
    variadic: bool,
}

impl Signature {
    fn parse(text: &'static str, operation: bool) -> Self {
        let mut signature = Self {
            names: Vec::new(),
            required: Vec::new(),
            positional: usize::MAX,
            open: false,
            variadic: false,
        };
        let common = if operation { COMMON } else { "" };
        for word in text.split_whitespace().chain(common.split_whitespace()) {
            match word {
                "*" => signature.positional = signature.positional.min(signature.names.len()),
                "**" => signature.open = true,
                "..." => signature.variadic = true,
                _ => {
                    signature.names.push(word.trim_end_matches('?'));
                    signature.required.push(!word.ends_with('?'));
                }
            }
        }
        signature
    }
}

/// What every operation takes besides its own.
const COMMON: &str = "* when? after? when_changed? override?";

/// A function that recipes call.
#[derive(Clone, Debug, ProvidesStaticType, NoSerialize, Allocative)]
pub(crate) struct Builtin {
    /// Its full name: `files.put`.
    name: &'static str,
    #[allocative(skip)]
    signature: Arc<Signature>,
    #[allocative(skip)]
    body: Body,
}
starlark_simple_value!(Builtin);

impl From<Row> for Builtin {
    fn from((name, signature, body): Row) -> Self {
        let signature = Signature::parse(signature, matches!(body, Body::Operation(_)));
        Self { name, signature: Arc::new(signature), body }
    }
}

impl fmt::Display for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[starlark_value(type = "function")]
impl<'v> StarlarkValue<'v> for Builtin {
    fn invoke(
        &self,
        _me: Value<'v>,
        args: &Arguments<'v, '_>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let session = eval.extra.and_then(|extra| extra.downcast_ref::<Session>());
        let Some(session) = session else { return Err(fault::raise_text("called outside of a recipe")) };
        let at = eval.call_stack_top_location().map(|at| fault::span(&at));
        let call = self.bind(args, eval.heap(), session, at)?;
        match self.body {
            Body::Declaration(make) => call.declare(make, eval),
            Body::Operation(lower) => call.operate(lower, eval.heap()),
        }
    }
}

impl Builtin {
    /// The call with its arguments by name; what does not fit the signature is noted.
    fn bind<'v, 'c>(
        &'c self,
        args: &Arguments<'v, '_>,
        heap: Heap<'v>,
        session: &'c Session,
        at: Option<Span>,
    ) -> starlark::Result<Call<'v, 'c>> {
        let Signature { names, required, positional, open, variadic } = &*self.signature;
        let mut call = Call {
            name: self.name,
            names,
            values: vec![None; names.len()],
            further: Vec::new(),
            rest: Vec::new(),
            session,
            at,
            problems: RefCell::default(),
        };
        let most = (*positional).min(names.len());
        for (index, value) in args.positions(heap)?.enumerate() {
            if *variadic && index >= names.len() {
                call.rest.push(value);
            } else if index >= most {
                let text = format!("`{}` takes {most} arguments without a name at most", self.name);
                call.note("", Diagnostic::error("argument", text));
            } else {
                call.values[index] = Some(value);
            }
        }
        let mut unknown = Vec::new();
        for (name, value) in args.names_map()? {
            match names.iter().position(|known| *known == name.as_str()) {
                Some(index) if call.values[index].is_some() => {
                    let text = format!("`{name}` is given twice to `{}`", self.name, name = name.as_str());
                    call.note(name.as_str(), Diagnostic::error("argument", text));
                }
                Some(index) => call.values[index] = Some(value),
                None if *open => call.further.push((name.as_str().to_owned(), value)),
                None => {
                    call.note(name.as_str(), call.unknown(name.as_str()));
                    unknown.push(name.as_str().to_owned());
                }
            }
        }
        // A parameter whose name is misspelt is not missing besides.
        let meant =
            |name: &str| unknown.iter().any(|given| nearest(given, names.iter().copied()) == Some(name));
        for ((name, required), value) in names.iter().zip(required).zip(&call.values) {
            if *required && value.is_none() {
                let text = format!("`{}` needs `{name}`", self.name);
                let problem = call.placed(Diagnostic::error("argument", text));
                call.note_unless(meant(name), name, problem);
            }
        }
        Ok(call)
    }
}

/// A call with its arguments by name.
pub(crate) struct Call<'v, 'c> {
    /// The builtin's name.
    pub(crate) name: &'static str,
    names: &'c [&'static str],
    values: Vec<Option<Value<'v>>>,
    /// Arguments beyond the signature, where it is open.
    pub(crate) further: Vec<(String, Value<'v>)>,
    /// Values beyond the signature, where it takes them.
    pub(crate) rest: Vec<Value<'v>>,
    /// What the recipe runs in.
    pub(crate) session: &'c Session,
    /// The place of the call.
    pub(crate) at: Option<Span>,
    /// What is wrong, by argument; absent where it only follows from what was said already.
    problems: RefCell<Vec<(String, Option<Diagnostic>)>>,
}

impl<'v> Call<'v, '_> {
    /// Notes what is wrong with an argument; the first problem of each counts.
    pub(crate) fn note(&self, name: &str, problem: Diagnostic) {
        // What is wrong with a stand-in was said where it was made.
        self.note_unless(self.argument(name).is_some_and(stands_in), name, problem);
    }

    fn note_unless(&self, known: bool, name: &str, problem: Diagnostic) {
        let mut problems = self.problems.borrow_mut();
        if !problems.iter().any(|(other, _)| other == name) {
            problems.push((name.to_owned(), (!known).then(|| self.placed(problem))));
        }
    }

    /// Notes that an argument is wrong.
    pub(crate) fn refuse(&self, name: &str, message: impl Into<String>) {
        self.note(name, self.wrong(name, message));
    }

    /// Whether something is wrong with an argument.
    pub(crate) fn refused(&self, name: &str) -> bool {
        self.problems.borrow().iter().any(|(other, _)| other == name)
    }

    /// Notes what is wrong with a part of an argument; each part may be wrong in its own way.
    pub(crate) fn note_part(&self, name: &str, part: impl fmt::Display, problem: Diagnostic) {
        self.note_unless(false, &format!("{name}.{part}"), problem);
    }

    /// An argument of any name.
    fn argument(&self, name: &str) -> Option<Value<'v>> {
        let index = self.names.iter().position(|known| *known == name);
        let further = || self.further.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        index.and_then(|index| self.values[index]).or_else(further)
    }

    /// What the call came to, or all that is wrong with it, in the order of the text.
    fn settle<T>(&self, made: Result<T, Diagnostic>) -> Result<T, Vec<Diagnostic>> {
        let noted = self.problems.take();
        let last = match made {
            Ok(made) if noted.is_empty() => return Ok(made),
            Ok(_) => None,
            Err(last) => {
                Some(self.placed(last)).filter(|last| noted.is_empty() || self.stands_alone(last, &noted))
            }
        };
        let mut problems: Vec<Diagnostic> =
            noted.into_iter().filter_map(|(_, problem)| problem).chain(last).collect();
        problems.sort_by_key(|problem| problem.span.as_ref().map(|span| (span.line, span.column)));
        Err(problems)
    }

    /// Whether a problem is about an argument that was given and that nothing was said of yet.
    fn stands_alone(&self, problem: &Diagnostic, noted: &[(String, Option<Diagnostic>)]) -> bool {
        let given = self.names.iter().filter(|name| self.get(name).is_some_and(|value| !stands_in(value)));
        given
            .filter(|name| !noted.iter().any(|(other, _)| other.split('.').next() == Some(name)))
            .any(|name| problem.message.starts_with(&self.about(name)))
    }

    /// How messages about an argument begin.
    fn about(&self, name: &str) -> String {
        format!("`{}`: `{name}`: ", self.name)
    }

    /// An argument; `None` in the recipe counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<Value<'v>> {
        self.given(name).filter(|value| !value.is_none())
    }

    /// An argument, `None` too.
    pub(crate) fn given(&self, name: &str) -> Option<Value<'v>> {
        let index = self.names.iter().position(|known| *known == name);
        debug_assert!(index.is_some(), "`{}` has no parameter `{name}`", self.name);
        index.and_then(|index| self.values[index])
    }

    /// A problem of this call, at the call unless it has a place already.
    pub(crate) fn placed(&self, mut problem: Diagnostic) -> Diagnostic {
        if problem.span.is_none() {
            problem.span = self.at.clone();
        }
        problem
    }

    /// A problem with one argument, at the argument's name where it is written in the call.
    pub(crate) fn wrong(&self, name: &str, message: impl Into<String>) -> Diagnostic {
        let at =
            self.at.as_ref().map(|at| self.session.argument_place(at, name).unwrap_or_else(|| at.clone()));
        Diagnostic::error("argument", self.about(name) + &message.into()).at(at)
    }

    fn unknown(&self, name: &str) -> Diagnostic {
        let at =
            self.at.as_ref().map(|at| self.session.argument_place(at, name).unwrap_or_else(|| at.clone()));
        let mut problem =
            Diagnostic::error("argument", format!("`{}` has no parameter `{name}`", self.name)).at(at);
        problem.help = did_you_mean(name, self.names.iter().copied());
        problem
    }

    /// Required text, where nothing can be said of the call without it.
    pub(crate) fn try_text(&self, name: &str) -> Result<String, Diagnostic> {
        let text = self.text(name);
        let mut problems = self.problems.borrow_mut();
        match problems.iter().position(|(other, _)| other == name) {
            Some(index) => Err(problems.remove(index).1.unwrap_or_else(|| self.wrong(name, "expected text"))),
            None => Ok(text),
        }
    }

    /// The phase's recording.
    pub(crate) fn recording(&self) -> Result<&Recording, Diagnostic> {
        self.session.recording.as_ref().ok_or_else(|| {
            Diagnostic::error("outside-phase", format!("`{}` is called outside of a phase", self.name))
        })
    }

    /// Makes a value. A problem does not stop the recipe: the next call may have one too.
    fn declare(&self, make: Make, eval: &mut Evaluator<'v, '_, '_>) -> starlark::Result<Value<'v>> {
        match self.settle(make(self, eval)) {
            Ok(value) => Ok(value),
            Err(problems) => {
                self.session.report(problems)?;
                Ok(eval.heap().alloc(StandIn))
            }
        }
    }

    /// Lowers the call and records the result. A problem does not stop the recipe: the next call may have one too.
    fn operate(&self, lower: Lower, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let left_out = self.given("when").is_some_and(|when| !when.to_bool());
        let recorded = match &self.session.recording {
            Some(_) if left_out => self.settle(Ok(Handle::NONE)),
            Some(recording) => self.settle(self.record(lower, recording)),
            None => Err(vec![self.outside()]),
        };
        let handle = match recorded {
            Ok(handle) => handle,
            Err(problems) => {
                self.session.report(problems)?;
                Handle::NONE
            }
        };
        Ok(heap.alloc(handle))
    }

    fn outside(&self) -> Diagnostic {
        let text = format!("`{}` is called outside of a phase", self.name);
        let problem = Diagnostic::error("outside-phase", text);
        self.placed(problem.help("call it in `install`, `configure`, `units`, …"))
    }

    fn record(&self, lower: Lower, recording: &Recording) -> Result<Handle, Diagnostic> {
        let phase = recording.phase.get();
        let steps = lower(self)?;
        let is_check = steps.iter().any(|step| matches!(step.action, Action::Check(_)));
        if is_check != (phase == Phase::Verify) {
            let (text, help) = if is_check {
                (
                    format!("`{}` is called in `{phase}`", self.name),
                    "checks belong in `verify`: they run on a fresh boot",
                )
            } else {
                (
                    format!("`{}` is called in `verify`", self.name),
                    "`verify` only checks; call it in a phase before",
                )
            };
            return Err(Diagnostic::error("wrong-phase", text).help(help));
        }
        if phase == Phase::Upgrade && !steps.iter().all(|step| is_plain_command(&step.action)) {
            let text = format!("`{}` is called in `upgrade`", self.name);
            let help = "an instance that is to be replaced is not changed any more: `upgrade` has `run.command` only, \
                        with `user`, `env` and `timeout` and without conditions";
            return Err(Diagnostic::error("wrong-phase", text).help(help));
        }
        let common = Common {
            after: self.targets("after"),
            when_changed: self.targets("when_changed"),
            overriding: self.flag("override", false),
            span: self.at.clone(),
        };
        // It waits for a change by calls that are not in the plan: it would never run, so neither is it. Neither is a
        // call with problems.
        let waits_for_nothing = common.when_changed.is_empty() && !self.elements("when_changed").is_empty();
        if waits_for_nothing || !self.problems.borrow().is_empty() {
            return Ok(Handle::NONE);
        }
        Ok(recording.add(phase, steps, common))
    }
}

/// Whether an action is a command that can be run on an instance without an agent.
fn is_plain_command(action: &Action) -> bool {
    let Action::Run(run) = action else { return false };
    let conditions = run.creates.is_some() || run.unless.is_some() || run.only_if.is_some();
    let contents = run.script.is_some() || run.stdin.is_some() || !run.secrets.is_empty();
    !conditions && !contents && run.cwd.is_none()
}
