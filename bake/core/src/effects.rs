//! Which operations may run at the same time, and which must wait for which.
//!
//! Every action claims resources, to read or to write. Two operations conflict when they claim one resource and at
//! least one of them writes it; the later of the two in the recipe waits for the earlier. What does not conflict
//! cannot see each other, so the result does not depend on the schedule. An action whose claims are not known (a
//! command, a package transaction) claims everything and runs alone.
//!
//! | resource | written by | read by |
//! |---|---|---|
//! | a path | an operation that makes, changes or removes it | operations on paths below it, before and after, and readers |
//! | a subtree | trees, archives, removals, recursive attributes | operations on any path in it |
//! | users | accounts, groups, memberships | files with an owner or group by name, commands run as a user |
//! | systemd | unit states | – ; reads the unit directories |
//! | everything | packages, commands without declared effects, a reboot, seal | everything else |
//!
//! Main function: [`dependencies`].

use std::collections::{BTreeSet, HashMap};

use camino::{Utf8Path, Utf8PathBuf};

use crate::names::OperationId;
use crate::operation::{Action, Operation, Ownership};

/// Reading or writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The result depends on it.
    Read,
    /// The result changes it.
    Write,
}

/// Something that operations share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// One path.
    Path(Utf8PathBuf),
    /// A path and all below it.
    Subtree(Utf8PathBuf),
    /// The user database.
    Users,
    /// The states of units.
    Systemd,
    /// The whole machine.
    Everything,
}

/// A claim on a resource.
pub type Claim = (Resource, Access);

/// Directories whose files systemd reads as units.
pub const UNIT_DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/usr/local/lib/systemd/system",
];

/// Whether a path lies where systemd reads units from, so that a change asks for a daemon-reload.
pub fn is_unit_path(path: &Utf8Path) -> bool {
    UNIT_DIRECTORIES.iter().any(|directory| path.starts_with(directory))
}

/// What an action claims.
pub fn claims(action: &Action) -> Vec<Claim> {
    use Access::{Read, Write};
    use Resource::{Everything, Path, Subtree, Systemd, Users};
    let mut claims = Vec::new();
    match action {
        Action::AptPackages { .. }
        | Action::AptUpgrade { .. }
        | Action::AptRepo { .. }
        | Action::AptHold { .. }
        | Action::AptDebconf { .. }
        | Action::FileGenerated { .. }
        | Action::Reboot { .. }
        | Action::Seal { .. }
        | Action::LeakScan { .. } => claims.push((Everything, Write)),
        Action::Run(run) => match &run.effects {
            None => claims.push((Everything, Write)),
            Some(effects) => {
                claims.extend(effects.reads.iter().map(|path| (Subtree(path.clone()), Read)));
                claims.extend(effects.writes.iter().map(|path| (Subtree(path.clone()), Write)));
                if run.user.is_some() {
                    claims.push((Users, Read));
                }
            }
        },
        Action::FilePut { path, ownership, validate, .. } => {
            claims.push((Path(path.clone()), Write));
            claims.extend(owner_claim(ownership));
            claims.extend(validate.as_ref().map(|_| (Everything, Read)));
        }
        Action::FileDirectory { path, ownership, recursive } => {
            claims.push((if *recursive { Subtree(path.clone()) } else { Path(path.clone()) }, Write));
            claims.extend(owner_claim(ownership));
        }
        Action::FileLink { path, .. } => claims.push((Path(path.clone()), Write)),
        Action::FileAbsent { path } => claims.push((Subtree(path.clone()), Write)),
        Action::FileLine { path, validate, .. }
        | Action::FileBlock { path, validate, .. }
        | Action::FileIni { path, validate, .. } => {
            claims.push((Path(path.clone()), Write));
            claims.extend(validate.as_ref().map(|_| (Everything, Read)));
        }
        Action::FileArchive { path, owner, group, .. } | Action::FileTree { path, owner, group, .. } => {
            claims.push((Subtree(path.clone()), Write));
            if owner.is_some() || group.is_some() {
                claims.push((Users, Read));
            }
        }
        Action::FileAttributes { path, ownership, recursive, acl, .. } => {
            claims.push((if *recursive { Subtree(path.clone()) } else { Path(path.clone()) }, Write));
            claims.extend(owner_claim(ownership));
            if !acl.is_empty() {
                claims.push((Users, Read));
            }
        }
        Action::User { account, .. } => {
            claims.push((Users, Write));
            if let Some(home) = account.as_ref().and_then(|account| account.home.as_ref()) {
                claims.push((Subtree(home.clone()), Write));
            }
        }
        Action::Group { .. } | Action::Membership { .. } => claims.push((Users, Write)),
        // The keys lie in the user's home directory, which only the machine knows.
        Action::AuthorizedKeys { .. } => claims.push((Users, Write)),
        Action::Service { .. } => {
            claims.push((Systemd, Write));
            claims.extend(UNIT_DIRECTORIES.map(|directory| (Subtree(directory.into()), Read)));
            claims.push((Subtree("/etc/systemd/system".into()), Write));
        }
        Action::Hostname { .. } => claims.push((Path("/etc/hostname".into()), Write)),
        Action::Timezone { .. } => {
            claims.extend(["/etc/localtime", "/etc/timezone"].map(|path| (Path(path.into()), Write)));
        }
        Action::Sysctl { path, .. } => claims.push((Path(path.clone()), Write)),
        Action::Hosts { .. } => claims.push((Path("/etc/hosts".into()), Write)),
        Action::Check(_) => {}
    }
    claims
}

