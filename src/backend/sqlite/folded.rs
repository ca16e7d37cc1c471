//! Statements that share a text with BEGIN or COMMIT: none, because there is no round trip to save.

use sqlx::Sqlite;

use crate::backend::folded::FoldedSql;

impl FoldedSql for Sqlite {}
