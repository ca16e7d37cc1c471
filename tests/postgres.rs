//! The semantics on Postgres, and what is Postgres's own.

mod conformance;
mod support;

conformance!(sqlx::Postgres);
