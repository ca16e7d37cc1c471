//! SQLite.

use sqlx::Sqlite;
use sqlx::sqlite::SqliteQueryResult;

use super::wire::Driver;
use super::{Backend, sealed};

mod additions;
mod arguments;
mod certification;
mod commit_marker;
mod contents;
mod engine;
mod errors;
mod folded;
mod locks;
mod messages;
mod schema;
mod single_statement;
mod statements;
mod transaction;

impl Backend for Sqlite {}
impl sealed::Sealed for Sqlite {}

impl Driver for Sqlite {
    /// The driver runs statements on a worker thread. If the thread panics, for example because another
    /// connection has altered the table of a row, the statement ends without an error and without a row.
    const ENDS_SILENTLY: bool = true;

    fn rows_affected(result: &SqliteQueryResult) -> u64 {
        result.rows_affected()
    }
}