fn owner_claim(ownership: &Ownership) -> Option<Claim> {
    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| name.parse::<u32>().is_err());
    (named(&ownership.owner) || named(&ownership.group)).then_some((Resource::Users, Access::Read))
}

/// For each operation, the earlier ones that it must wait for, by index, ascending.
///
/// The phase is a barrier: an operation waits for all of the phases before its own. `after` and `when_changed`
/// count, as do the `restart_on` and `reload_on` of a unit. Services with handlers run once at the end of what
/// they watch.
pub fn dependencies(operations: &[Operation]) -> Vec<Vec<usize>> {
    let index_of: HashMap<&OperationId, usize> =
        operations.iter().enumerate().map(|(index, operation)| (&operation.id, index)).collect();
    let mut table = Table::default();
    let mut result = Vec::with_capacity(operations.len());
    for (index, operation) in operations.iter().enumerate() {
        let mut waits = BTreeSet::new();
        if index > 0 && operations[index - 1].phase != operation.phase {
            table.barrier(index);
        }
        for (resource, access) in claims(&operation.action) {
            table.claim(index, &resource, access, &mut waits);
        }
        table.reads_everything(index, &mut waits);
        for id in explicit(operation) {
            waits.extend(index_of.get(id).copied().filter(|other| *other < index));
        }
        waits.remove(&index);
        result.push(waits.into_iter().collect());
    }
    result
}

/// The operations that this one names.
fn explicit(operation: &Operation) -> impl Iterator<Item = &OperationId> {
    let handlers = match &operation.action {
        Action::Service { restart_on, reload_on, .. } => [restart_on.as_slice(), reload_on.as_slice()],
        _ => [&[][..], &[][..]],
    };
    operation.after.iter().chain(&operation.when_changed).chain(handlers.into_iter().flatten())
}

/// Who claimed what so far.
#[derive(Default)]
struct Table {
    /// The last operation that wrote everything, or the first of a phase's barrier.
    alone: Option<usize>,
    /// All operations since.
    since: Vec<usize>,
    /// Operations since that read everything.
    readers_of_everything: Vec<usize>,
    /// Writers and readers of single paths since.
    paths: HashMap<Utf8PathBuf, Vec<(usize, Access)>>,
    /// Operations since on paths below a path: the path itself decides what is made there (its group, its ACL).
    below: HashMap<Utf8PathBuf, Vec<usize>>,
    /// Writers and readers of subtrees since.
    subtrees: Vec<(Utf8PathBuf, usize, Access)>,
    /// Writers and readers of the user database since.
    users: Vec<(usize, Access)>,
    /// Writers of unit states since.
    systemd: Vec<(usize, Access)>,
    /// Operations before `index` are all to be waited for.
    barrier: Option<usize>,
}

impl Table {
    fn barrier(&mut self, index: usize) {
        *self = Self { barrier: Some(index), ..Self::default() };
    }

    fn reads_everything(&mut self, index: usize, waits: &mut BTreeSet<usize>) {
        waits.extend(self.alone);
        if let Some(barrier) = self.barrier {
            waits.extend(0..barrier);
        }
        self.since.push(index);
    }

