//! Commands and scripts that a recipe asks for.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::operation::{Argv, Run};

use super::{Decision, Effect, NONE, Work, change};
use crate::accounts::Identity;
use crate::context::Context;
use crate::error::{At, OpError, Result};
use crate::process::{Command, Ended, Input, typed};
use crate::world::Source;

/// [`olbake_core::operation::Action::Run`].
pub(crate) fn run<'a>(context: &Context<'_>, run: &'a Run) -> Result<Decision<'a>> {
    if context.verifying {
        return match &run.creates {
            Some(path) if !context.world().exists(path)? => {
                Err(OpError::wrong(format!("the command succeeded, but there is no `{path}`")))
            }
            _ => Ok(Decision::Fine),
        };
    }
    if let Some(reason) = guarded(context, run)? {
        return Ok(Decision::Skip(reason));
    }
    let changes = vec![change("command", NONE, Some(shown(run)))];
    let prediction = move |world: &crate::world::World| {
        world.predict_opaque();
        if let Some(path) = &run.creates
            && !world.exists(path)?
        {
            let meta = crate::world::Meta::root(0o644);
            world.predict(path, crate::world::Node::File { meta, content: Source::Unknown });
        }
        Ok(())
    };
    Ok(Work::act(changes, move |context| execute(context, run), prediction).decide())
}

fn shown(run: &Run) -> String {
    match (&run.script, run.shell) {
        (Some(_), _) => {
            typed(&[&["<script>".to_owned()], run.argv.as_slice()].concat()).replace("'<script>'", "<script>")
        }
        (None, true) => run.argv.join(" "),
        (None, false) => typed(&run.argv),
    }
}

/// Why the command is not to run. Guards are run in check mode too: they must not change anything.
fn guarded(context: &Context<'_>, run: &Run) -> Result<Option<String>> {
    if let Some(path) = &run.creates
        && context.world().exists(path)?
    {
        return Ok(Some(format!("`{path}` exists")));
    }
    if let Some(argv) = &run.unless
        && guard(context, run, argv)?
    {
        return Ok(Some(format!("`{}` succeeds", typed(argv))));
    }
    if let Some(argv) = &run.only_if
        && !guard(context, run, argv)?
    {
        return Ok(Some(format!("`{}` fails", typed(argv))));
    }
    Ok(None)
}

fn guard(context: &Context<'_>, run: &Run, argv: &Argv) -> Result<bool> {
    let command = prepare(context, run, argv.clone())?.timeout(Duration::from_secs(60));
    match command.run() {
        Ok(ended) => Ok(ended.success()),
        // What is not there does not succeed; in check mode it may be there by then.
        Err(OpError::Missing(_)) if !(context.is_check() && context.world().is_opaque()) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A command with the recipe's environment, directory and user.
fn prepare<'a>(context: &Context<'a>, run: &Run, argv: Argv) -> Result<Command<'a>> {
    let mut command = context.command(argv).identity(identity(context, run.user.as_deref())?);
    for (name, value) in &run.env {
        command = command.env(name, context.run.secrets.reveal(value)?);
    }
    Ok(command.directory(run.cwd.as_deref().unwrap_or(Utf8Path::new("/"))))
}

/// Whom to run as; none: root.
pub(crate) fn identity(context: &Context<'_>, user: Option<&str>) -> Result<Option<Identity>> {
    user.filter(|name| *name != "root").map(|name| context.world().accounts().identity(name)).transpose()
}

fn execute(context: &Context<'_>, run: &Run) -> Result<Effect> {
    let script = run.script.as_ref().map(|content| Script::write(context, run, content)).transpose()?;
    let argv = match (&script, run.shell) {
        (Some(script), _) => [script.argv.clone(), run.argv.clone()].concat(),
        (None, true) => ["/bin/sh", "-c", &run.argv.join(" ")].map(str::to_owned).into(),
        (None, false) => run.argv.clone(),
    };
    let mut wait = Duration::from_secs(1);
    let mut left = run.retries;
    loop {
        let ended = once(context, run, argv.clone())?;
        match verdict(run, &ended) {
            Some(effect) => return Ok(effect),
            None if left == 0 => return Err(ended.error("the command failed")),
            None => {}
        }
        left -= 1;
        context.say(format!("{}, again in {} s", ended.status(), wait.as_secs()));
        let until = std::time::Instant::now() + wait;
        while std::time::Instant::now() < until {
            context.go_on()?;
            std::thread::sleep(Duration::from_millis(50));
        }
        wait *= 2;
    }
}

