//! `ctx`: what a stack's function knows of where it is, and how it asks for images and other stacks.

#![allow(unsafe_code, reason = "the derives of values for the interpreter write it; none is written by hand")]

use std::fmt;
use std::sync::Arc;

use allocative::Allocative;
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use olbake_core::diagnostic::Diagnostic;
use olbake_core::settings::did_you_mean;
use olbake_core::stack::declare::PinnedImage;
use olbake_core::stack::{StackName, foreign};
use olbake_core::{Digest, ImageRef};
use starlark::any::ProvidesStaticType;
use starlark::eval::Evaluator;
use starlark::starlark_simple_value;
use starlark::values::structs::AllocStruct;
use starlark::values::{Heap, NoSerialize, StarlarkValue, Value, starlark_value};

use super::builtins::recording;
use super::finish::placeholder;
use super::recording::{Missed, StackRecording};
use super::values::{Elsewhere, OutputsView};
use super::{OtherStack, WantedImage};
use crate::builtin::{Builtin, Call, Row, declaration};

/// What `ctx` can do.
const FUNCTIONS: [(&str, Row); 4] = [
    ("stack", declaration("ctx.stack", "name", stack)),
    ("image", declaration("ctx.image", "image", image)),
    ("foreign", declaration("ctx.foreign", "path", foreign_outputs)),
    ("file", declaration("ctx.file", "path", file)),
];
/// What `ctx` knows.
const FACTS: [&str; 3] = ["name", "project", "environment"];

/// `ctx`.
#[derive(Clone, Debug, ProvidesStaticType, NoSerialize, Allocative)]
pub(crate) struct ContextView(#[allocative(skip)] pub(crate) Arc<(StackName, Arc<Missed>)>);
starlark_simple_value!(ContextView);

impl fmt::Display for ContextView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "context of {}", self.0.0)
    }
}

fn names() -> impl Iterator<Item = &'static str> + Clone {
    FACTS.into_iter().chain(FUNCTIONS.into_iter().map(|(name, _)| name))
}

#[starlark_value(type = "context")]
impl<'v> StarlarkValue<'v> for ContextView {
    fn get_attr(&self, name: &str, heap: Heap<'v>) -> Option<Value<'v>> {
        let (stack, missed) = &*self.0;
        match name {
            "name" => Some(heap.alloc(stack.as_str())),
            "project" => Some(heap.alloc(stack.project())),
            "environment" => Some(heap.alloc(stack.environment().as_str())),
            _ => match FUNCTIONS.into_iter().find(|(known, _)| *known == name) {
                Some((_, row)) => Some(heap.alloc(Builtin::from(row))),
                None => {
                    missed.note(name, "unknown-name", format!("`ctx` has no `{name}`"), names());
                    None
                }
            },
        }
    }

    fn has_attr(&self, name: &str, _heap: Heap<'v>) -> bool {
        names().any(|known| known == name)
    }

    fn dir_attr(&self) -> Vec<String> {
        names().map(str::to_owned).collect()
    }
}

type Made<'v> = Result<Value<'v>, Diagnostic>;

/// Outputs of another stack. Where they cannot be had, the run goes on with placeholders.
fn stack<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let recording = recording(call)?;
    let (label, known) = match other_stack(call, recording) {
        Ok((name, known)) => (format!("the stack `{name}`"), known),
        Err(problem) => {
            recording.report(call.placed(problem));
            (String::new(), OtherStack::Unknown)
        }
    };
    Ok(view(eval.heap(), recording, Elsewhere { label, known, secret: Vec::new(), missed: Arc::default() }))
}

fn view<'v>(heap: Heap<'v>, recording: &StackRecording, elsewhere: Elsewhere) -> Value<'v> {
    heap.alloc(OutputsView(Arc::new(Elsewhere { missed: Arc::clone(&recording.missed), ..elsewhere })))
}

fn other_stack(
    call: &Call<'_, '_>,
    recording: &StackRecording,
) -> Result<(StackName, OtherStack), Diagnostic> {
    let text = call.try_text("name")?;
    let unknown = || {
        let known = recording.stacks.iter().map(StackName::as_str);
        let with_environment = format!("{text}.{}", recording.stack.environment());
        let mut problem =
            Diagnostic::error("unknown-stack", format!("there is no stack `{text}` in this workspace"));
        problem.help = match known.clone().any(|name| name == with_environment) {
            true => Some("its name ends in an environment: add `+ \".\" + ctx.environment`".to_owned()),
            false => did_you_mean(&text, known),
        };
        problem
    };
    let name: StackName = text.parse().map_err(|_| unknown())?;
    if name == recording.stack {
        return Err(Diagnostic::error("stack-cycle", format!("the stack `{name}` reads its own outputs")));
    }
    if !recording.stacks.contains(&name) {
        return Err(unknown());
    }
    recording.references.borrow_mut().entry(name.clone()).or_insert_with(|| call.at.clone());
    match (recording.outputs_of)(&name).map_err(|problem| *problem)? {
        OtherStack::NeverDeployed => {
            Err(Diagnostic::error("never-deployed", format!("the stack `{name}` was never deployed"))
                .help(format!("`olbake deploy --stack {name}` first")))
        }
        known => Ok((name, known)),
    }
}