    fn claim(&mut self, index: usize, resource: &Resource, access: Access, waits: &mut BTreeSet<usize>) {
        if access == Access::Write {
            waits.extend(self.readers_of_everything.iter().copied());
        }
        match resource {
            Resource::Everything if access == Access::Write => {
                waits.extend(self.since.drain(..));
                let barrier = self.barrier;
                waits.extend(self.alone);
                *self = Self { alone: Some(index), barrier, ..Self::default() };
            }
            Resource::Everything => {
                waits.extend(self.since.iter().copied());
                self.readers_of_everything.push(index);
            }
            Resource::Path(path) => {
                // What was made or removed above decides what this path is; what is at the path decides too.
                for ancestor in path.ancestors().skip(1) {
                    let writers = self.paths.get(ancestor).into_iter().flatten();
                    waits.extend(
                        writers.filter(|(_, other)| *other == Access::Write).map(|(index, _)| *index),
                    );
                }
                let here = self.paths.entry(path.clone()).or_default();
                waits.extend(conflicting(here, access));
                here.push((index, access));
                if access == Access::Write {
                    waits.extend(self.below.get(path).into_iter().flatten().copied());
                }
                self.depends_on_what_is_above(index, path);
                for (root, other, other_access) in &self.subtrees {
                    if path.starts_with(root) && (access == Access::Write || *other_access == Access::Write) {
                        waits.insert(*other);
                    }
                }
            }
            Resource::Subtree(root) => {
                for (path, claims) in &self.paths {
                    let below = path.starts_with(root);
                    if below || root.starts_with(path) {
                        waits.extend(conflicting(claims, if below { access } else { Access::Read }));
                    }
                }
                for (other_root, other, other_access) in &self.subtrees {
                    let overlap = root.starts_with(other_root) || other_root.starts_with(root);
                    if overlap && (access == Access::Write || *other_access == Access::Write) {
                        waits.insert(*other);
                    }
                }
                if access == Access::Write {
                    waits.extend(self.below.get(root).into_iter().flatten().copied());
                }
                self.subtrees.push((root.clone(), index, access));
                self.depends_on_what_is_above(index, root);
            }
            Resource::Users => {
                waits.extend(conflicting(&self.users, access));
                self.users.push((index, access));
            }
            Resource::Systemd => {
                waits.extend(conflicting(&self.systemd, access));
                self.systemd.push((index, access));
            }
        }
    }
}

impl Table {
    fn depends_on_what_is_above(&mut self, index: usize, path: &Utf8Path) {
        for ancestor in path.ancestors().skip(1) {
            self.below.entry(ancestor.to_owned()).or_default().push(index);
        }
    }
}

