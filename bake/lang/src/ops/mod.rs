//! The operations that recipes call, by namespace. Each is lowered to the few actions of `olbake_core::operation`.

mod apt;
mod check;
mod files;
mod os;
mod run;
mod systemd;
mod users;
pub(crate) mod written;

mod namespace;

use starlark::environment::GlobalsBuilder;

use self::namespace::Namespace;
use crate::builtin::Row;

/// Puts the operations among the globals.
pub(crate) fn register(builder: &mut GlobalsBuilder) {
    let tables: [(&str, &[Row]); 8] = [
        ("apt", apt::TABLE),
        ("check", check::TABLE),
        ("cron", os::CRON),
        ("files", files::TABLE),
        ("os", os::TABLE),
        ("run", run::TABLE),
        ("systemd", systemd::TABLE),
        ("users", users::TABLE),
    ];
    for (namespace, rows) in tables {
        builder.set(namespace, Namespace::of(namespace, rows));
    }
}
