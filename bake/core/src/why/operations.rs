//! What differs between two lists of operations, matched by what they do.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Difference, fields};
use crate::names::OperationId;
use crate::operation::{Operation, Phase};

/// The differences, in the order of the new list; what is gone comes first in its phase.
pub(super) fn differences(old: &[Operation], new: &[Operation]) -> Vec<Difference> {
    let pairs = matches(old, new);
    // Where an operation that others name only changed its number, they did not change.
    let renamed: BTreeMap<&OperationId, &OperationId> =
        pairs.iter().map(|(before, now)| (&old[*before].id, &new[*now].id)).collect();
    let mut found: Vec<(Phase, Difference)> = Vec::new();
    for (index, operation) in old.iter().enumerate() {
        if !pairs.iter().any(|(before, _)| *before == index) {
            let (id, title) = (operation.id.clone(), operation.title.clone());
            found.push((operation.phase, Difference::OperationRemoved { id, title }));
        }
    }
    for (index, operation) in new.iter().enumerate() {
        let (id, title, span) =
            (operation.id.clone(), operation.title.clone(), operation.spans.first().cloned());
        match pairs.iter().find(|(_, now)| *now == index) {
            None => found.push((operation.phase, Difference::OperationAdded { id, title, span })),
            Some((before, _)) => {
                let fields = fields::differences(
                    &essence(&old[*before], &renamed),
                    &essence(operation, &BTreeMap::new()),
                );
                if !fields.is_empty() {
                    found.push((operation.phase, Difference::OperationChanged { id, title, span, fields }));
                }
            }
        }
    }
    for phase in reordered(&pairs, new) {
        found.push((phase, Difference::OrderChanged { phase }));
    }
    found.sort_by_key(|(phase, _)| *phase);
    found.into_iter().map(|(_, difference)| difference).collect()
}

/// The phases in which matched operations changed their order.
fn reordered(pairs: &[(usize, usize)], new: &[Operation]) -> Vec<Phase> {
    let mut by_new = pairs.to_vec();
    by_new.sort_by_key(|(_, now)| *now);
    let mut phases: Vec<Phase> = by_new
        .windows(2)
        .filter(|pair| pair[0].0 > pair[1].0 && new[pair[0].1].phase == new[pair[1].1].phase)
        .map(|pair| new[pair[1].1].phase)
        .collect();
    phases.dedup();
    phases
}

/// The part of an operation that its key depends on, its own identity aside.
fn essence(operation: &Operation, renamed: &BTreeMap<&OperationId, &OperationId>) -> Value {
    let ids = |ids: &[OperationId]| -> Value {
        ids.iter().map(|id| renamed.get(id).map_or(id, |now| *now).to_string()).collect()
    };
    let mut value = serde_json::to_value(&operation.action).expect("actions are expressible in JSON");
    if let Value::Object(fields) = &mut value {
        for field in ["restart_on", "reload_on"] {
            if let Some(Value::Array(items)) = fields.get_mut(field) {
                for item in items {
                    let now = item.as_str().and_then(|text| {
                        renamed
                            .iter()
                            .find(|(before, _)| before.as_str() == text)
                            .map(|(_, now)| now.to_string())
                    });
                    if let Some(now) = now {
                        *item = Value::String(now);
                    }
                }
            }
        }
        fields.insert("when_changed".into(), ids(&operation.when_changed));
        fields.insert("after".into(), ids(&operation.after));
    }
    value
}

/// Pairs of places in the old and the new list that hold the same operation, perhaps changed: first those equal in
/// title, in order and then wherever they stand; then those that do the same under another title; then what is left of
/// the same kind, in order.
fn matches(old: &[Operation], new: &[Operation]) -> Vec<(usize, usize)> {
    let titles = |list: &[Operation]| -> Vec<(Phase, String)> {
        list.iter().map(|operation| (operation.phase, operation.title.clone())).collect()
    };
    let kinds = |list: &[Operation]| -> Vec<(Phase, String)> {
        list.iter().map(|operation| (operation.phase, kind(operation).to_owned())).collect()
    };
    let mut pairs = common_subsequence(&titles(old), &titles(new));
    match_anywhere(&titles(old), &titles(new), &mut pairs);
    let actions = |list: &[Operation]| list.iter().map(|o| (o.phase, o.action.clone())).collect::<Vec<_>>();
    match_anywhere(&actions(old), &actions(new), &mut pairs);
    match_anywhere(&kinds(old), &kinds(new), &mut pairs);
    pairs
}

/// The call of the recipe: the title's first word.
fn kind(operation: &Operation) -> &str {
    operation.title.split(' ').next().unwrap_or_default()
}

fn match_anywhere<T: PartialEq>(old: &[T], new: &[T], pairs: &mut Vec<(usize, usize)>) {
    for (now, value) in new.iter().enumerate() {
        if pairs.iter().any(|(_, taken)| *taken == now) {
            continue;
        }
        let free = |before: usize| !pairs.iter().any(|(taken, _)| *taken == before);
        if let Some(before) = (0..old.len()).find(|before| old[*before] == *value && free(*before)) {
            pairs.push((before, now));
        }
    }
}

/// The places of a longest common subsequence. Lists of recipes are short: a table of their product is.
pub(super) fn common_subsequence<T: PartialEq>(old: &[T], new: &[T]) -> Vec<(usize, usize)> {
    let mut lengths = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            lengths[i][j] = if old[i] == new[j] {
                lengths[i + 1][j + 1] + 1
            } else {
                lengths[i + 1][j].max(lengths[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < old.len() && j < new.len() {
        if old[i] == new[j] {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if lengths[i + 1][j] >= lengths[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}
