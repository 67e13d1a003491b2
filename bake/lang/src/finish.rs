//! From what the phases of a component recorded to the operations of a layer: packages become one transaction,
//! every operation gets its identity, and names of operations become identities.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use olbake_core::diagnostic::Diagnostic;
use olbake_core::operation::{Action, Operation, PackageRequest, PackageState, Phase};
use olbake_core::span::Span;
use olbake_core::{ComponentName, OperationId};

use crate::session::{Draft, Target};

/// The operations of a layer.
#[derive(Default)]
pub(crate) struct Finished {
    pub(crate) operations: Vec<Operation>,
    pub(crate) overriding: Vec<bool>,
    pub(crate) foreign: Vec<(Utf8PathBuf, Option<Span>)>,
    pub(crate) checks: Vec<Operation>,
    /// What an instance does before another takes its place.
    pub(crate) upgrade: Vec<Operation>,
}

/// Finishes the drafts of one component, and says what is wrong with its packages.
pub(crate) fn finish(component: &ComponentName, mut drafts: Vec<Draft>) -> (Finished, Vec<Diagnostic>) {
    let (order, problems) = order(&mut drafts);
    let mut numbers: BTreeMap<Phase, usize> = BTreeMap::new();
    let mut ids: Vec<Option<OperationId>> = vec![None; drafts.len()];
    for index in &order.sequence {
        let number = numbers.entry(drafts[*index].phase).or_default();
        *number += 1;
        ids[*index] = Some(OperationId::new(component, drafts[*index].phase, *number));
    }
    // A call whose packages went into another transaction is that transaction.
    for (index, into) in &order.merged {
        ids[*index] = ids[*into].clone();
    }
    let mut finished = Finished::default();
    let names = Names { written: written_paths(&drafts, &order.sequence), ids: &ids };
    let mut taken: Vec<Option<Draft>> = drafts.into_iter().map(Some).collect();
    for index in &order.sequence {
        let (Some(draft), Some(id)) = (taken[*index].take(), ids[*index].clone()) else { continue };
        let overriding = draft.overriding;
        let operation = names.resolve(draft, id, &mut finished.foreign);
        if matches!(operation.action, Action::Check(_)) {
            finished.checks.push(operation);
        } else if operation.phase == Phase::Upgrade {
            finished.upgrade.push(operation);
        } else {
            finished.overriding.push(overriding);
            finished.operations.push(operation);
        }
    }
    (finished, problems)
}

/// The order of a layer.
struct Order {
    /// Drafts in the order they run.
    sequence: Vec<usize>,
    /// Drafts that are part of another.
    merged: BTreeMap<usize, usize>,
}

/// Orders by phase, and makes one transaction of all packages that are asked for in the same way.
fn order(drafts: &mut [Draft]) -> (Order, Vec<Diagnostic>) {
    let mut sequence: Vec<usize> = (0..drafts.len()).collect();
    sequence.sort_by_key(|index| drafts[*index].phase);
    let mut merged = BTreeMap::new();
    let mut problems = Vec::new();
    while let Some(group) = next_group(drafts, &sequence, &merged) {
        let (first, rest) = (group[0], &group[1..]);
        for index in rest {
            merged.insert(*index, first);
            let draft = drafts[*index].clone();
            absorb(&mut drafts[first], draft);
        }
        drafts[first].phase = Phase::Install;
        settle(drafts, &mut sequence, &group, &merged);
    }
    for draft in drafts.iter_mut() {
        settle_requests(draft, &mut problems);
    }
    sequence.retain(|index| !merged.contains_key(index));
    sequence.sort_by_key(|index| drafts[*index].phase);
    (Order { sequence, merged }, problems)
}

