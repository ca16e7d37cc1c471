//! PostgreSQL, and products that speak its protocol: CockroachDB, YugabyteDB.

use sqlx::Postgres;
use sqlx::postgres::PgQueryResult;

use super::wire::Driver;
use super::{Backend, sealed};

mod additions;
mod arguments;
mod bound_values;
mod commit_marker;
mod contents;
mod deadlock;
mod engine;
mod errors;
mod folded;
mod limits;
mod literals;
mod local_settings;
mod locks;
mod messages;
pub(super) mod prepared;
mod schema;
mod single_statement;
mod statements;
mod temporal;
mod transaction;

impl Backend for Postgres {}
impl sealed::Sealed for Postgres {}

impl Driver for Postgres {
    const READS_BEYOND_FIRST_ROW: bool = true;

    const BEGIN_SENDS_ANY_TEXT: bool = true;

    fn rows_affected(result: &PgQueryResult) -> u64 {
        result.rows_affected()
    }
}
