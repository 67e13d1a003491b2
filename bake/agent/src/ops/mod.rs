//! What each action means: one file a family, one function an action, all of the same shape.
//!
//! A function inspects the machine through [`crate::world::World`] and returns a [`Decision`]: nothing to do, not
//! to be done, or what to change. It changes nothing itself. The caller carries the decision out or predicts it,
//! and asks again afterwards to verify it.

pub(crate) mod account;
pub(crate) mod account_files;
pub(crate) mod apt;
pub(crate) mod apt_repo;
pub(crate) mod archive;
pub(crate) mod attributes;
pub(crate) mod check;
pub(crate) mod file;
pub(crate) mod host;
pub(crate) mod leak;
pub(crate) mod lines;
pub(crate) mod reboot;
pub(crate) mod run;
pub(crate) mod seal;
pub(crate) mod service;
pub(crate) mod tar_zip;
pub(crate) mod tree;
pub(crate) mod unit_links;

use olbake_core::operation::Action;
use olbake_core::report::Change;

use crate::context::Context;
use crate::edit::Edit;
use crate::error::Result;
use crate::world::World;

/// Whether an act changed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Changed,
    Unchanged,
}

type Act<'a> = Box<dyn FnOnce(&Context<'_>) -> Result<Effect> + 'a>;
type Prediction<'a> = Box<dyn FnOnce(&World) -> Result<()> + 'a>;

/// What an inspection came to.
pub(crate) enum Decision<'a> {
    /// All is as it should be.
    Fine,
    /// It is not to be done, because.
    Skip(String),
    /// Something is to be changed.
    Change(Work<'a>),
}

/// What to change: edits first, then the act.
#[derive(Default)]
pub(crate) struct Work<'a> {
    /// What differs, for the report.
    pub(crate) changes: Vec<Change>,
    /// Changes of files.
    pub(crate) edits: Vec<Edit>,
    /// What is more than files.
    pub(crate) act: Option<Act<'a>>,
    /// What the act would make of the machine.
    pub(crate) prediction: Option<Prediction<'a>>,
    /// A unit to be started when all else is done.
    pub(crate) start: Option<&'a str>,
    /// Not to be looked at again: the act says itself whether it went well.
    pub(crate) final_word: bool,
}

impl<'a> Work<'a> {
    /// Changes of files.
    pub(crate) fn edits(changes: Vec<Change>, edits: Vec<Edit>) -> Self {
        Self { changes, edits, ..Self::default() }
    }

    /// Something to run.
    pub(crate) fn act(
        changes: Vec<Change>,
        act: impl FnOnce(&Context<'_>) -> Result<Effect> + 'a,
        prediction: impl FnOnce(&World) -> Result<()> + 'a,
    ) -> Self {
        Self { changes, act: Some(Box::new(act)), prediction: Some(Box::new(prediction)), ..Self::default() }
    }

    /// Takes the act's word for it.
    pub(crate) fn finally(mut self) -> Self {
        self.final_word = true;
        self
    }

    /// The decision to do this, if there is anything to do.
    pub(crate) fn decide(self) -> Decision<'a> {
        if self.changes.is_empty() { Decision::Fine } else { Decision::Change(self) }
    }
}

/// A difference.
pub(crate) fn change(
    what: impl Into<String>,
    from: Option<impl Into<String>>,
    to: Option<impl Into<String>>,
) -> Change {
    Change { what: what.into(), from: from.map(Into::into), to: to.map(Into::into) }
}

/// No value in a [`change`].
pub(crate) const NONE: Option<String> = None;

/// Looks at the machine and says what an action has to change there.
pub(crate) fn decide<'a>(action: &'a Action, context: &Context<'a>) -> Result<Decision<'a>> {
    match action {
        Action::AptPackages { packages, recommends, start_services } => {
            apt::packages(context, packages, *recommends, *start_services)
        }
        Action::AptUpgrade { full } => apt::upgrade(context, *full),
        Action::AptHold { packages, held } => apt::hold(context, packages, *held),
        Action::AptDebconf { package, question, kind, value } => {
            apt_repo::debconf(context, package, question, kind, value)
        }
        Action::AptRepo { name, sources, keyring } => {
            apt_repo::repo(context, name, sources, keyring.as_ref().map(|(path, key)| (path.as_path(), key)))
        }
        Action::FilePut { path, content, ownership, validate, only_if_absent } => {
            file::put(context, path, content, ownership, validate.as_ref(), *only_if_absent)
        }
        Action::FileDirectory { path, ownership, recursive } => {
            file::directory(context, path, ownership, *recursive)
        }
        Action::FileLink { path, target, force } => file::link(context, path, target, *force),
        Action::FileAbsent { path } => file::absent(context, path),
        Action::FileGenerated { path, argv, from_stdout, ownership } => {
            file::generated(context, path, argv, *from_stdout, ownership)
        }
        Action::FileLine { .. } => lines::line(context, action),
        Action::FileBlock { .. } => lines::block(context, action),
        Action::FileIni { path, section, key, value, validate } => {
            lines::ini(context, path, section, key, value.as_deref(), validate.as_ref())
        }
        Action::FileArchive { .. } => archive::unpack(context, action),
        Action::FileTree { path, entries, delete, owner, group } => {
            tree::tree(context, path, entries, *delete, owner.as_deref(), group.as_deref())
        }
        Action::FileAttributes { .. } => attributes::attributes(context, action),
        Action::User { name, account } => account::user(context, name, account.as_ref()),
        Action::Group { name, present, gid, system } => {
            account::group(context, name, *present, *gid, *system)
        }
        Action::Membership { user, groups } => account::membership(context, user, groups),
        Action::AuthorizedKeys { user, keys, exclusive } => {
            account::authorized_keys(context, user, keys, *exclusive)
        }
        Action::Service { .. } => service::service(context, action),
        Action::Hostname { name } => host::hostname(context, name),
        Action::Timezone { zone } => host::timezone(context, zone),
        Action::Sysctl { key, value, path } => host::sysctl(context, key, value, path),
        Action::Hosts { address, names } => host::hosts(context, address, names),
        Action::Reboot { required } => reboot::reboot(context, *required),
        Action::Run(run) => run::run(context, run),
        Action::Check(check) => check::check(context, check),
        Action::Seal { step } => seal::seal(context, *step),
        Action::LeakScan { allow, searched } => leak::scan(context, allow, searched.as_deref()),
    }
}
