//! What recipes call: functions with a written signature, whose arguments are checked in one place.
//!
//! A signature is a text such as `path src? * owner? mode?`: names in order, `?` where one may be left out, `*` before
//! those that must be named, `**` where further names are taken, `...` where further values are. Operations take `when`, `after`, `when_changed` and `override`
//! besides.

#![allow(unsafe_code, reason = "the derives of values for the interpreter write it; none is written by hand")]

use std::fmt;

use allocative::Allocative;
use camino::Utf8PathBuf;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, Content, Ownership, Phase};
use olbake_core::plan::Payload;
use olbake_core::secret;
use olbake_core::settings::{Type, did_you_mean};
use olbake_core::span::Span;
use serde_json::Value as Json;
use starlark::any::ProvidesStaticType;
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_simple_value;
use starlark::values::list::ListRef;
use starlark::values::tuple::TupleRef;
use starlark::values::{Heap, NoSerialize, StarlarkValue, UnpackValue, Value, ValueLike, starlark_value};

use crate::fault;
use crate::session::{Common, Recording, Session, Target};
use crate::values::{Handle, to_json};

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
#[derive(Debug, ProvidesStaticType, NoSerialize, Allocative)]
pub(crate) struct Builtin {
    /// Its full name: `files.put`.
    name: &'static str,
    #[allocative(skip)]
    signature: Signature,
    #[allocative(skip)]
    body: Body,
}
starlark_simple_value!(Builtin);

impl From<Row> for Builtin {
    fn from((name, signature, body): Row) -> Self {
        let signature = Signature::parse(signature, matches!(body, Body::Operation(_)));
        Self { name, signature, body }
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
        let call = self.bind(args, eval.heap(), session, at).map_err(fault::raise)?;
        match self.body {
            Body::Declaration(make) => {
                make(&call, eval).map_err(|problem| fault::raise(call.placed(problem)))
            }
            Body::Operation(lower) => call.operate(lower, eval.heap()),
        }
    }
}

impl Builtin {
    fn bind<'v, 'c>(
        &'c self,
        args: &Arguments<'v, '_>,
        heap: Heap<'v>,
        session: &'c Session,
        at: Option<Span>,
    ) -> Result<Call<'v, 'c>, Diagnostic> {
        let Signature { names, required, positional, open, variadic } = &self.signature;
        let mut call = Call {
            name: self.name,
            names,
            values: vec![None; names.len()],
            further: Vec::new(),
            rest: Vec::new(),
            session,
            at,
        };
        let positions = args.positions(heap).map_err(fault::diagnose)?;
        for (index, value) in positions.enumerate() {
            if *variadic && index >= names.len() {
                call.rest.push(value);
                continue;
            }
            if index >= (*positional).min(names.len()) {
                let most = (*positional).min(names.len());
                let text = format!("`{}` takes {most} arguments without a name at most", self.name);
                return Err(call.placed(Diagnostic::error("argument", text)));
            }
            call.values[index] = Some(value);
        }
        for (name, value) in args.names_map().map_err(fault::diagnose)? {
            match names.iter().position(|known| *known == name.as_str()) {
                Some(index) if call.values[index].is_some() => {
                    let text = format!("`{name}` is given twice to `{}`", self.name, name = name.as_str());
                    return Err(call.placed(Diagnostic::error("argument", text)));
                }
                Some(index) => call.values[index] = Some(value),
                None if *open => call.further.push((name.as_str().to_owned(), value)),
                None => return Err(call.unknown(name.as_str())),
            }
        }
        let missing = names.iter().zip(required).zip(&call.values);
        if let Some(((name, _), _)) =
            missing.into_iter().find(|((_, required), value)| **required && value.is_none())
        {
            let text = format!("`{}` needs `{name}`", self.name);
            return Err(call.placed(Diagnostic::error("argument", text)));
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
}

impl<'v> Call<'v, '_> {
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
        Diagnostic::error("argument", format!("`{}`: `{name}`: {}", self.name, message.into())).at(at)
    }

