//! Package sources and answers for debconf.

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::operation::Content;

use super::file::{AS_IT_IS, Wanted};
use super::{Decision, Effect, Work, change};
use crate::context::Context;
use crate::dpkg;
use crate::error::{OpError, Result};
use crate::process::Input;

/// [`olbake_core::operation::Action::AptRepo`].
pub(crate) fn repo<'a>(
    context: &Context<'_>,
    name: &str,
    sources: &Content,
    keyring: Option<(&Utf8Path, &Content)>,
) -> Result<Decision<'a>> {
    if name.is_empty() || name.contains('/') {
        return Err(OpError::wrong(format!("`{name}` cannot be the name of a package source")));
    }
    let mut work = Work::default();
    let path = Utf8PathBuf::from(format!("/etc/apt/sources.list.d/{name}.sources"));
    let files = keyring.into_iter().chain([(path.as_path(), sources)]);
    for (path, content) in files {
        let mut one = Work::default();
        let bytes = context.bytes(content)?;
        let wanted = Wanted { path, bytes, ownership: &AS_IT_IS, default_mode: 0o644, validate: None };
        wanted.plan(context, &mut one)?;
        work.edits.append(&mut one.edits);
        work.changes.extend(one.changes.into_iter().map(|mut change| {
            change.what = format!("{path}: {}", change.what);
            change
        }));
    }
    if !work.changes.is_empty() {
        // What a new source offers is not known before its lists are fetched.
        work.prediction = Some(Box::new(|world| {
            world.predict_opaque();
            Ok(())
        }));
    }
    Ok(work.decide())
}

/// [`olbake_core::operation::Action::AptDebconf`].
pub(crate) fn debconf<'a>(
    context: &Context<'_>,
    package: &'a str,
    question: &'a str,
    kind: &'a str,
    value: &'a str,
) -> Result<Decision<'a>> {
    if [package, question, kind].iter().any(|word| word.is_empty() || word.contains(char::is_whitespace)) {
        return Err(OpError::wrong(format!("`{package} {question} {kind}` is not a question of debconf")));
    }
    let found = context.world().predicted_answer(question).or_else(|| dpkg::debconf_answer(question));
    if found.as_deref() == Some(value) {
        return Ok(Decision::Fine);
    }
    let hidden = kind == "password";
    let shown = |text: String| if hidden { "not shown".to_owned() } else { text };
    let changes = vec![change(question, found.map(shown), Some(shown(value.to_owned())))];
    let act = move |context: &Context<'_>| {
        let line = format!("{package} {question} {kind} {value}\n").into_bytes();
        context
            .command(["debconf-set-selections"])
            .input(Input::Bytes(line))
            .sink(context.sink())
            .run()?
            .ok()?;
        Ok(Effect::Changed)
    };
    let prediction = move |world: &crate::world::World| {
        world.predict_answer(question, value);
        Ok(())
    };
    Ok(Work::act(changes, act, prediction).decide())
}
