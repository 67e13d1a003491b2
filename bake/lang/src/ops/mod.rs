//! The operations that recipes call, by namespace. Each is lowered to the few actions of `olbake_core::operation`.

mod apt;
mod check;
mod files;
mod os;
mod run;
mod systemd;
mod users;

use starlark::environment::GlobalsBuilder;

use crate::builtin::{Builtin, Row};

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
        builder.namespace(namespace, |builder| {
            for row in rows {
                let name = row.0.rsplit('.').next().unwrap_or(row.0);
                builder.set(name, Builtin::from(*row));
            }
        });
    }
}
