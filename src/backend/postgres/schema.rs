//! Tables that are made where they are missing.

use crate::backend::schema::objects;

/// `CREATE INDEX IF NOT EXISTS` locks the table against writers even if the index is there, and every writer
/// that comes later waits behind that lock. So the catalog is read first, without any lock. What is missing
/// is made with a limit that the server knows, since it goes on waiting for a client that has gone.
///
/// The advisory lock is for two processes at once: `IF NOT EXISTS` looks first and makes then, so that the
/// second one violates a unique key of the catalog.
pub(super) fn creation(schema: &'static str) -> String {
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
         DO $create$ BEGIN IF {} THEN PERFORM pg_advisory_xact_lock(hashtext('atomically')); {} END IF; END $create$",
        any.join(" OR "),
        create.join(" ")
    )
}
