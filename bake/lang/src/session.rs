//! What a piece of recipe runs in: a file of declarations, or a phase that records operations.

#![allow(unsafe_code, reason = "the derives of values for the interpreter write it; none is written by hand")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::Digest;
use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, Content, Phase};
use olbake_core::plan::Payload;
use olbake_core::secret::{self, SecretId};
use olbake_core::span::Span;
use starlark::any::ProvidesStaticType;

use crate::builtin::Step;
use crate::declare::Declared;
use crate::fault;
use crate::sources::Sources;
use crate::stack::{Judging, StackRecording};
use crate::template::Templates;
use crate::values::Handle;

/// The surroundings of an evaluation; builtins find it in the evaluator.
#[derive(ProvidesStaticType)]
pub(crate) struct Session {
    /// The files of the workspace.
    pub(crate) sources: Arc<Sources>,
    /// The file that is evaluated, relative to the workspace.
    pub(crate) file: String,
    /// What `component(…)` or `image(…)` said.
    pub(crate) declared: RefCell<Option<Declared>>,
    /// The operations of a phase; absent outside of phases.
    pub(crate) recording: Option<Recording>,
    /// What a stack's function declares; absent outside of it.
    pub(crate) stack: Option<StackRecording>,
    /// What policies say; absent outside of them.
    pub(crate) judging: Option<Judging>,
    /// What is wrong with the file's declarations.
    pub(crate) problems: RefCell<Vec<Diagnostic>>,
}

/// An operation before it has an identity.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) phase: Phase,
    pub(crate) title: String,
    pub(crate) spans: Vec<Span>,
    pub(crate) action: Action,
    pub(crate) after: Vec<Target>,
    pub(crate) when_changed: Vec<Target>,
    pub(crate) restart_on: Vec<Target>,
    pub(crate) reload_on: Vec<Target>,
    pub(crate) overriding: bool,
}

/// An operation that another names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// By handle.
    Draft(usize),
    /// By the path that it writes.
    Path(Utf8PathBuf),
}

/// What every operation takes.
pub(crate) struct Common {
    pub(crate) after: Vec<Target>,
    pub(crate) when_changed: Vec<Target>,
    pub(crate) overriding: bool,
    pub(crate) span: Option<Span>,
}

/// The bytes of a digest, and where they are.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) payload: Payload,
    /// The bytes of inline payloads.
    pub(crate) bytes: Option<Arc<[u8]>>,
}

/// What the phases of one use of a component record.
pub(crate) struct Recording {
    /// The component's folder.
    pub(crate) folder: Utf8PathBuf,
    /// Its templates.
    pub(crate) templates: Arc<Templates>,
    /// Its secrets.
    pub(crate) secrets: BTreeSet<SecretId>,
    /// The phase that runs.
    pub(crate) phase: Cell<Phase>,
    /// What was recorded.
    pub(crate) drafts: RefCell<Vec<Draft>>,
    /// The bytes that it needs.
    pub(crate) payloads: RefCell<BTreeMap<Digest, Stored>>,
    /// What is wrong.
    pub(crate) problems: RefCell<Vec<Diagnostic>>,
}

impl Recording {
    /// Records the steps of one call.
    pub(crate) fn add(&self, phase: Phase, steps: Vec<Step>, common: Common) -> Handle {
        let Common { after, when_changed, overriding, span } = common;
        let mut drafts = self.drafts.borrow_mut();
        let handle = Handle { first: drafts.len(), count: steps.len() };
        for Step { title, action, restart_on, reload_on, follows } in steps {
            let mut when_changed = when_changed.clone();
            if follows {
                when_changed.push(Target::Draft(drafts.len() - 1));
            }
            let (after, spans) = (after.clone(), span.iter().cloned().collect());
            drafts.push(Draft {
                phase,
                title,
                spans,
                action,
                after,
                when_changed,
                restart_on,
                reload_on,
                overriding,
            });
        }
        handle
    }

    /// The component's name, as its folder has it.
    pub(crate) fn component(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_owned()
    }

    /// Keeps text made while planning.
    pub(crate) fn keep_text(&self, text: String) -> Content {
        let secrets =
            if text.contains(secret::MARKER_START) { unique(secret::references(&text)) } else { Vec::new() };
        let bytes: Arc<[u8]> = text.into_bytes().into();
        let digest = Digest::of(&bytes);
        let payload = Payload::Inline { size: bytes.len() as u64 };
        self.payloads.borrow_mut().entry(digest).or_insert(Stored { payload, bytes: Some(bytes) });
        Content { digest, secrets }
    }

