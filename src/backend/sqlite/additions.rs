//! Additions to the numbers of rows.

use sqlx::Sqlite;

use crate::backend::additions::AdditionSql;

impl AdditionSql for Sqlite {}
