//! Which stack reads which, found by evaluating recipes without a look at any state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use olbake_core::diagnostic::{Diagnostic, Diagnostics};
use olbake_core::span::Span;
use olbake_core::stack::StackName;
use rayon::prelude::*;

use super::evaluate::{self, Run};
use super::{OtherStack, StackInputs};
use crate::workspace::Workspace;

type Edges = BTreeMap<StackName, BTreeMap<StackName, Option<Span>>>;

fn offline(inputs: &StackInputs) -> StackInputs {
    StackInputs {
        outputs: Arc::new(|_| Ok(OtherStack::Unknown)),
        images: Arc::new(|_| Ok(None)),
        ..inputs.clone()
    }
}

/// Every stack, each after those that it reads.
pub(crate) fn order(workspace: &Workspace, inputs: &StackInputs) -> Result<Vec<StackName>, Diagnostics> {
    let (runs, problems) = run_all(workspace, &workspace.stacks(), &offline(inputs));
    if !problems.is_empty() {
        return Err(Diagnostics(problems));
    }
    let edges: Edges = runs.into_iter().map(|(name, run)| (name, run.references)).collect();
    sorted(&edges).map_err(Diagnostics::from)
}

/// Refuses a stack that some stack that it reads reads in turn.
pub(crate) fn refuse_circle(
    workspace: &Workspace,
    stack: &StackName,
    run: &Run,
    inputs: &StackInputs,
) -> Result<(), Diagnostic> {
    let mut edges = Edges::from([(stack.clone(), run.references.clone())]);
    let mut waiting: Vec<StackName> = run.references.keys().cloned().collect();
    let inputs = offline(inputs);
    while let Some(next) = waiting.pop() {
        if edges.contains_key(&next) {
            continue;
        }
        // One that cannot be evaluated is reported where it is itself asked for.
        let references =
            evaluate::run(workspace, &next, &inputs).map(|run| run.references).unwrap_or_default();
        waiting.extend(references.keys().cloned());
        edges.insert(next, references);
    }
    sorted(&edges).map(drop)
}

/// Evaluates every stack: what is wrong, what is worth mending.
pub(crate) fn check(workspace: &Workspace, inputs: &StackInputs) -> Vec<Diagnostic> {
    let (runs, mut problems) = run_all(workspace, &workspace.stacks(), &offline(inputs));
    let edges: Edges = runs.iter().map(|(name, run)| (name.clone(), run.references.clone())).collect();
    problems.extend(sorted(&edges).err());
    let names = runs.iter().map(|(name, run)| {
        (name.clone(), run.evaluated.declaration.outputs.keys().cloned().collect::<BTreeSet<String>>())
    });
    let names: BTreeMap<StackName, BTreeSet<String>> = names.collect();
    let readers: Vec<StackName> =
        edges.iter().filter(|(_, read)| !read.is_empty()).map(|(name, _)| name.clone()).collect();
    problems.extend(runs.into_values().flat_map(|run| run.evaluated.warnings.0));
    // Once more, now that it is known which outputs there are.
    let known = move |name: &StackName| {
        Ok(names.get(name).map_or(OtherStack::Unknown, |names| OtherStack::Declared(names.clone())))
    };
    let inputs = StackInputs { outputs: Arc::new(known), ..offline(inputs) };
    problems.extend(run_all(workspace, &readers, &inputs).1);
    problems
}

fn run_all(
    workspace: &Workspace,
    stacks: &[StackName],
    inputs: &StackInputs,
) -> (BTreeMap<StackName, Run>, Vec<Diagnostic>) {
    let all: Vec<(&StackName, Result<Run, Diagnostics>)> =
        stacks.par_iter().map(|stack| (stack, evaluate::run(workspace, stack, inputs))).collect();
    let (mut runs, mut problems) = (BTreeMap::new(), Vec::new());
    for (stack, outcome) in all {
        match outcome {
            Ok(run) => drop(runs.insert(stack.clone(), run)),
            Err(found) => problems.extend(found.0),
        }
    }
    (runs, problems)
}

/// The stacks, each after those that it reads; the error names a circle.
fn sorted(edges: &Edges) -> Result<Vec<StackName>, Diagnostic> {
    let (mut done, mut order) = (BTreeSet::new(), Vec::new());
    for stack in edges.keys() {
        visit(stack, edges, &mut Vec::new(), &mut done, &mut order)?;
    }
    Ok(order)
}

fn visit<'a>(
    stack: &'a StackName,
    edges: &'a Edges,
    above: &mut Vec<&'a StackName>,
    done: &mut BTreeSet<&'a StackName>,
    order: &mut Vec<StackName>,
) -> Result<(), Diagnostic> {
    if done.contains(stack) {
        return Ok(());
    }
    if let Some(first) = above.iter().position(|other| *other == stack) {
        return Err(circle(&above[first..], edges));
    }
    let Some(read) = edges.get(stack) else { return Ok(()) };
    above.push(stack);
    for other in read.keys() {
        visit(other, edges, above, done, order)?;
    }
    above.pop();
    done.insert(stack);
    order.push(stack.clone());
    Ok(())
}

fn circle(stacks: &[&StackName], edges: &Edges) -> Diagnostic {
    let names: Vec<&str> = stacks.iter().chain(stacks.first()).map(|name| name.as_str()).collect();
    let text = format!("stacks read each other's outputs in a circle: {}", names.join(" → "));
    let mut places = stacks.iter().zip(stacks.iter().cycle().skip(1)).map(|(reader, read)| {
        let place = edges.get(*reader)?.get(*read)?.clone()?;
        Some((place, format!("`{reader}` reads `{read}`")))
    });
    let mut problem = Diagnostic::error("stack-cycle", text).at(places.next().flatten().map(|(at, _)| at));
    problem.related.extend(places.flatten());
    problem.help("move what both need into a third project")
}
