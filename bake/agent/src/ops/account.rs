//! Users, groups, memberships, and the keys that may log in.
//!
//! What is there is read from the files; changes go through the system's own tools, which lock those files and know
//! the ranges of numbers. In check mode the changed database is predicted, so that later operations find the user
//! that an earlier one would make.

use camino::Utf8PathBuf;
use olbake_core::operation::{Ownership, UserAccount};
use olbake_core::report::Change;

use super::account_files::{Copies, home_mode, make_home};
use super::file::{Wanted, apply_ownership};
use super::{Decision, Effect, NONE, Work, change};
use crate::accounts::{Accounts, Group, User};
use crate::context::{Bytes, Context};
use crate::edit::Edit;
use crate::error::{OpError, Result};
use crate::process::Input;
use crate::world::{Meta, Node, Source};

/// [`olbake_core::operation::Action::User`].
pub(crate) fn user<'a>(
    context: &Context<'_>,
    name: &'a str,
    account: Option<&'a UserAccount>,
) -> Result<Decision<'a>> {
    check_name(name)?;
    let accounts = context.world().accounts();
    match (accounts.user(name).cloned(), account) {
        (None, None) => Ok(Decision::Fine),
        (Some(found), None) => Ok(remove_user(&accounts, found)),
        (None, Some(account)) => create_user(context, &accounts, name, account),
        (Some(found), Some(account)) => modify_user(context, &accounts, name, &found, account),
    }
}

fn check_name(name: &str) -> Result<()> {
    let odd = name.is_empty() || name.starts_with('-') || name.contains([':', ',', '/', '\n', ' ']);
    if odd { Err(OpError::wrong(format!("`{name}` cannot be the name of a user or group"))) } else { Ok(()) }
}

fn remove_user<'a>(accounts: &Accounts, found: User) -> Decision<'a> {
    let mut predicted = accounts.clone();
    predicted.users.retain(|user| user.name != found.name);
    for group in &mut predicted.groups {
        group.members.retain(|member| *member != found.name);
    }
    predicted.groups.retain(|group| group.name != found.name || !group.members.is_empty());
    let changes = vec![change("user", Some(found.name.as_str()), NONE)];
    let argv = vec!["userdel".to_owned(), found.name];
    decide(changes, vec![argv], None, predicted)
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

/// Runs tools, one after the other, and sets a password, which no argument list may show.
fn decide<'a>(
    changes: Vec<Change>,
    commands: Vec<Vec<String>>,
    password: Option<(String, String)>,
    predicted: Accounts,
) -> Decision<'a> {
    let act = move |context: &Context<'_>| {
        let _copies = Copies::take(&context.run.work_dir, context.run.key)?;
        for argv in commands {
            context.command(argv).sink(context.sink()).run()?.ok()?;
        }
        if let Some((name, hash)) = password {
            let line = format!("{name}:{hash}\n").into_bytes();
            context.command(["chpasswd", "-e"]).input(Input::Bytes(line)).run()?.ok()?;
        }
        Ok(Effect::Changed)
    };
    let prediction = move |world: &crate::world::World| {
        world.predict_accounts(predicted);
        Ok(())
    };
    Work::act(changes, act, prediction).decide()
}

fn wanted_hash(context: &Context<'_>, account: &UserAccount) -> Result<Option<String>> {
    let Some(id) = &account.password_hash else { return Ok(None) };
    let hash = context.run.secrets.value(id)?.trim().to_owned();
    if hash.contains([':', '\n']) || hash.is_empty() {
        return Err(OpError::wrong(format!("the secret `{}` is not a hash as crypt(3) writes it", id.0)));
    }
    Ok(Some(hash))
}

