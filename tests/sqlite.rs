//! The semantics on Sqlite, and what is Sqlite's own.

mod conformance;
mod support;

conformance!(sqlx::Sqlite);
