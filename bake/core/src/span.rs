//! Places in recipes. A plan names its source files once, in a table; a span points into that table.

use serde::{Deserialize, Serialize};

/// A range of text in one source file. Lines and columns count from 1, columns in characters; the end is
/// exclusive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Span {
    /// The file, relative to the workspace: `components/caddy/component.star`.
    pub file: String,
    /// First line.
    pub line: u32,
    /// First column.
    pub column: u32,
    /// Last line.
    pub end_line: u32,
    /// The column after the last character.
    pub end_column: u32,
}

impl Span {
    /// `file:line:column`, as compilers write it and editors open it.
    pub fn location(&self) -> String {
        format!("{}:{}:{}", self.file, self.line, self.column)
    }
}