fn create_user<'a>(
    context: &Context<'_>,
    accounts: &Accounts,
    name: &'a str,
    account: &UserAccount,
) -> Result<Decision<'a>> {
    let UserAccount { uid, group, groups, home, create_home, shell, comment, system, password_hash: _ } =
        account;
    let hash = wanted_hash(context, account)?;
    let mut argv = words(["useradd"]);
    let mut changes = vec![change("user", NONE, Some(name))];
    let mut predicted = accounts.clone();
    let mut option = |flag: &str, what: &str, value: Option<String>| {
        if let Some(value) = value {
            argv.extend([flag.to_owned(), value.clone()]);
            changes.push(change(what, NONE, Some(value)));
        }
    };
    let primary = match group {
        Some(group) => Some(group.clone()),
        None => accounts.group(name).map(|group| group.name.clone()),
    };
    let gid = match &primary {
        Some(group) => accounts.gid(group)?,
        None => uid.unwrap_or_else(|| accounts.predicted_id()),
    };
    option("--uid", "uid", uid.map(|uid| uid.to_string()));
    option("--gid", "group", group.clone());
    option(
        "--groups",
        "groups",
        groups.as_ref().filter(|list| !list.is_empty()).map(|list| sorted(list).join(",")),
    );
    option("--home-dir", "home", home.as_ref().map(ToString::to_string));
    option("--shell", "shell", shell.as_ref().map(ToString::to_string));
    option("--comment", "comment", comment.clone());
    match (&primary, group) {
        (Some(primary), None) => argv.extend(["--gid".to_owned(), primary.clone()]),
        (None, None) => argv.push("--user-group".to_owned()),
        _ => {}
    }
    argv.push("--no-create-home".to_owned());
    if *system {
        argv.push("--system".to_owned());
    }
    if hash.is_some() {
        changes.push(change("password", NONE, Some("set")));
    }
    argv.push(name.to_owned());
    for group in groups.iter().flatten() {
        accounts.gid(group)?;
    }
    let new = User {
        name: name.to_owned(),
        uid: uid.unwrap_or_else(|| accounts.predicted_id()),
        gid,
        comment: comment.clone().unwrap_or_default(),
        home: home.as_ref().map_or_else(|| format!("/home/{name}"), ToString::to_string),
        shell: shell.as_ref().map_or_else(|| "/bin/sh".to_owned(), ToString::to_string),
        password: Some(hash.clone().unwrap_or_else(|| "!".to_owned())),
    };
    if primary.is_none() {
        predicted.groups.push(Group { name: name.to_owned(), gid, members: Vec::new() });
    }
    add_member(&mut predicted, name, groups.iter().flatten());
    let made_home =
        create_home.then(|| (new.home.clone(), Meta { mode: home_mode(), uid: new.uid, gid: new.gid }));
    predicted.users.push(new);
    let decision = decide(changes, vec![argv], hash.map(|hash| (name.to_owned(), hash)), predicted);
    Ok(match (decision, made_home) {
        (Decision::Change(work), Some((home, meta))) => {
            Decision::Change(with_home(work, name, home.into(), meta))
        }
        (decision, _) => decision,
    })
}

/// Makes a home directory too, after the account: a new user's number is known only then.
fn with_home<'a>(mut work: Work<'a>, name: &'a str, home: Utf8PathBuf, meta: Meta) -> Work<'a> {
    if let Some(account) = work.act.take() {
        work.act = Some(Box::new(move |context| {
            account(context)?;
            let accounts = context.world().accounts();
            let (home, user) = accounts.home(name)?;
            make_home(&home, user.uid, user.gid)?;
            Ok(Effect::Changed)
        }));
    }
    if let Some(account) = work.prediction.take() {
        work.prediction = Some(Box::new(move |world| {
            account(world)?;
            if world.exists(&home)? {
                return Ok(());
            }
            Edit::Directory { path: home, meta }.predict(world)
        }));
    }
    work
}

fn sorted(list: &[String]) -> Vec<String> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list.dedup();
    list
}

fn add_member<'a>(accounts: &mut Accounts, name: &str, groups: impl Iterator<Item = &'a String>) {
    for wanted in groups {
        if let Some(group) = accounts.groups.iter_mut().find(|group| group.name == *wanted)
            && !group.members.iter().any(|member| member == name)
        {
            group.members.push(name.to_owned());
        }
    }
}

