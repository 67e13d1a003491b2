//! The resources of a stack and what depends on what, in a form that can be drawn. Main type: [`Graph`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::name::{ResourceName, ResourceType};

/// Resources and what each comes after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    /// The resources with their types and dependencies.
    pub nodes: BTreeMap<ResourceName, (ResourceType, BTreeSet<ResourceName>)>,
}

impl Graph {
    /// An order in which everything comes after what it depends on, by levels: what stands on one level does not
    /// depend on each other. The error has the resources that depend on themselves.
    pub fn levels(&self) -> Result<Vec<Vec<&ResourceName>>, Vec<ResourceName>> {
        let mut waiting: BTreeMap<&ResourceName, usize> = BTreeMap::new();
        let mut dependents: BTreeMap<&ResourceName, Vec<&ResourceName>> = BTreeMap::new();
        for (name, (_, dependencies)) in &self.nodes {
            let known = dependencies.iter().filter(|dependency| self.nodes.contains_key(*dependency));
            let count =
                known.inspect(|dependency| dependents.entry(dependency).or_default().push(name)).count();
            waiting.insert(name, count);
        }
        let mut levels: Vec<Vec<&ResourceName>> = Vec::new();
        let mut ready: Vec<&ResourceName> =
            waiting.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
        while !ready.is_empty() {
            let mut next = Vec::new();
            for name in &ready {
                waiting.remove(name);
                for dependent in dependents.get(name).into_iter().flatten() {
                    let count = waiting.get_mut(dependent).expect("a dependent waits for its dependencies");
                    *count -= 1;
                    if *count == 0 {
                        next.push(*dependent);
                    }
                }
            }
            next.sort();
            levels.push(std::mem::replace(&mut ready, next));
        }
        if waiting.is_empty() { Ok(levels) } else { Err(self.cycle(&waiting.into_keys().collect())) }
    }

    /// One cycle among resources that none of the levels has.
    fn cycle(&self, among: &BTreeSet<&ResourceName>) -> Vec<ResourceName> {
        let mut path: Vec<&ResourceName> = Vec::new();
        let mut at = *among.first().expect("something is left over");
        loop {
            if let Some(start) = path.iter().position(|seen| *seen == at) {
                return path[start..].iter().map(|name| (*name).clone()).collect();
            }
            path.push(at);
            let next = self.nodes[at].1.iter().find(|dependency| among.contains(dependency));
            at = next.expect("what is left over depends on something that is left over");
        }
    }

    /// The graph in the language of Graphviz.
    pub fn dot(&self) -> String {
        let mut text = String::from("digraph stack {\n  rankdir = LR;\n  node [shape = box];\n");
        for (name, (ty, dependencies)) in &self.nodes {
            writeln!(text, "  \"{name}\" [label = \"{name}\\n{ty}\"];").expect("text takes text");
            for dependency in dependencies {
                writeln!(text, "  \"{dependency}\" -> \"{name}\";").expect("text takes text");
            }
        }
        text + "}\n"
    }

    /// The graph in the language of Mermaid.
    pub fn mermaid(&self) -> String {
        let number: BTreeMap<&ResourceName, usize> =
            self.nodes.keys().enumerate().map(|(number, name)| (name, number)).collect();
        let mut text = String::from("flowchart LR\n");
        for (name, (ty, _)) in &self.nodes {
            writeln!(text, "  n{}[\"{name}<br/><small>{ty}</small>\"]", number[name])
                .expect("text takes text");
        }
        for (name, (_, dependencies)) in &self.nodes {
            for dependency in dependencies.iter().filter_map(|dependency| number.get(dependency)) {
                writeln!(text, "  n{dependency} --> n{}", number[name]).expect("text takes text");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let nodes = edges.iter().map(|(name, dependencies)| {
            let dependencies = dependencies.iter().map(|name| name.parse().unwrap()).collect();
            (name.parse().unwrap(), ("local.network".parse().unwrap(), dependencies))
        });
        Graph { nodes: nodes.collect() }
    }

    #[test]
    fn levels_follow_dependencies() {
        let graph = graph(&[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["b", "c"])]);
        let levels = graph.levels().unwrap();
        let names: Vec<Vec<&str>> =
            levels.iter().map(|level| level.iter().map(|name| name.as_str()).collect()).collect();
        assert_eq!(names, [vec!["a"], vec!["b", "c"], vec!["d"]]);
    }

    #[test]
    fn a_cycle_is_named() {
        let graph = graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"]), ("d", &[])]);
        let cycle: Vec<String> = graph.levels().unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(cycle, ["b", "c"]);
    }

    #[test]
    fn drawings_name_everything() {
        let graph = graph(&[("a", &[]), ("b", &["a"])]);
        assert!(graph.dot().contains("\"a\" -> \"b\""));
        assert!(graph.mermaid().contains("n0 --> n1"));
    }
}