    fn unknown(&self, name: &str) -> Diagnostic {
        let at =
            self.at.as_ref().map(|at| self.session.argument_place(at, name).unwrap_or_else(|| at.clone()));
        let mut problem =
            Diagnostic::error("argument", format!("`{}` has no parameter `{name}`", self.name)).at(at);
        problem.help = did_you_mean(name, self.names.iter().copied());
        problem
    }

    fn expected(&self, name: &str, expected: &str, value: Value<'v>) -> Diagnostic {
        let found: String = value.to_repr().chars().take(60).collect();
        self.wrong(name, format!("expected {expected}, found `{found}`"))
    }

    /// Text that may have secrets in it.
    pub(crate) fn secret_text(&self, name: &str) -> Result<Option<String>, Diagnostic> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.unpack_str() {
            Some(text) => self
                .session
                .known_secrets(text)
                .map_err(|message| self.wrong(name, message))
                .map(|()| Some(text.to_owned())),
            None => Err(self.expected(name, "text", value)),
        }
    }

    /// Text that shows, and so may have no secrets in it.
    pub(crate) fn opt_text(&self, name: &str) -> Result<Option<String>, Diagnostic> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.unpack_str() {
            Some(text) => self.shown(name, text).map(Some),
            None => Err(self.expected(name, "text", value)),
        }
    }

    fn shown(&self, name: &str, text: &str) -> Result<String, Diagnostic> {
        if text.contains([secret::MARKER_START, secret::MARKER_END]) {
            let names: Vec<String> =
                secret::references(text).into_iter().map(|id| format!("`{}`", id.0)).collect();
            let problem = self.wrong(name, format!("the secret {} would show here", names.join(", ")));
            return Err(Diagnostic { code: "secret-exposed".to_owned(), ..problem }.help(
                "secrets never reach argv, paths or titles: pass them in `content`, `env` or `stdin`",
            ));
        }
        Ok(text.to_owned())
    }

    /// Required text.
    pub(crate) fn text(&self, name: &str) -> Result<String, Diagnostic> {
        self.opt_text(name)?.ok_or_else(|| self.wrong(name, "expected text, found `None`"))
    }

    /// An absolute path.
    pub(crate) fn opt_path(&self, name: &str) -> Result<Option<Utf8PathBuf>, Diagnostic> {
        let Some(text) = self.opt_text(name)? else { return Ok(None) };
        self.absolute(name, &text).map(Some)
    }

    /// A required absolute path.
    pub(crate) fn path(&self, name: &str) -> Result<Utf8PathBuf, Diagnostic> {
        let text = self.text(name)?;
        self.absolute(name, &text)
    }

    /// Absolute paths.
    pub(crate) fn paths(&self, name: &str) -> Result<Vec<Utf8PathBuf>, Diagnostic> {
        self.texts(name)?.iter().map(|text| self.absolute(name, text)).collect()
    }

    fn absolute(&self, name: &str, text: &str) -> Result<Utf8PathBuf, Diagnostic> {
        let parts = text.split('/');
        let fine = text.starts_with('/')
            && parts.clone().all(|part| part != ".." && part != ".")
            && !text.contains(['\0', '\n']);
        if !fine {
            return Err(self.wrong(name, format!("expected an absolute path, found `{text}`")));
        }
        let clean: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        Ok(Utf8PathBuf::from(format!("/{}", clean.join("/"))))
    }

    /// True or false, where given.
    pub(crate) fn opt_flag(&self, name: &str) -> Result<Option<bool>, Diagnostic> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.unpack_bool().map(Some).ok_or_else(|| self.expected(name, "`True` or `False`", value))
    }

    /// True or false.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, Diagnostic> {
        Ok(self.opt_flag(name)?.unwrap_or(default))
    }

    /// A whole number in a range.
    pub(crate) fn opt_number<N: TryFrom<i64>>(&self, name: &str) -> Result<Option<N>, Diagnostic> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = i64::unpack_value(value).ok().flatten().filter(|_| value.unpack_bool().is_none());
        number
            .and_then(|number| N::try_from(number).ok())
            .map(Some)
            .ok_or_else(|| self.expected(name, "a whole number in range", value))
    }

    /// Seconds, as a whole number or as a length of time such as `90s`.
    pub(crate) fn opt_seconds(&self, name: &str) -> Result<Option<u32>, Diagnostic> {
        let Some(text) = self.get(name).and_then(|value| value.unpack_str()) else {
            return self.opt_number(name);
        };
        let coerced = Type::Duration.coerce(&Json::from(text)).ok();
        let seconds =
            coerced.as_ref().and_then(Json::as_str).and_then(|text| text.strip_suffix('s')?.parse().ok());
        seconds
            .map(Some)
            .ok_or_else(|| self.wrong(name, format!("expected whole seconds or `90s`, found `{text}`")))
    }

    /// Permission bits, as a number or as text in octal.
    pub(crate) fn opt_mode(&self, name: &str) -> Result<Option<u32>, Diagnostic> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let bits = match value.unpack_str() {
            Some(text) => u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok(),
            None => value.unpack_i32().and_then(|number| u32::try_from(number).ok()),
        };
        let bits = bits.filter(|bits| *bits <= 0o7777);
        bits.map(Some).ok_or_else(|| self.expected(name, "permission bits such as `0o644`", value))
    }

    /// Owner, group and mode.
    pub(crate) fn ownership(&self) -> Result<Ownership, Diagnostic> {
        Ok(Ownership {
            owner: self.opt_text("owner")?,
            group: self.opt_text("group")?,
            mode: self.opt_mode("mode")?,
        })
    }

    /// The elements of a list; a single value that is no list is the only element.
    pub(crate) fn elements(&self, name: &str) -> Vec<Value<'v>> {
        let Some(value) = self.get(name) else { return Vec::new() };
        if let Some(list) = ListRef::from_value(value) {
            return list.iter().collect();
        }
        match TupleRef::from_value(value) {
            Some(tuple) => tuple.iter().collect(),
            None => vec![value],
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, Diagnostic> {
        let text = |value: Value<'v>| match value.unpack_str() {
            Some(text) => self.shown(name, text),
            None => Err(self.expected(name, "a list of texts", value)),
        };
        self.elements(name).into_iter().map(text).collect()
    }

    /// A command as a list of arguments.
    pub(crate) fn opt_argv(&self, name: &str) -> Result<Option<Vec<String>>, Diagnostic> {
        let Some(value) = self.get(name) else { return Ok(None) };
        if let Some(text) = value.unpack_str() {
            let words: Vec<String> = text.split_whitespace().map(|word| format!("\"{word}\"")).collect();
            return Err(self
                .wrong(name, "expected a command as a list of arguments, found text")
                .help(format!("write `{name} = [{}]`", words.join(", "))));
        }
        // Numbers and paths computed by a recipe are often not texts; a command line has only texts.
        let word = |value: Value<'v>| match (value.unpack_str(), value.unpack_i32()) {
            (Some(text), _) => self.shown(name, text),
            (None, Some(number)) if value.unpack_bool().is_none() => Ok(number.to_string()),
            _ => Err(self.expected(name, "a list of texts", value)),
        };
        let argv: Vec<String> = self.elements(name).into_iter().map(word).collect::<Result<_, _>>()?;
        if argv.is_empty() {
            Err(self.wrong(name, "expected a command, found an empty list"))
        } else {
            Ok(Some(argv))
        }
    }

    /// A required command.
    pub(crate) fn argv(&self, name: &str) -> Result<Vec<String>, Diagnostic> {
        self.opt_argv(name)?.ok_or_else(|| self.wrong(name, "expected a command, found `None`"))
    }

    /// Any data.
    pub(crate) fn json(&self, name: &str) -> Result<Option<Json>, Diagnostic> {
        let Some(value) = self.get(name) else { return Ok(None) };
        to_json(value).map(Some).map_err(|found| self.wrong(name, format!("expected data, found {found}")))
    }

    /// Whole numbers.
    pub(crate) fn numbers(&self, name: &str) -> Result<Vec<i32>, Diagnostic> {
        let number = |value: Value<'v>| {
            value.unpack_i32().ok_or_else(|| self.expected(name, "a list of whole numbers", value))
        };
        self.elements(name).into_iter().map(number).collect()
    }

    /// An expression as the machine will understand it.
    pub(crate) fn opt_regex(&self, name: &str) -> Result<Option<String>, Diagnostic> {
        let Some(text) = self.opt_text(name)? else { return Ok(None) };
        match regex_lite::Regex::new(&text) {
            Ok(_) => Ok(Some(text)),
            Err(error) => Err(self.wrong(name, format!("`{text}` is not an expression: {error}"))),
        }
    }

    /// Refuses secrets in a text inside an argument.
    pub(crate) fn plain(&self, name: &str, text: &str) -> Result<(), Diagnostic> {
        self.shown(name, text).map(|_| ())
    }

    /// The phase's recording.
    pub(crate) fn recording(&self) -> Result<&Recording, Diagnostic> {
        self.session.recording.as_ref().ok_or_else(|| {
            Diagnostic::error("outside-phase", format!("`{}` is called outside of a phase", self.name))
        })
    }

    /// The content of a file of the component, and its path in the workspace.
    pub(crate) fn file_content(&self, name: &str, path: &str) -> Result<(Content, Utf8PathBuf), Diagnostic> {
        let recording = self.recording()?;
        let file = self.session.resolve(recording, path).map_err(|message| self.wrong(name, message))?;
        let (digest, size) =
            self.session.sources.digest(&file).map_err(|message| self.missing_file(name, message))?;
        Ok((recording.keep(digest, Payload::File { path: file.clone(), size }), file))
    }

    /// A file that is not there.
    pub(crate) fn missing_file(&self, name: &str, message: String) -> Diagnostic {
        Diagnostic { code: "missing-file".to_owned(), ..self.wrong(name, message) }
            .help("paths are relative to the component's folder, or to the workspace after `//`")
    }

    /// Operations by handle, or by the path that they write.
    pub(crate) fn targets(&self, name: &str) -> Result<Vec<Target>, Diagnostic> {
        let mut targets = Vec::new();
        for value in self.elements(name) {
            match (value.downcast_ref::<Handle>(), value.unpack_str()) {
                (Some(handle), _) => {
                    targets.extend((handle.first..handle.first + handle.count).map(Target::Draft))
                }
                (None, Some(text)) => targets.push(Target::Path(self.absolute(name, text)?)),
                _ => return Err(self.expected(name, "what an operation returned, or a path", value)),
            }
        }
        Ok(targets)
    }

    /// Lowers the call and records the result. A problem does not stop the recipe: the next call may have one too.
    fn operate(&self, lower: Lower, heap: Heap<'v>) -> starlark::Result<Value<'v>> {
        let Some(recording) = &self.session.recording else {
            let text = format!("`{}` is called outside of a phase", self.name);
            let problem = Diagnostic::error("outside-phase", text)
                .help("call it in `install`, `configure`, `units`, …");
            return Err(fault::raise(self.placed(problem)));
        };
        let handle = if self.given("when").is_some_and(|when| !when.to_bool()) {
            Handle { first: 0, count: 0 }
        } else {
            self.record(lower, recording).unwrap_or_else(|problem| {
                recording.problems.borrow_mut().push(self.placed(problem));
                Handle { first: 0, count: 0 }
            })
        };
        Ok(heap.alloc(handle))
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
            after: self.targets("after")?,
            when_changed: self.targets("when_changed")?,
            overriding: self.flag("override", false)?,
            span: self.at.clone(),
        };
        // It waits for a change by calls that are not in the plan: it would never run, so neither is it.
        if common.when_changed.is_empty() && !self.elements("when_changed").is_empty() {
            return Ok(Handle { first: 0, count: 0 });
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
