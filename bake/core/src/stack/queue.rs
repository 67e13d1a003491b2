//! Things that come after other things, handed out in order: no domain, no I/O. Main type: [`Queue`].

use std::collections::{BTreeMap, BTreeSet};

/// Hands out keys once everything that comes before them is done; where there is a choice, the least first.
#[derive(Clone, Debug)]
pub struct Queue<K> {
    /// The keys that were not handed out, with how many come before each.
    missing: BTreeMap<K, usize>,
    followers: BTreeMap<K, Vec<K>>,
    ready: BTreeSet<K>,
}

impl<K: Ord + Clone> Queue<K> {
    /// A queue of keys, each with what comes before it. What is not among the keys counts as done.
    pub fn new<B: IntoIterator<Item = K>>(entries: impl IntoIterator<Item = (K, B)>) -> Self {
        let entries: Vec<(K, B)> = entries.into_iter().collect();
        let mut missing: BTreeMap<K, usize> = entries.iter().map(|(key, _)| (key.clone(), 0)).collect();
        let mut followers: BTreeMap<K, Vec<K>> = BTreeMap::new();
        for (key, before) in entries {
            let before: BTreeSet<K> = before.into_iter().filter(|one| missing.contains_key(one)).collect();
            missing.insert(key.clone(), before.len());
            before.into_iter().for_each(|one| followers.entry(one).or_default().push(key.clone()));
        }
        let ready = missing.iter().filter(|(_, count)| **count == 0).map(|(key, _)| key.clone()).collect();
        Self { missing, followers, ready }
    }

    /// A key that nothing comes before any more.
    pub fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_first()?;
        self.missing.remove(&key);
        Some(key)
    }

    /// A key that was handed out is done.
    pub fn done(&mut self, key: &K) {
        for follower in self.followers.remove(key).into_iter().flatten() {
            if let Some(count) = self.missing.get_mut(&follower) {
                *count -= 1;
                if *count == 0 {
                    self.ready.insert(follower);
                }
            }
        }
    }

    /// The keys that were not handed out.
    pub fn left(&self) -> impl ExactSizeIterator<Item = &K> {
        self.missing.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_after_what_it_names() {
        let mut queue =
            Queue::new([("c", vec!["a", "b"]), ("b", vec!["x"]), ("a", vec![]), ("d", vec!["c"])]);
        assert_eq!((queue.take(), queue.take(), queue.take()), (Some("a"), Some("b"), None));
        queue.done(&"a");
        assert_eq!(queue.take(), None);
        queue.done(&"b");
        assert_eq!(queue.take(), Some("c"));
        assert_eq!(queue.left().collect::<Vec<_>>(), [&"d"]);
    }
}
