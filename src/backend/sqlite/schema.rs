//! Creates tables and indexes where they are missing.

use sqlx::Sqlite;

use crate::backend::schema::SchemaSql;

impl SchemaSql for Sqlite {
    const CREATE_OPERATIONS: &'static str = "CREATE TABLE IF NOT EXISTS atomically_operation (
        id BLOB PRIMARY KEY,
        recorded_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) WITHOUT ROWID";
}