fn image<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let recording = recording(call)?;
    let found = find_image(call, recording);
    let (image, digest) = found.unwrap_or_else(|problem| {
        recording.report(call.placed(problem));
        (None, Digest::of(b"unknown image"))
    });
    let heap = eval.heap();
    let variant = image.as_ref().and_then(|image| image.variant.as_ref());
    let name = image.as_ref().map_or("", |image| image.image.as_str());
    Ok(heap.alloc(AllocStruct([
        ("image", heap.alloc(name)),
        ("variant", variant.map_or(Value::new_none(), |variant| heap.alloc(variant.as_str()))),
        ("digest", heap.alloc(digest.to_string())),
    ])))
}

fn find_image(
    call: &Call<'_, '_>,
    recording: &StackRecording,
) -> Result<(Option<ImageRef>, Digest), Diagnostic> {
    let text = call.try_text("image")?;
    let image: ImageRef = text
        .parse()
        .map_err(|error: olbake_core::names::NameError| call.wrong("image", error.to_string()))?;
    let known = recording.images.borrow().get(&image).map(|(pinned, _)| pinned.clone());
    let pinned = match known {
        Some(pinned) => pinned,
        None => {
            let channel = recording.document.channels.get(&image).cloned();
            let wanted = WantedImage {
                image: image.clone(),
                channel: channel.unwrap_or_else(|| recording.stack.environment().to_string()),
                pinned: recording.document.pins.get(&image).copied(),
            };
            let pinned = (recording.image_of)(&wanted).map_err(|problem| *problem)?;
            recording.images.borrow_mut().insert(image.clone(), (pinned.clone(), call.at.clone()));
            pinned
        }
    };
    // Nobody looked: the placeholder differs by image, as versions do.
    let digest = match pinned {
        Some(PinnedImage { digest, .. }) => digest,
        None => placeholder(&image),
    };
    Ok((Some(image), digest))
}

fn foreign_outputs<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let recording = recording(call)?;
    let outcome = read_file(call, recording).and_then(|(path, text)| {
        let found = foreign::read(&text).map_err(|error| Diagnostic {
            code: "foreign-state".to_owned(),
            ..call.wrong("path", format!("`{path}` cannot be read as a state: {error}"))
        })?;
        let known = OtherStack::Deployed(found.outputs);
        Ok(Elsewhere { label: format!("`{path}`"), known, secret: found.secret, missed: Arc::default() })
    });
    let elsewhere = outcome.unwrap_or_else(|problem| {
        recording.report(call.placed(problem));
        Elsewhere {
            label: String::new(),
            known: OtherStack::Unknown,
            secret: Vec::new(),
            missed: Arc::default(),
        }
    });
    Ok(view(eval.heap(), recording, elsewhere))
}

fn file<'v>(call: &Call<'v, '_>, eval: &mut Evaluator<'v, '_, '_>) -> Made<'v> {
    let recording = recording(call)?;
    let text = read_file(call, recording).map(|(_, text)| text).unwrap_or_else(|problem| {
        recording.report(call.placed(problem));
        Arc::from("")
    });
    Ok(eval.heap().alloc(&*text))
}

/// A file of the project, or of the workspace after `//`.
fn read_file(call: &Call<'_, '_>, recording: &StackRecording) -> Result<(Utf8PathBuf, Arc<str>), Diagnostic> {
    let written = call.try_text("path")?;
    let (folder, inner) = match written.strip_prefix("//") {
        Some(inner) => (Utf8Path::new(""), inner),
        None => (recording.folder.as_path(), written.as_str()),
    };
    let inside = Utf8Path::new(inner)
        .components()
        .all(|part| matches!(part, Utf8Component::Normal(_) | Utf8Component::CurDir));
    if inner.is_empty() || !inside {
        return Err(call.wrong("path", format!("`{written}` is no path inside the workspace")));
    }
    let path = folder.join(inner);
    match call.session.sources.read(path.as_str()) {
        Ok(text) if text.contains(['\u{e000}', '\u{e001}', '\u{e002}', '\u{e003}']) => {
            let text = format!("`{path}` has private-use characters that stand for secrets and outputs");
            Err(Diagnostic { code: "forged-marker".to_owned(), ..call.wrong("path", text) })
        }
        Ok(text) => Ok((path, text)),
        Err(reason) => Err(Diagnostic { code: "missing-file".to_owned(), ..call.wrong("path", reason) }
            .help("paths are relative to the project's folder, or to the workspace after `//`")),
    }
}