/// Package calls that can share a transaction: same flags, and none waits for an operation of the recipe.
fn next_group(drafts: &[Draft], sequence: &[usize], merged: &BTreeMap<usize, usize>) -> Option<Vec<usize>> {
    let free = |index: &&usize| {
        let draft = &drafts[**index];
        let waits = draft.after.iter().chain(&draft.when_changed).any(|target| match target {
            Target::Draft(other) => !prepares_packages(&drafts[*other].action),
            Target::Path(path) => !path.starts_with("/etc/apt"),
        });
        flags(&draft.action).is_some() && !waits && !merged.contains_key(index)
    };
    let calls: Vec<usize> = sequence.iter().filter(free).copied().collect();
    calls.iter().find_map(|first| {
        let same: Vec<usize> = calls
            .iter()
            .filter(|other| flags(&drafts[**other].action) == flags(&drafts[*first].action))
            .copied()
            .collect();
        (same.len() > 1 || drafts[*first].phase != Phase::Install).then_some(same)
    })
}

fn flags(action: &Action) -> Option<(bool, bool)> {
    match action {
        Action::AptPackages { recommends, start_services, .. } => Some((*recommends, *start_services)),
        _ => None,
    }
}

/// What decides where packages come from and what they are: it goes before the transaction.
fn prepares_packages(action: &Action) -> bool {
    match action {
        Action::AptRepo { .. } | Action::AptDebconf { .. } | Action::AptHold { .. } => true,
        Action::FilePut { path, .. } => path.starts_with("/etc/apt"),
        _ => false,
    }
}

fn absorb(first: &mut Draft, mut other: Draft) {
    let (Action::AptPackages { packages, .. }, Action::AptPackages { packages: more, .. }) =
        (&mut first.action, &mut other.action)
    else {
        return;
    };
    packages.append(more);
    first.spans.append(&mut other.spans);
    first.after.append(&mut other.after);
    first.when_changed.clear();
}

/// Moves what prepares packages and stands before the last call of the group in front of the transaction.
fn settle(drafts: &mut [Draft], sequence: &mut Vec<usize>, group: &[usize], merged: &BTreeMap<usize, usize>) {
    let first = group[0];
    let position = |index: usize| sequence.iter().position(|other| *other == index).unwrap_or(usize::MAX);
    let (start, end) = (position(first), group.iter().map(|index| position(*index)).max().unwrap_or(0));
    let names = package_names(&drafts[first].action);
    let moves: Vec<usize> = sequence[..=end]
        .iter()
        .enumerate()
        .filter(|(place, index)| {
            let action = &drafts[**index].action;
            let holds_these = matches!(action, Action::AptHold { packages, .. } if packages.iter().any(|name| names.contains(name)));
            (*place > start || drafts[**index].phase != Phase::Install) && prepares_packages(action) && !holds_these && !merged.contains_key(index)
        })
        .map(|(_, index)| *index)
        .collect();
    for index in &moves {
        drafts[*index].phase = Phase::Install;
    }
    sequence.retain(|index| !moves.contains(index));
    let start = sequence.iter().position(|index| *index == first).unwrap_or(0);
    sequence.splice(start..start, moves);
}

fn package_names(action: &Action) -> Vec<String> {
    match action {
        Action::AptPackages { packages, .. } => packages.iter().map(|request| request.name.clone()).collect(),
        _ => Vec::new(),
    }
}

/// One request a package, sorted; requests that exclude each other are a problem.
fn settle_requests(draft: &mut Draft, problems: &mut Vec<Diagnostic>) {
    let Action::AptPackages { packages, .. } = &mut draft.action else { return };
    let mut settled: BTreeMap<String, PackageState> = BTreeMap::new();
    for PackageRequest { name, state } in packages.drain(..) {
        let Some(known) = settled.get(&name) else {
            settled.insert(name, state);
            continue;
        };
        match agree(known, &state) {
            Some(both) => {
                settled.insert(name, both);
            }
            None => {
                let text =
                    format!("the package `{name}` is asked for as {} and as {}", word(known), word(&state));
                let mut problem = Diagnostic::error("package-conflict", text).at(draft.spans.last().cloned());
                problem.related.extend(
                    draft.spans.first().cloned().map(|span| (span, "asked for here first".to_owned())),
                );
                problems.push(problem);
            }
        }
    }
    packages.extend(settled.into_iter().map(|(name, state)| PackageRequest { name, state }));
    let names: Vec<&str> = packages.iter().map(|request| request.name.as_str()).collect();
    draft.title = format!("apt.packages {}", names.join(" "));
    draft.spans.dedup();
}

