//! Recipes: Starlark in, plans out. The only crate that knows the interpreter.
//!
//! A [`Workspace`] is a folder with `olbake.toml`, `components/NAME/component.star`, `images/NAME/image.star`
//! and `stacks/…/PROJECT/stack.star`. Its files are evaluated once; the functions of a component run once for each use with other settings. Evaluation is
//! hermetic: a recipe sees its settings, facts about the machine it is planned for, and files of the workspace, and
//! nothing of the clock, the network or the environment. It ends within a number of steps.

#![allow(clippy::result_large_err, reason = "a diagnostic ends a recipe: it is on no hot path")]

mod arguments;
mod builtin;
mod check;
mod conflict;
mod declare;
mod fault;
mod finish;
mod layer;
mod loader;
mod ops;
mod plan;
mod pymethods;
mod rewrite;
mod rules;
pub mod scaffold;
mod session;
mod sources;
mod stack;
mod template;
mod types;
mod values;
mod watch;
mod workspace;

pub use stack::{Evaluated, ImageOf, OtherStack, OutputsOf, StackInputs, Violation, WantedImage};
pub use workspace::{Explained, Inputs, Planned, SecretVersion, Workspace};
