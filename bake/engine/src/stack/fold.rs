//! The state of a stack as the journal folds it.

use olbake_core::stack::{Record, StackState};

use crate::state::Fold;

impl Fold for StackState {
    type Record = Record;

    fn apply(&mut self, record: &Record) -> Result<(), String> {
        Self::apply(self, record).map_err(|error| error.to_string())
    }

    fn lint(&self) -> Vec<String> {
        Self::lint(self)
    }
}