fn agree(one: &PackageState, other: &PackageState) -> Option<PackageState> {
    use PackageState::{Absent, Present};
    match (one, other) {
        (one, other) if one == other => Some(one.clone()),
        (Absent, _) | (_, Absent) => None,
        (Present, more) | (more, Present) => Some(more.clone()),
        _ => None,
    }
}

fn word(state: &PackageState) -> String {
    match state {
        PackageState::Present => "present".to_owned(),
        PackageState::Latest => "latest".to_owned(),
        PackageState::Absent => "absent".to_owned(),
        PackageState::Version(version) => format!("version {version}"),
    }
}

/// The paths that operations write, and by which draft.
fn written_paths(drafts: &[Draft], sequence: &[usize]) -> Vec<(Utf8PathBuf, bool, usize)> {
    let mut written = Vec::new();
    for index in sequence {
        if let Some((path, whole)) = written_path(&drafts[*index].action) {
            written.push((path.to_owned(), whole, *index));
        }
    }
    written
}

/// The path that an action writes, and whether it writes what is below it too.
pub(crate) fn written_path(action: &Action) -> Option<(&Utf8Path, bool)> {
    match action {
        Action::FileLine { path, .. } | Action::FileBlock { path, .. } | Action::FileIni { path, .. } => {
            Some((path, false))
        }
        Action::FileArchive { path, .. } | Action::FileTree { path, .. } => Some((path, true)),
        Action::Sysctl { path, .. } => Some((path, false)),
        other => other.claimed_path().map(|path| (path, false)),
    }
}

/// Whether an action that writes `written` has a part in `path`: the same path, one below a whole tree, or one in the
/// directory that is followed.
pub(crate) fn touches(written: &Utf8Path, whole: bool, path: &Utf8Path) -> bool {
    written == path || (whole && path.starts_with(written)) || written.starts_with(path)
}

struct Names<'a> {
    written: Vec<(Utf8PathBuf, bool, usize)>,
    ids: &'a [Option<OperationId>],
}

impl Names<'_> {
    fn resolve(
        &self,
        draft: Draft,
        id: OperationId,
        foreign: &mut Vec<(Utf8PathBuf, Option<Span>)>,
    ) -> Operation {
        let Draft { phase, title, spans, action, after, when_changed, restart_on, reload_on, overriding: _ } =
            draft;
        let span = spans.first().cloned();
        let mut all = |targets: Vec<Target>| self.identities(targets, &id, span.as_ref(), foreign);
        let (after, when_changed) = (all(after), all(when_changed));
        let (restarts, reloads) = (all(restart_on), all(reload_on));
        let action = match action {
            Action::Service { unit, enabled, masked, running, .. } => {
                Action::Service { unit, enabled, masked, running, restart_on: restarts, reload_on: reloads }
            }
            other => other,
        };
        Operation { id, phase, title, spans, action, when_changed, after }
    }

    fn identities(
        &self,
        targets: Vec<Target>,
        own: &OperationId,
        span: Option<&Span>,
        foreign: &mut Vec<(Utf8PathBuf, Option<Span>)>,
    ) -> Vec<OperationId> {
        let mut found = Vec::new();
        for target in targets {
            match target {
                Target::Draft(index) => found.extend(self.ids.get(index).cloned().flatten()),
                Target::Path(path) => {
                    let here =
                        self.written.iter().filter(|(written, whole, _)| touches(written, *whole, &path));
                    let before = found.len();
                    found.extend(here.filter_map(|(_, _, index)| self.ids[*index].clone()));
                    if found.len() == before {
                        foreign.push((path, span.cloned()));
                    }
                }
            }
        }
        found.retain(|id| id != own);
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|id| seen.insert(id.clone()));
        found
    }
}
