//! Any host over SSH: one connection, the agent pushed once by its digest, and one stream for everything else.
