//! What an apply changed on a machine, or would change.

use olbake_core::protocol::Summary;
use olbake_core::report::Change;

use super::human;
use super::style::{Palette, clean};
use crate::commands::Applied;

/// The operations that changed something with what changed, and the numbers.
pub(crate) fn applied(applied: &Applied<'_>, summary: Summary, palette: Palette) -> String {
    let mut text = String::new();
    for changed in &applied.changes {
        text.push_str(&format!("{} {}\n", palette.warn("~"), clean(&human::mask(changed.title))));
        for change in changed.changes {
            text.push_str(&difference(change, palette));
        }
    }
    let Summary { ok, changed, skipped, failed, not_run } = summary;
    let numbers =
        [(failed, "failed"), (not_run, "not run"), (changed, "changed"), (ok, "ok"), (skipped, "skipped")];
    let numbers: Vec<String> = numbers
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let numbers = if numbers.is_empty() { "nothing to do".to_owned() } else { numbers.join(", ") };
    text.push_str(&format!("{numbers} ({})\n", human::seconds(applied.seconds)));
    text
}

/// `mode: 0644 → 0600`; texts of several lines stand below, each with its sign already.
fn difference(change: &Change, palette: Palette) -> String {
    let Change { what, from, to } = change;
    let (from, to) = (from.as_deref().map(clean), to.as_deref().map(clean));
    let is_text = |side: &Option<std::borrow::Cow<'_, str>>| {
        side.as_deref().is_some_and(|side| side.contains('\n') || side.starts_with(['+', '-']))
    };
    if is_text(&from) || is_text(&to) {
        let mut text = format!("    {what}:\n");
        for line in from.iter().chain(&to).flat_map(|side| side.lines()) {
            let line = if line.starts_with('-') { palette.bad(line) } else { palette.good(line) };
            text.push_str(&format!("      {line}\n"));
        }
        return text;
    }
    match (from, to) {
        (Some(from), Some(to)) => format!("    {what}: {from} → {to}\n"),
        (None, Some(to)) => format!("    {what}: {to}\n"),
        (Some(from), None) => format!("    {what}: {from} → nothing\n"),
        (None, None) => format!("    {what}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(what: &str, from: Option<&str>, to: Option<&str>, expect: &str) {
        let change = Change { what: what.into(), from: from.map(str::to_owned), to: to.map(str::to_owned) };
        assert_eq!(difference(&change, Palette { enabled: false }), expect);
    }

    #[test]
    fn differences() {
        check("mode", Some("0644"), Some("0600"), "    mode: 0644 → 0600\n");
        check("enabled", None, Some("/etc/x"), "    enabled: /etc/x\n");
        check("content", Some("-a\n-b"), Some("+c"), "    content:\n      -a\n      -b\n      +c\n");
        check("package vim", Some("9.0"), None, "    package vim: 9.0 → nothing\n");
    }
}