fn conflicting(claims: &[(usize, Access)], access: Access) -> impl Iterator<Item = usize> {
    claims
        .iter()
        .filter(move |(_, other)| access == Access::Write || *other == Access::Write)
        .map(|(index, _)| *index)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::operation::{Content, Phase, Run};
    use crate::{ComponentName, Digest};

    fn operation(number: usize, phase: Phase, action: Action) -> Operation {
        let component: ComponentName = "c".parse().unwrap();
        Operation {
            id: OperationId::new(&component, phase, number),
            phase,
            title: String::new(),
            spans: Vec::new(),
            action,
            when_changed: Vec::new(),
            after: Vec::new(),
        }
    }

    fn put(path: &str, owner: Option<&str>) -> Action {
        Action::FilePut {
            path: path.into(),
            content: Content { digest: Digest::of(b""), secrets: Vec::new() },
            ownership: Ownership { owner: owner.map(str::to_owned), ..Ownership::default() },
            validate: None,
            only_if_absent: false,
        }
    }

    fn directory(path: &str) -> Action {
        Action::FileDirectory { path: path.into(), ownership: Ownership::default(), recursive: false }
    }

    fn group(name: &str) -> Action {
        Action::Group { name: name.into(), present: true, gid: None, system: true }
    }

    fn run(effects: Option<&str>) -> Action {
        Action::Run(Box::new(Run {
            argv: vec!["true".into()],
            effects: effects.map(|path| crate::operation::DeclaredEffects {
                reads: Vec::new(),
                writes: vec![path.into()],
            }),
            ..Run::default()
        }))
    }

    fn check(actions: Vec<Action>, expect: &[&[usize]]) {
        let operations: Vec<Operation> = actions
            .into_iter()
            .enumerate()
            .map(|(index, action)| operation(index + 1, Phase::Install, action))
            .collect();
        assert_eq!(dependencies(&operations), expect);
    }

    #[test]
    fn files_wait_for_their_directory_and_owner_only() {
        check(
            vec![
                directory("/srv/a"),
                directory("/srv/b"),
                group("g"),
                put("/srv/a/x", Some("g")),
                put("/srv/b/x", None),
            ],
            &[&[], &[], &[], &[0, 2], &[1]],
        );
    }

    #[test]
    fn commands_run_alone_unless_they_declare_effects() {
        check(
            vec![put("/a", None), run(None), put("/b", None), run(Some("/c")), put("/c/x", None)],
            &[&[], &[0], &[1], &[1], &[1, 3]],
        );
    }

    #[test]
    fn removal_waits_for_what_is_below_and_is_waited_for() {
        check(
            vec![put("/a/x", None), Action::FileAbsent { path: "/a".into() }, put("/a/y", None)],
            &[&[], &[0], &[1]],
        );
    }

    #[test]
    fn a_phase_waits_for_all_before_it() {
        let operations = [
            operation(1, Phase::Install, put("/a", None)),
            operation(2, Phase::Install, put("/b", None)),
            operation(1, Phase::Configure, put("/c", None)),
            operation(2, Phase::Configure, put("/d", None)),
        ];
        assert_eq!(dependencies(&operations), [vec![], vec![], vec![0, 1], vec![0, 1]]);
    }

    #[test]
    fn a_validation_sees_all_files_before_it_and_none_after() {
        let validated = |path: &str| match put(path, None) {
            Action::FilePut { path, content, ownership, .. } => Action::FilePut {
                path,
                content,
                ownership,
                validate: Some(vec!["true".into(), "%s".into()]),
                only_if_absent: false,
            },
            other => other,
        };
        check(vec![put("/a", None), validated("/b"), put("/c", None)], &[&[], &[0], &[1]]);
    }
    const PATHS: [&str; 6] = ["/a", "/a/b", "/a/b/c", "/d", "/d/e", "/etc/systemd/system/x.service"];

    fn any_action() -> impl Strategy<Value = Action> {
        let path = || proptest::sample::select(PATHS.to_vec());
        prop_oneof![
            (path(), proptest::option::of(Just("g"))).prop_map(|(path, owner)| put(path, owner)),
            path().prop_map(directory),
            path().prop_map(|path| Action::FileAbsent { path: path.into() }),
            Just(group("g")),
            path().prop_map(|path| run(Some(path))),
            Just(run(None)),
            path().prop_map(|path| match put(path, None) {
                Action::FilePut { path, content, ownership, .. } => Action::FilePut {
                    path,
                    content,
                    ownership,
                    validate: Some(vec!["true".into()]),
                    only_if_absent: false,
                },
                other => other,
            }),
        ]
    }

    /// Everything that operations share, each with the digest of who wrote it and what that saw.
    type Machine = BTreeMap<String, Digest>;

    /// What a claim touches: reading, it is what the operation may depend on; writing, it is what may change.
    fn touched(resource: &Resource, access: Access) -> Vec<String> {
        let paths = || PATHS.iter().map(|path| (*path).to_owned());
        let all = || paths().chain(["users".to_owned(), "units".to_owned()]).collect();
        let above = |path: &Utf8Path| {
            let path = path.to_owned();
            paths().filter(move |known| access == Access::Read && path.starts_with(known))
        };
        match resource {
            Resource::Everything => all(),
            Resource::Users => vec!["users".to_owned()],
            Resource::Systemd => vec!["units".to_owned()],
            Resource::Path(path) => above(path).chain([path.to_string()]).collect(),
            Resource::Subtree(root) => {
                above(root).chain(paths().filter(|path| Utf8Path::new(path).starts_with(root))).collect()
            }
        }
    }

    /// An operation that is as sensitive as its claims let it be: what it writes tells everything that it saw.
    fn act(machine: &mut Machine, operation: &Operation) {
        let claims = claims(&operation.action);
        let seen: BTreeMap<String, Option<Digest>> = claims
            .iter()
            .flat_map(|(resource, _)| touched(resource, Access::Read))
            .map(|name| (name.clone(), machine.get(&name).copied()))
            .collect();
        let told = Digest::of(format!("{:?} {seen:?}", operation.id).as_bytes());
        for (resource, _) in claims.iter().filter(|(_, access)| *access == Access::Write) {
            machine.extend(touched(resource, Access::Write).into_iter().map(|name| (name, told)));
        }
    }

    proptest! {
        /// Whatever order respects what waits for what, the machine ends up the same.
        #[test]
        fn the_result_does_not_depend_on_the_schedule(
            actions in proptest::collection::vec(any_action(), 1..12),
            barrier in 0_usize..12,
            choices in proptest::collection::vec(any::<proptest::sample::Index>(), 12),
        ) {
            let phase = |index| if index < barrier { Phase::Install } else { Phase::Configure };
            let operations: Vec<Operation> = actions
                .into_iter()
                .enumerate()
                .map(|(index, action)| operation(index + 1, phase(index), action))
                .collect();
            let waits = dependencies(&operations);
            let mut in_order = Machine::new();
            operations.iter().for_each(|operation| act(&mut in_order, operation));
            let (mut shuffled, mut done) = (Machine::new(), BTreeSet::new());
            for choice in choices.iter().take(operations.len()) {
                let ready: Vec<usize> = (0..operations.len())
                    .filter(|index| !done.contains(index) && waits[*index].iter().all(|other| done.contains(other)))
                    .collect();
                let chosen = *choice.get(&ready);
                act(&mut shuffled, &operations[chosen]);
                done.insert(chosen);
            }
            prop_assert_eq!(shuffled, in_order);
        }
    }
}