fn modify_user<'a>(
    context: &Context<'_>,
    accounts: &Accounts,
    name: &'a str,
    found: &User,
    account: &UserAccount,
) -> Result<Decision<'a>> {
    let UserAccount { uid, group, groups, home, create_home, shell, comment, system: _, password_hash: _ } =
        account;
    let mut new = found.clone();
    let (mut argv, mut changes) = (words(["usermod"]), Vec::new());
    let mut compare = |flag: &str, what: &str, from: String, to: Option<String>| {
        if let Some(to) = to.filter(|to| *to != from) {
            argv.extend([flag.to_owned(), to.clone()]);
            changes.push(change(what, Some(from), Some(to)));
        }
    };
    compare("--uid", "uid", found.uid.to_string(), uid.map(|uid| uid.to_string()));
    let gid = group.as_ref().map(|group| accounts.gid(group)).transpose()?.unwrap_or(found.gid);
    compare("--gid", "group", accounts.group_name(found.gid), Some(accounts.group_name(gid)));
    let old_groups = accounts.groups_of(&found.name);
    compare("--groups", "groups", old_groups.join(","), groups.as_ref().map(|list| sorted(list).join(",")));
    compare("--home", "home", found.home.clone(), home.as_ref().map(ToString::to_string));
    compare("--shell", "shell", found.shell.clone(), shell.as_ref().map(ToString::to_string));
    compare("--comment", "comment", found.comment.clone(), comment.clone());
    for group in groups.iter().flatten() {
        accounts.gid(group)?;
    }
    let hash = wanted_hash(context, account)?.filter(|hash| found.password.as_ref() != Some(hash));
    argv.push(found.name.clone());
    let commands = if changes.is_empty() { Vec::new() } else { vec![argv] };
    if let Some(hash) = &hash {
        let was_set = found.password.as_deref().is_some_and(|old| old.len() > 2);
        changes.push(change("password", Some(if was_set { "another" } else { "locked" }), Some("set")));
        new.password = Some(hash.clone());
    }
    new.uid = uid.unwrap_or(found.uid);
    new.gid = gid;
    new.home = home.as_ref().map_or_else(|| found.home.clone(), ToString::to_string);
    new.shell = shell.as_ref().map_or_else(|| found.shell.clone(), ToString::to_string);
    new.comment = comment.clone().unwrap_or_else(|| found.comment.clone());
    let new_home: Utf8PathBuf = new.home.clone().into();
    let no_home =
        *create_home && new_home.is_absolute() && matches!(context.world().look(&new_home)?, Node::Absent);
    if no_home {
        changes.push(change("home directory", NONE, Some(new_home.as_str())));
    }
    let meta = Meta { mode: home_mode(), uid: new.uid, gid: new.gid };
    let mut predicted = accounts.clone();
    if let Some(groups) = groups {
        for group in &mut predicted.groups {
            group.members.retain(|member| *member != found.name);
        }
        add_member(&mut predicted, &found.name, groups.iter());
    }
    predicted.users.iter_mut().filter(|user| user.name == found.name).for_each(|user| *user = new.clone());
    let password = hash.map(|hash| (found.name.clone(), hash));
    Ok(match decide(changes, commands, password, predicted) {
        Decision::Change(work) if no_home => Decision::Change(with_home(work, name, new_home, meta)),
        other => other,
    })
}

/// [`olbake_core::operation::Action::Group`].
pub(crate) fn group<'a>(
    context: &Context<'_>,
    name: &str,
    present: bool,
    gid: Option<u32>,
    system: bool,
) -> Result<Decision<'a>> {
    check_name(name)?;
    let accounts = context.world().accounts();
    let mut predicted = Accounts::clone(&accounts);
    let number = gid.map(|gid| gid.to_string());
    match (accounts.group(name), present) {
        (None, false) => Ok(Decision::Fine),
        (Some(_), false) => {
            predicted.groups.retain(|group| group.name != name);
            let changes = vec![change("group", Some(name), NONE)];
            Ok(decide(changes, vec![words(["groupdel", name])], None, predicted))
        }
        (None, true) => {
            let mut argv = words(["groupadd"]);
            let mut changes = vec![change("group", NONE, Some(name))];
            if let Some(number) = number {
                argv.extend(["--gid".to_owned(), number.clone()]);
                changes.push(change("gid", NONE, Some(number)));
            }
            if system {
                argv.push("--system".to_owned());
            }
            argv.push(name.to_owned());
            let gid = gid.unwrap_or_else(|| accounts.predicted_id());
            predicted.groups.push(Group { name: name.to_owned(), gid, members: Vec::new() });
            Ok(decide(changes, vec![argv], None, predicted))
        }
        (Some(found), true) => match (gid, number) {
            (Some(gid), Some(number)) if gid != found.gid => {
                predicted
                    .groups
                    .iter_mut()
                    .filter(|group| group.name == name)
                    .for_each(|group| group.gid = gid);
                let changes = vec![change("gid", Some(found.gid.to_string()), Some(number.clone()))];
                Ok(decide(changes, vec![words(["groupmod", "--gid", &number, name])], None, predicted))
            }
            _ => Ok(Decision::Fine),
        },
    }
}

