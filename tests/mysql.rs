//! The semantics on MySql, and what is MySql's own.

mod conformance;
mod support;

conformance!(sqlx::MySql);
