//! `run.*`: commands and scripts, without a shell unless the recipe asks for one.

use std::collections::BTreeMap;

use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, DeclaredEffects, Run};
use olbake_core::secret;

use crate::builtin::{Call, Row, Step, operation};

pub(super) const TABLE: &[Row] = &[
    operation(
        "run.command",
        "command * shell? env? cwd? user? stdin? creates? unless? only_if? ok_codes? changed_codes? timeout? retries? \
         reads? writes?",
        command,
    ),
    operation(
        "run.script",
        "src? args? * text? env? cwd? user? stdin? creates? unless? only_if? ok_codes? changed_codes? timeout? retries? \
         reads? writes?",
        script,
    ),
];

fn command(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let shell = call.flag("shell", false);
    let argv = if shell { vec![call.text("command")] } else { call.argv("command") };
    let title = format!("run.command {}", shorten(&argv.join(" ")));
    let run = Run { argv, shell, ..common(call)? };
    Ok(vec![Step::new(title, Action::Run(Box::new(run)))])
}

fn script(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let (content, title) = match (call.opt_text("src"), call.secret_text("text")) {
        (Some(src), None) => (call.file_content("src", &src)?.0, src),
        (None, Some(text)) => {
            let first = text
                .lines()
                .find(|line| !line.starts_with("#!") && !line.trim().is_empty())
                .unwrap_or_default();
            let title = if first.contains(secret::MARKER_START) { String::new() } else { shorten(first) };
            (call.recording()?.keep_text(text), title)
        }
        _ => return Err(Diagnostic::error("argument", "`run.script` takes `src` or `text`")),
    };
    let argv = call.opt_argv("args").unwrap_or_default();
    let run = Run { argv, script: Some(content), ..common(call)? };
    Ok(vec![Step::new(format!("run.script {title}"), Action::Run(Box::new(run)))])
}

fn shorten(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= 80 {
        line.to_owned()
    } else {
        line.chars().take(77).chain("…".chars()).collect()
    }
}

fn common(call: &Call<'_, '_>) -> Result<Run, Diagnostic> {
    let env = environment(call)?;
    let mut secrets: Vec<_> = env.values().flat_map(|value| secret::references(value)).collect();
    secrets.sort();
    secrets.dedup();
    let declared = call.given("reads").is_some() || call.given("writes").is_some();
    let effects =
        declared.then(|| DeclaredEffects { reads: call.paths("reads"), writes: call.paths("writes") });
    let stdin =
        call.secret_text("stdin").map(|text| call.recording().map(|recording| recording.keep_text(text)));
    Ok(Run {
        argv: Vec::new(),
        script: None,
        shell: false,
        env,
        secrets,
        cwd: call.opt_path("cwd"),
        user: call.opt_account("user"),
        stdin: stdin.transpose()?,
        creates: call.opt_path("creates"),
        unless: call.opt_argv("unless"),
        only_if: call.opt_argv("only_if"),
        ok_codes: call.numbers("ok_codes"),
        changed_codes: call.numbers("changed_codes"),
        timeout_seconds: call.opt_seconds("timeout"),
        retries: call.opt_number("retries").unwrap_or(0),
        effects,
    })
}

fn environment(call: &Call<'_, '_>) -> Result<BTreeMap<String, String>, Diagnostic> {
    let Some(value) = call.json("env") else { return Ok(BTreeMap::new()) };
    let entries = value.as_object().ok_or_else(|| call.wrong("env", "expected a dictionary of texts"))?;
    let mut env = BTreeMap::new();
    for (name, value) in entries {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => number.to_string(),
            _ => return Err(call.wrong("env", format!("`{name}` is not text"))),
        };
        call.session.known_secrets(&text).map_err(|message| call.wrong("env", message))?;
        call.plain("env", name)?;
        env.insert(name.clone(), text);
    }
    Ok(env)
}
