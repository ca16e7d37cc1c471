//! MySQL, MariaDB, and products that speak their protocol: Galera, TiDB.

use sqlx::MySql;
use sqlx::mysql::MySqlQueryResult;

use super::wire::Driver;
use super::{Backend, sealed};

mod additions;
mod arguments;
mod bound_values;
mod certification;
mod commit_marker;
mod contents;
mod deadlock;
mod engine;
mod errors;
mod folded;
mod innodb_status;
mod locks;
mod mask;
mod messages;
mod schema;
mod statements;
mod transaction;

impl Backend for MySql {}
impl sealed::Sealed for MySql {}

impl Driver for MySql {
    const LEAVES_RESULTS_UNREAD: bool = true;

    fn rows_affected(result: &MySqlQueryResult) -> u64 {
        result.rows_affected()
    }
}
