//! The arguments of a call by their kinds: texts, paths, numbers, modes, commands, files, operations.
//!
//! An argument of the wrong kind is noted in the call, and something takes its place: the next one may be wrong too.

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Content, Ownership};
use olbake_core::plan::Payload;
use olbake_core::secret;
use olbake_core::settings::{Type, decimal_mode, octal_help};
use serde_json::Value as Json;
use starlark::values::list::ListRef;
use starlark::values::tuple::TupleRef;
use starlark::values::{UnpackValue, Value, ValueLike};

use crate::builtin::Call;
use crate::ops::written::{self, Fault};
use crate::session::Target;
use crate::values::{Handle, StandIn, to_json};

/// Stands for a text or path that was refused.
const STAND_IN: &str = "stand-in";

impl<'v> Call<'v, '_> {
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
}
