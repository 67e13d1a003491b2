//! What an exit code means: the one table, in code and in `olbake --help`. Main type: [`Kind`].

use olbake_core::diagnostic::{Diagnostic, Diagnostics, Severity};

/// Of what kind an error is: who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// olbake itself.
    Bug,
    /// Whoever typed the command: it asks for what is not there.
    User,
    /// Whoever wrote the recipe: a mistake found before anything ran.
    Recipe,
    /// Whoever runs the machine: a tool, a right, space, a file that cannot be used.
    Environment,
    /// The cloud's side.
    Cloud,
    /// Whoever wrote the recipe, again: an operation, a check or the leak scan failed on a machine.
    Failed,
    /// Whoever decides: a gate, a revocation or someone else's change stands against it.
    Refused,
    /// Nobody: Ctrl-C or SIGTERM.
    Interrupted,
}

/// Each kind with its exit code, its name in events and what it means.
const TABLE: [(Kind, u8, &str, &str); 8] = [
    (Kind::Bug, 1, "bug", "olbake itself is wrong: please report it"),
    (Kind::User, 3, "user", "the command asks for something that is not there"),
    (Kind::Recipe, 4, "recipe", "a recipe or a setting is wrong; nothing was started"),
    (Kind::Environment, 5, "environment", "this machine lacks a tool, a right, space or a usable file"),
    (Kind::Cloud, 6, "cloud", "the cloud refused or did not answer"),
    (Kind::Failed, 7, "failed", "an operation, a check or the leak scan failed"),
    (Kind::Refused, 8, "refused", "a gate, a revocation or someone else's change stands against it"),
    (Kind::Interrupted, 130, "interrupted", "stopped by Ctrl-C or SIGTERM; everything was cleaned up"),
];

impl Kind {
    fn row(self) -> &'static (Self, u8, &'static str, &'static str) {
        TABLE.iter().find(|row| row.0 == self).expect("every kind has its row")
    }

    /// The process's exit code.
    pub(crate) fn code(self) -> u8 {
        self.row().1
    }

    /// The code of a diagnostic at a recipe's place for what is not the recipe's mistake.
    pub(crate) fn diagnostic(self) -> Option<&'static str> {
        match self {
            Self::Refused => Some("refused"),
            Self::Environment => Some("unreadable"),
            Self::Cloud => Some("unreachable"),
            _ => None,
        }
    }

    /// The kind that such diagnostics' codes say: where one of several is a mistake in a recipe, it is that.
    pub(crate) fn of_diagnostics(diagnostics: &Diagnostics) -> Self {
        let errors = || diagnostics.0.iter().filter(|found| found.severity == Severity::Error);
        let all = |kind: &Self| errors().all(|found| kind.diagnostic() == Some(found.code.as_str()));
        let kinds = [Self::Refused, Self::Environment, Self::Cloud];
        if errors().count() > 0 && errors().all(is_of_the_command) {
            return Self::User;
        }
        kinds.into_iter().find(all).filter(|_| errors().count() > 0).unwrap_or(Self::Recipe)
    }

    /// Its name in events.
    pub(crate) fn name(self) -> &'static str {
        self.row().2
    }
}

/// Whether the command line names what is not there: what a recipe names has its place there.
fn is_of_the_command(found: &Diagnostic) -> bool {
    let names =
        ["unknown-stack", "unknown-environment", "unknown-image", "unknown-variant", "unknown-component"];
    found.span.is_none() && names.contains(&found.code.as_str())
}

/// The table as `olbake --help` shows it.
pub(crate) fn help() -> String {
    let mut rows = vec![(0, "all went well"), (2, "the command line is not understood")];
    rows.extend(TABLE.iter().map(|row| (row.1, row.3)));
    rows.sort_unstable();
    let mut text = String::from("Exit codes:\n");
    for (code, meaning) in rows {
        text.push_str(&format!("  {code:>3}  {meaning}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_distinct() {
        for (index, (kind, code, name, _)) in TABLE.iter().enumerate() {
            assert_eq!((kind.code(), kind.name()), (*code, *name));
            assert!(![0, 2].contains(code), "0 and 2 are taken");
            assert!(TABLE[..index].iter().all(|other| other.1 != *code && other.2 != *name));
        }
    }

    #[test]
    fn the_documentation_has_the_same_table() {
        let documented = include_str!("../../../docs/faults.md");
        for (_, code, name, meaning) in TABLE {
            let row = format!("| {code} | `{name}` | {meaning} |");
            assert!(documented.contains(&row), "docs/faults.md lacks `{row}`");
        }
    }

    #[test]
    fn help_lists_every_code() {
        assert_eq!(help().lines().count(), TABLE.len() + 3);
    }
}
