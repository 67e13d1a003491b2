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
use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, Content, Ownership, Phase};
use olbake_core::plan::Payload;
use olbake_core::secret;
use olbake_core::settings::{Type, decimal_mode, did_you_mean, nearest, octal_help};
use olbake_core::span::Span;
use serde_json::Value as Json;
use starlark::any::ProvidesStaticType;
use starlark::eval::{Arguments, Evaluator};
use starlark::starlark_simple_value;
use starlark::values::list::ListRef;
use starlark::values::tuple::TupleRef;
use starlark::values::{Heap, NoSerialize, StarlarkValue, UnpackValue, Value, ValueLike, starlark_value};

use crate::fault;
use crate::ops::written::{self, Fault};
use crate::session::{Common, Recording, Session, Target};
use crate::values::{Handle, StandIn, stands_in, to_json};

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

/// Stands for a text or path that was refused.
const STAND_IN: &str = "stand-in";

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

    fn expected(&self, name: &str, expected: &str, value: Value<'v>) -> Diagnostic {
        let found: String = value.to_repr().chars().take(60).collect();
        self.wrong(name, format!("expected {expected}, found `{found}`"))
    }

    /// Notes that an argument is of the wrong kind.
    fn mistaken(&self, name: &str, expected: &str, value: Value<'v>) {
        self.note(name, self.expected(name, expected, value));
    }

    /// Text that may have secrets in it.
    pub(crate) fn secret_text(&self, name: &str) -> Option<String> {
        let value = self.get(name)?;
        match value.unpack_str().map(|text| (text, self.session.known_secrets(text))) {
            Some((text, Ok(()))) => return Some(text.to_owned()),
            Some((_, Err(message))) => self.refuse(name, message),
            None => self.mistaken(name, "text", value),
        }
        Some(STAND_IN.to_owned())
    }

    /// Text that shows, and so may have no secrets in it.
    pub(crate) fn opt_text(&self, name: &str) -> Option<String> {
        let value = self.get(name)?;
        match value.unpack_str().map(|text| self.shown(name, text)) {
            Some(Ok(text)) => return Some(text),
            Some(Err(problem)) => self.note(name, problem),
            None => self.mistaken(name, "text", value),
        }
        Some(STAND_IN.to_owned())
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
    pub(crate) fn text(&self, name: &str) -> String {
        self.opt_text(name).unwrap_or_else(|| {
            self.refuse(name, "expected text, found `None`");
            STAND_IN.to_owned()
        })
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

    /// Text in a little language of its own, where given; `check` says what is wrong with it.
    pub(crate) fn opt_written(&self, name: &str, check: fn(&str) -> Result<(), Fault>) -> Option<String> {
        let text = self.opt_text(name)?;
        if let Err(fault) = check(&text) {
            self.note(name, self.fault(name, fault));
        }
        Some(text)
    }

    /// Texts in a little language of their own; each may be wrong in its own way.
    pub(crate) fn all_written(&self, name: &str, check: fn(&str) -> Result<(), Fault>) -> Vec<String> {
        let texts = self.texts(name);
        for (index, text) in texts.iter().enumerate().filter(|(_, text)| *text != STAND_IN) {
            if let Err(fault) = check(text) {
                self.note_part(name, index, self.fault(name, fault));
            }
        }
        texts
    }

    /// What is wrong with a text of an argument.
    pub(crate) fn fault(&self, name: &str, fault: Fault) -> Diagnostic {
        let Fault { message, help } = fault;
        Diagnostic { help, ..self.wrong(name, message) }
    }

    /// The name of an account that is there or will be, or its number.
    pub(crate) fn opt_account(&self, name: &str) -> Option<String> {
        self.opt_written(name, written::account)
    }

    /// An absolute path.
    pub(crate) fn opt_path(&self, name: &str) -> Option<Utf8PathBuf> {
        self.opt_text(name).map(|text| self.path_of(name, &text))
    }

    /// A required absolute path.
    pub(crate) fn path(&self, name: &str) -> Utf8PathBuf {
        self.path_of(name, &self.text(name))
    }

    /// Absolute paths.
    pub(crate) fn paths(&self, name: &str) -> Vec<Utf8PathBuf> {
        self.texts(name).iter().map(|text| self.path_of(name, text)).collect()
    }

    fn path_of(&self, name: &str, text: &str) -> Utf8PathBuf {
        self.absolute(name, text).unwrap_or_else(|problem| {
            self.note(name, problem);
            Utf8PathBuf::from("/").join(STAND_IN)
        })
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
        let path = Utf8PathBuf::from(format!("/{}", clean.join("/")));
        self.no_longer_than_linux_takes(name, &path)?;
        Ok(path)
    }

    /// Refuses names and paths that no file can have (path_resolution(7)).
    pub(crate) fn no_longer_than_linux_takes(&self, name: &str, path: &Utf8Path) -> Result<(), Diagnostic> {
        let long = path.components().map(|part| part.as_str()).find(|part| part.len() > 255);
        if let Some(long) = long {
            let start: String = long.chars().take(32).collect();
            let text = format!("the name `{start}…` has {} bytes: a file's name has 255 at most", long.len());
            return Err(self.wrong(name, text));
        }
        if path.as_str().len() > 4095 {
            return Err(self.wrong(name, format!("the path has {} bytes: 4095 at most", path.as_str().len())));
        }
        Ok(())
    }

    /// True or false, where given.
    pub(crate) fn opt_flag(&self, name: &str) -> Option<bool> {
        let value = self.get(name)?;
        let flag = value.unpack_bool();
        if flag.is_none() {
            self.mistaken(name, "`True` or `False`", value);
        }
        flag
    }

    /// True or false.
    pub(crate) fn flag(&self, name: &str, default: bool) -> bool {
        self.opt_flag(name).unwrap_or(default)
    }

    /// A whole number in a range.
    pub(crate) fn opt_number<N: TryFrom<i64>>(&self, name: &str) -> Option<N> {
        let value = self.get(name)?;
        let number = i64::unpack_value(value).ok().flatten().filter(|_| value.unpack_bool().is_none());
        let number = number.and_then(|number| N::try_from(number).ok());
        if number.is_none() {
            self.mistaken(name, "a whole number in range", value);
        }
        number
    }

    /// Seconds, as a whole number or as a length of time such as `90s`.
    pub(crate) fn opt_seconds(&self, name: &str) -> Option<u32> {
        let Some(text) = self.get(name).and_then(|value| value.unpack_str()) else {
            return self.opt_number(name);
        };
        let coerced = Type::Duration.coerce(&Json::from(text)).ok();
        let seconds =
            coerced.as_ref().and_then(Json::as_str).and_then(|text| text.strip_suffix('s')?.parse().ok());
        if seconds.is_none() {
            self.refuse(name, format!("expected whole seconds or `90s`, found `{text}`"));
        }
        seconds
    }

    /// Permission bits, as a number or as text in octal.
    pub(crate) fn opt_mode(&self, name: &str) -> Option<u32> {
        let value = self.get(name)?;
        let bits = match value.unpack_str() {
            Some(text) => u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok(),
            None => value.unpack_i32().and_then(|number| u32::try_from(number).ok()),
        };
        let bits = bits.filter(|bits| *bits <= 0o7777);
        let meant = bits.filter(|_| value.unpack_str().is_none()).and_then(|bits| self.decimal(name, bits));
        match meant {
            Some(meant) => {
                let problem = self.expected(name, "permission bits such as `0o644`", value);
                self.note(name, problem.help(octal_help(meant)));
            }
            None if bits.is_none() => self.mistaken(name, "permission bits such as `0o644`", value),
            None => {}
        }
        bits
    }

    /// The bits that were meant by a number that is written in decimal, or that makes sense only if it was.
    pub(crate) fn decimal(&self, name: &str, bits: u32) -> Option<u32> {
        let written = self.at.as_ref().and_then(|at| self.session.argument_text(at, name));
        let literal: String =
            written.iter().flat_map(|text| text.chars()).take_while(char::is_ascii_digit).collect();
        let ends = written.is_some_and(|text| {
            text[literal.len()..].trim_start().starts_with([',', ')', '\n', '#'])
                || text.len() == literal.len()
        });
        let as_written = || u32::from_str_radix(&literal, 8).unwrap_or(bits);
        decimal_mode(bits).or_else(|| (ends && bits > 7 && literal == bits.to_string()).then(as_written))
    }

    /// Owner, group and mode.
    pub(crate) fn ownership(&self) -> Ownership {
        Ownership {
            owner: self.opt_account("owner"),
            group: self.opt_account("group"),
            mode: self.opt_mode("mode"),
        }
    }

    /// The elements of a list; a single value that is no list is the only element. What stands in for something that was
    /// refused is left out.
    pub(crate) fn elements(&self, name: &str) -> Vec<Value<'v>> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let mut elements: Vec<Value<'v>> = if let Some(list) = ListRef::from_value(value) {
            list.iter().collect()
        } else {
            TupleRef::from_value(value).map_or_else(|| vec![value], |tuple| tuple.iter().collect())
        };
        elements.retain(|value| value.downcast_ref::<StandIn>().is_none());
        elements
    }

    /// A list of texts.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        let text = |value: Value<'v>| match value.unpack_str() {
            Some(text) => self.shown(name, text),
            None => Err(self.expected(name, "a list of texts", value)),
        };
        self.instead(name, self.elements(name).into_iter().map(text))
    }

    /// Texts, with something in place of those that are refused.
    fn instead(&self, name: &str, texts: impl Iterator<Item = Result<String, Diagnostic>>) -> Vec<String> {
        let text = |(index, text): (usize, Result<String, Diagnostic>)| {
            text.unwrap_or_else(|problem| {
                self.note_part(name, index, problem);
                STAND_IN.to_owned()
            })
        };
        texts.enumerate().map(text).collect()
    }

    /// A command as a list of arguments.
    pub(crate) fn opt_argv(&self, name: &str) -> Option<Vec<String>> {
        let value = self.get(name)?;
        if let Some(text) = value.unpack_str() {
            let words: Vec<String> = text.split_whitespace().map(|word| format!("\"{word}\"")).collect();
            let problem = self.wrong(name, "expected a command as a list of arguments, found text");
            self.note(name, problem.help(format!("write `{name} = [{}]`", words.join(", "))));
            return Some(vec![STAND_IN.to_owned()]);
        }
        // Numbers and paths computed by a recipe are often not texts; a command line has only texts.
        let word = |value: Value<'v>| match (value.unpack_str(), value.unpack_i32()) {
            (Some(text), _) => self.shown(name, text),
            (None, Some(number)) if value.unpack_bool().is_none() => Ok(number.to_string()),
            _ => Err(self.expected(name, "a list of texts", value)),
        };
        let argv = self.instead(name, self.elements(name).into_iter().map(word));
        if argv.is_empty() {
            self.refuse(name, "expected a command, found an empty list");
        }
        Some(argv)
    }

    /// A required command.
    pub(crate) fn argv(&self, name: &str) -> Vec<String> {
        self.opt_argv(name).unwrap_or_else(|| {
            self.refuse(name, "expected a command, found `None`");
            Vec::new()
        })
    }

    /// Any data.
    pub(crate) fn json(&self, name: &str) -> Option<Json> {
        match to_json(self.get(name)?) {
            Ok(data) => Some(data),
            Err(found) => {
                self.refuse(name, format!("expected data, found {found}"));
                None
            }
        }
    }

    /// Whole numbers.
    pub(crate) fn numbers(&self, name: &str) -> Vec<i32> {
        let number = |value: Value<'v>| {
            let number = value.unpack_i32();
            if number.is_none() {
                self.mistaken(name, "a list of whole numbers", value);
            }
            number
        };
        self.elements(name).into_iter().filter_map(number).collect()
    }

    /// An expression as the machine will understand it.
    pub(crate) fn opt_regex(&self, name: &str) -> Option<String> {
        let text = self.opt_text(name)?;
        if let Err(error) = regex_lite::Regex::new(&text) {
            self.refuse(name, format!("`{text}` is not an expression: {error}"));
        }
        Some(text)
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
        let file = self.session.resolve(recording, path).map_err(|message| self.wrong(name, message));
        let found = file.and_then(|file| match self.session.sources.digest(&file) {
            Ok(found) => Ok((file, found)),
            Err(message) => Err(self.missing_file(name, message)),
        });
        Ok(match found {
            Ok((file, (digest, size))) => {
                (recording.keep(digest, Payload::File { path: file.clone(), size }), file)
            }
            Err(problem) => {
                self.note(name, problem);
                (Content { digest: Digest::of(b""), secrets: Vec::new() }, Utf8PathBuf::from(path))
            }
        })
    }

    /// A file that is not there.
    pub(crate) fn missing_file(&self, name: &str, message: String) -> Diagnostic {
        Diagnostic { code: "missing-file".to_owned(), ..self.wrong(name, message) }
            .help("paths are relative to the component's folder, or to the workspace after `//`")
    }

    /// Operations by handle, or by the path that they write.
    pub(crate) fn targets(&self, name: &str) -> Vec<Target> {
        let mut targets = Vec::new();
        for value in self.elements(name) {
            match (value.downcast_ref::<Handle>(), value.unpack_str()) {
                (Some(handle), _) => {
                    targets.extend((handle.first..handle.first + handle.count).map(Target::Draft))
                }
                (None, Some(text)) => targets.push(Target::Path(self.path_of(name, text))),
                _ => {
                    let expected = "what an operation returned, or a path";
                    self.note_part(name, targets.len(), self.expected(name, expected, value));
                }
            }
        }
        targets
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