    /// Keeps a reference to bytes that lie elsewhere.
    pub(crate) fn keep(&self, digest: Digest, payload: Payload) -> Content {
        self.payloads.borrow_mut().entry(digest).or_insert(Stored { payload, bytes: None });
        Content { digest, secrets: Vec::new() }
    }
}

fn unique(mut ids: Vec<SecretId>) -> Vec<SecretId> {
    ids.sort();
    ids.dedup();
    ids
}

impl Session {
    /// Notes problems, and the evaluation goes on; only a policy ends with its first one.
    pub(crate) fn report(&self, problems: Vec<Diagnostic>) -> starlark::Result<()> {
        if self.judging.is_some() {
            return problems.into_iter().next().map_or(Ok(()), |problem| Err(fault::raise(problem)));
        }
        let phases = self.recording.as_ref().map(|recording| &recording.problems);
        let stack = self.stack.as_ref().map(|recording| &recording.problems);
        phases.or(stack).unwrap_or(&self.problems).borrow_mut().extend(problems);
        Ok(())
    }

    /// Refuses markers that stand for no secret of this component.
    pub(crate) fn known_secrets(&self, text: &str) -> Result<(), String> {
        if !text.contains([secret::MARKER_START, secret::MARKER_END]) {
            return Ok(());
        }
        let known = self.recording.as_ref().map(|recording| &recording.secrets);
        let plain: usize = text.matches([secret::MARKER_START, secret::MARKER_END]).count();
        let references = secret::references(text);
        let foreign = references.iter().any(|id| !known.is_some_and(|known| known.contains(id)));
        if foreign || plain != 2 * references.len() {
            return Err(
                "the private-use characters U+E000 and U+E001 stand for secrets and are refused elsewhere"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Where the argument `name =` of the call at `at` is written, if it is written there.
    pub(crate) fn argument_place(&self, at: &Span, name: &str) -> Option<Span> {
        find_argument(&self.sources.text(&at.file)?, at, name)
    }

    /// What is written after `name =` in the call at `at`, to the end of the line.
    pub(crate) fn argument_text(&self, at: &Span, name: &str) -> Option<String> {
        let place = self.argument_place(at, name)?;
        let text = self.sources.text(&place.file)?;
        let line = text.lines().nth(place.line as usize - 1)?;
        let rest: String = line.chars().skip(place.end_column as usize - 1).collect();
        Some(rest.trim_start().strip_prefix('=')?.trim_start().to_owned())
    }

    /// A path inside the component's folder (or, after `//`, inside the workspace), relative to the workspace.
    pub(crate) fn resolve(&self, recording: &Recording, path: &str) -> Result<Utf8PathBuf, String> {
        let (folder, inner) = match path.strip_prefix("//") {
            Some(inner) => (Utf8Path::new(""), inner),
            None => (recording.folder.as_path(), path),
        };
        let inside = Utf8Path::new(inner)
            .components()
            .all(|part| matches!(part, camino::Utf8Component::Normal(_) | camino::Utf8Component::CurDir));
        if inner.is_empty() || !inside {
            return Err(format!(
                "`{path}` leaves the {}",
                if folder.as_str().is_empty() { "workspace" } else { "component's folder" }
            ));
        }
        Ok(folder.join(inner))
    }
}

/// The place of `name =` in the text of a span.
pub(crate) fn find_argument(text: &str, at: &Span, name: &str) -> Option<Span> {
    let lines =
        text.lines().enumerate().skip(at.line as usize - 1).take((at.end_line - at.line) as usize + 1);
    for (index, line) in lines {
        let number = u32::try_from(index + 1).ok()?;
        for (start, _) in line.match_indices(name) {
            let column = u32::try_from(line[..start].chars().count() + 1).ok()?;
            let inside =
                (number > at.line || column >= at.column) && (number < at.end_line || column < at.end_column);
            let word_before = line[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
            let rest = line[start + name.len()..].trim_start_matches(['"', '\'']).trim_start();
            let assigned = (rest.starts_with('=') && !rest.starts_with("==")) || rest.starts_with(':');
            if inside && !word_before && assigned {
                let width = u32::try_from(name.chars().count()).ok()?;
                return Some(Span {
                    file: at.file.clone(),
                    line: number,
                    column,
                    end_line: number,
                    end_column: column + width,
                });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_found_in_its_call_only() {
        let text = "x(mode = 1)\ny(\"mode\", mode == 1,\n  mode = 2, { \"key\": 1 })\n";
        let at = Span { file: "f".into(), line: 2, column: 1, end_line: 3, end_column: 25 };
        let found = find_argument(text, &at, "mode").unwrap();
        assert_eq!((found.line, found.column, found.end_column), (3, 3, 7));
        assert_eq!(find_argument(text, &at, "key").unwrap().line, 3);
        assert!(find_argument(text, &at, "owner").is_none());
    }
}