fn once(context: &Context<'_>, run: &Run, argv: Argv) -> Result<Ended> {
    let input = match &run.stdin {
        None => Input::Nothing,
        Some(content) => match context.bytes(content)?.source {
            Source::File(path) => Input::File(path),
            other => Input::Bytes(other.read()?),
        },
    };
    let timeout = Duration::from_secs(u64::from(run.timeout_seconds.unwrap_or(3600)));
    let command = prepare(context, run, argv)?.input(input).timeout(timeout).sink(context.sink());
    command.shown_as(shown(run)).run()
}

/// What an exit code means; none: failure.
fn verdict(run: &Run, ended: &Ended) -> Option<Effect> {
    let code = ended.code()?;
    let ok = if run.ok_codes.is_empty() { code == 0 } else { run.ok_codes.contains(&code) };
    let changed = run.changed_codes.contains(&code);
    match (ok || changed, run.changed_codes.is_empty() || changed) {
        (false, _) => None,
        (true, true) => Some(Effect::Changed),
        (true, false) => Some(Effect::Unchanged),
    }
}

/// A script in a file of its own, removed when it has run.
struct Script {
    path: Utf8PathBuf,
    argv: Argv,
}

impl Script {
    /// Writes it where the user can read it. It is started through the interpreter that its first line names, as the
    /// kernel would: the directory may be mounted so that nothing in it can be executed.
    fn write(context: &Context<'_>, run: &Run, content: &olbake_core::operation::Content) -> Result<Self> {
        let text = context.bytes(content)?.source.read()?;
        let directory = if run.user.is_some() { Utf8Path::new("/tmp") } else { &context.run.work_dir };
        let name = olbake_core::Digest::of(context.id.as_str().as_bytes()).short();
        let path = directory.join(format!("olbake-script-{name}"));
        let script = Self { argv: interpreter(&text, &path), path };
        crate::edit::remove(&script.path)?;
        let mut options = std::fs::File::options();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(&script.path).at("create", &script.path)?;
        std::io::Write::write_all(&mut file, &text).at("write", &script.path)?;
        if let Some(user) = &run.user {
            let uid = context.world().accounts().uid(user)?;
            std::os::unix::fs::fchown(&file, Some(uid), None).at("set the owner of", &script.path)?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(0o500)).at("set the mode of", &script.path)?;
        Ok(script)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // The seal removes what cannot be removed now.
        drop(std::fs::remove_file(&self.path));
    }
}

/// The words that start a script: its `#!` line's interpreter and argument, and its path.
fn interpreter(text: &[u8], path: &Utf8Path) -> Argv {
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = first.strip_prefix(b"#!").map(String::from_utf8_lossy);
    let mut words: Argv = match line.as_deref().map(str::trim) {
        Some(line) if !line.is_empty() => {
            line.splitn(2, char::is_whitespace).map(|word| word.trim().to_owned()).collect()
        }
        _ if text.starts_with(b"\x7fELF") => Vec::new(),
        _ => vec!["/bin/sh".to_owned()],
    };
    words.push(path.to_string());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_start_as_the_kernel_would_start_them() {
        let path = Utf8Path::new("/s");
        assert_eq!(interpreter(b"#!/usr/bin/env python3 -u\nx", path), ["/usr/bin/env", "python3 -u", "/s"]);
        assert_eq!(interpreter(b"#! /bin/bash\n", path), ["/bin/bash", "/s"]);
        assert_eq!(interpreter(b"echo hi\n", path), ["/bin/sh", "/s"]);
        assert_eq!(interpreter(b"\x7fELF...", path), ["/s"]);
    }
}