/// [`olbake_core::operation::Action::Membership`].
pub(crate) fn membership<'a>(context: &Context<'_>, user: &str, groups: &[String]) -> Result<Decision<'a>> {
    let accounts = context.world().accounts();
    accounts.identity(user)?;
    let primary = accounts.user(user).map(|user| user.gid);
    let mut missing = Vec::new();
    for group in sorted(groups) {
        let gid = accounts.gid(&group)?;
        let member = accounts.groups_of(user).contains(&group);
        if !member && primary != Some(gid) {
            missing.push(group);
        }
    }
    if missing.is_empty() {
        return Ok(Decision::Fine);
    }
    let changes = missing.iter().map(|group| change("member of", NONE, Some(group.as_str()))).collect();
    let mut predicted = Accounts::clone(&accounts);
    add_member(&mut predicted, user, missing.iter());
    let argv = words(["usermod", "--append", "--groups", &missing.join(","), user]);
    Ok(decide(changes, vec![argv], None, predicted))
}

/// [`olbake_core::operation::Action::AuthorizedKeys`].
pub(crate) fn authorized_keys<'a>(
    context: &Context<'_>,
    user: &str,
    keys: &[String],
    exclusive: bool,
) -> Result<Decision<'a>> {
    let accounts = context.world().accounts();
    let (home, found) = accounts.home(user)?;
    let meta = |mode| Ownership {
        owner: Some(found.uid.to_string()),
        group: Some(found.gid.to_string()),
        mode: Some(mode),
    };
    let mut work = Work::default();
    let directory = home.join(".ssh");
    match context.world().look(&directory)? {
        Node::Absent => {
            work.changes.push(change("directory", NONE, Some(directory.as_str())));
            let meta = Meta { mode: 0o700, uid: found.uid, gid: found.gid };
            work.edits.push(Edit::Directory { path: directory.clone(), meta });
        }
        Node::Directory { meta: base } => {
            let (meta, mut changes) = apply_ownership(context, &meta(0o700), base, true)?;
            if !changes.is_empty() {
                work.edits.push(Edit::Meta { path: directory.clone(), meta });
                work.changes.append(&mut changes);
            }
        }
        other => {
            // A user could point it at a directory of root's.
            return Err(OpError::wrong(format!("`{directory}` is a {}, not a directory", other.kind())));
        }
    }
    let path = directory.join("authorized_keys");
    let old = match context.world().look(&path)? {
        Node::File { content, .. } => String::from_utf8_lossy(&content.read()?).into_owned(),
        _ => String::new(),
    };
    let ownership = meta(0o600);
    let bytes = Bytes { source: Source::text(merge_keys(&old, keys, exclusive)), label: None };
    let wanted = Wanted { path: &path, bytes, ownership: &ownership, default_mode: 0o600, validate: None };
    wanted.plan(context, &mut work)?;
    Ok(work.decide())
}

/// The keys of a file and these; only these where they are to be the only ones.
fn merge_keys(old: &str, keys: &[String], exclusive: bool) -> String {
    let wanted: Vec<&str> = keys.iter().map(|key| key.trim()).collect();
    let mut lines: Vec<&str> = if exclusive { Vec::new() } else { old.lines().collect() };
    for key in wanted {
        if !lines.iter().any(|line| line.trim() == key) {
            lines.push(key);
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_merged_or_replaced() {
        let keys = ["ssh-ed25519 AAAA me\n".to_owned()];
        assert_eq!(merge_keys("ssh-rsa B you\n", &keys, false), "ssh-rsa B you\nssh-ed25519 AAAA me\n");
        assert_eq!(merge_keys("ssh-rsa B you\n", &keys, true), "ssh-ed25519 AAAA me\n");
        let once = merge_keys("", &keys, false);
        assert_eq!(merge_keys(&once, &keys, false), once);
    }
}
