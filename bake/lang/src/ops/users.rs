//! `users.*`: accounts, groups and the keys that may log in.

use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, UserAccount};
use olbake_core::secret;

use super::written;
use crate::builtin::{Call, Row, Step, operation};

pub(super) const TABLE: &[Row] = &[
    operation(
        "users.user",
        "name * present? uid? group? groups? home? create_home? shell? comment? system? password_hash?",
        user,
    ),
    operation("users.group", "name * present? gid? system?", group),
    operation("users.membership", "user groups", membership),
    operation("users.authorized_keys", "user keys * exclusive?", authorized_keys),
];

fn account_name(call: &Call<'_, '_>, parameter: &str) -> String {
    let name = call.text(parameter);
    let fine = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.len() <= 32
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c));
    if !fine {
        call.refuse(parameter, format!("`{name}` is not a name of an account"));
    }
    name
}

fn user(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let name = account_name(call, "name");
    let title = format!("users.user {name}");
    if !call.flag("present", true) {
        return Ok(vec![Step::new(title, Action::User { name, account: None })]);
    }
    let system = call.flag("system", false);
    let account = UserAccount {
        uid: call.opt_number("uid"),
        group: call.opt_account("group"),
        groups: call.get("groups").map(|_| call.all_written("groups", written::account)),
        home: call.opt_path("home"),
        create_home: call.flag("create_home", !system),
        shell: call.opt_path("shell"),
        comment: call.opt_text("comment"),
        system,
        password_hash: password_hash(call),
    };
    Ok(vec![Step::new(title, Action::User { name, account: Some(account) })])
}

/// A password's hash comes from a secret setting and nothing else.
fn password_hash(call: &Call<'_, '_>) -> Option<secret::SecretId> {
    let text = call.secret_text("password_hash")?;
    if let [secret::Piece::Secret(id)] = secret::pieces(&text).as_slice() {
        return Some(id.clone());
    }
    let problem = call.wrong("password_hash", "expected a secret setting");
    call.note(
        "password_hash",
        problem.help("declare `setting(secret, source = \"env:…\")` and pass it as it is"),
    );
    None
}

fn group(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let name = account_name(call, "name");
    let title = format!("users.group {name}");
    let action = Action::Group {
        name,
        present: call.flag("present", true),
        gid: call.opt_number("gid"),
        system: call.flag("system", false),
    };
    Ok(vec![Step::new(title, action)])
}

fn membership(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let user = account_name(call, "user");
    let mut groups = call.all_written("groups", written::account);
    groups.sort();
    groups.dedup();
    Ok(vec![Step::new(format!("users.membership {user}"), Action::Membership { user, groups })])
}

fn authorized_keys(call: &Call<'_, '_>) -> Result<Vec<Step>, Diagnostic> {
    let user = account_name(call, "user");
    let keys: Vec<String> = call.texts("keys").iter().map(|key| key.trim().to_owned()).collect();
    if let Some(key) =
        keys.iter().find(|key| key.contains('\n') || key.contains("PRIVATE KEY") || !key.contains(' '))
    {
        let shown: String = key.chars().take(24).collect();
        call.refuse("keys", format!("expected a public key on one line, found `{shown}…`"));
    }
    let exclusive = call.flag("exclusive", false);
    Ok(vec![Step::new(
        format!("users.authorized_keys {user}"),
        Action::AuthorizedKeys { user, keys, exclusive },
    )])
}
