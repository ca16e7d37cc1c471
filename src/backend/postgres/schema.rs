//! Creates tables and indexes where they are missing.

use sqlx::Postgres;

use crate::backend::schema::{SchemaSql, objects};

impl SchemaSql for Postgres {
    /// `CREATE INDEX IF NOT EXISTS` locks the table against writers even if the index exists, and every later
    /// writer queues behind that lock. The catalog is therefore read first, without any lock. The creation
    /// has a limit that the server enforces, because the server keeps waiting even after the client has
    /// disconnected.
    ///
    /// The advisory lock serializes concurrent processes: `IF NOT EXISTS` checks before it creates, so one
    /// of two would violate a unique key of the catalog.
    fn create_missing(schema: &'static str) -> String {
        let is_missing = |name: &str| {
            format!(
                "NOT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
                 WHERE relname = '{name}' AND nspname = current_schema())"
            )
        };
        let any: Vec<_> = objects(schema).map(|(name, _)| is_missing(name)).collect();
        let create: Vec<_> = objects(schema)
            .map(|(name, statement)| format!("IF {} THEN {statement}; END IF;", is_missing(name)))
            .collect();
        format!(
            "SET LOCAL statement_timeout = 9900; SET LOCAL lock_timeout = 1000; \
             DO $create$ BEGIN IF {} THEN \
             PERFORM pg_advisory_xact_lock(hashtext('atomically')); {} END IF; END $create$",
            any.join(" OR "),
            create.join(" ")
        )
    }

    const CREATE_OPERATIONS: &'static str = "CREATE TABLE IF NOT EXISTS atomically_operation (
        id BYTEA PRIMARY KEY,
        recorded_at TIMESTAMPTZ NOT NULL DEFAULT now()
    )";
}
