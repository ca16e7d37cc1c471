//! The errors of runs that fail, and the distinction of failures that look alike.

#![allow(dead_code, reason = "SQLite does not use the helpers for servers")]

mod deadlines;
mod deadlocks;
mod gates;
mod hooks;
mod keys;
mod packets;
mod status;
#[path = "../support/mod.rs"]
mod support;
mod unique;
mod versions;
mod worker;

use std::time::Duration;

use atomically::{Error, Tx};
use support::{TestBackend, TestPool, on_every_database};

/// Distinguishes a slow test from one that hangs.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

on_every_database!(
    keys::locking_by_key_names_the_table_the_column_and_the_type,
    hooks::on_rollback_runs_when_the_next_attempt_cannot_open,
    status::a_missing_row_is_not_found,
    status::a_missing_table_of_the_crate_has_a_kind_of_its_own,
    status::a_violated_constraint_is_not_an_internal_error,
    unique::a_violation_within_a_savepoint_is_not_retried,
    unique::a_violation_that_ends_the_unit_is_retried,
    versions::a_comparison_with_null_is_not_retried,
    versions::other_uses_of_null_are_retried,
);

mod servers {
    crate::support::on_every_database!(@on postgres sqlx::Postgres,
        deadlines::a_lock_wait_that_meets_the_deadline_is_a_lock_timeout
    );
    crate::support::on_every_database!(@on mariadb sqlx::MySql,
        deadlines::a_lock_wait_that_meets_the_deadline_is_a_lock_timeout
    );
}

/// A table with rows `1` and `2`, each with a value and a nullable version.
async fn counter<DB: TestBackend>(connections: u32) -> TestPool<DB> {
    let pool = DB::pool(connections).await;
    for sql in [
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL, version BIGINT)",
        "INSERT INTO counter VALUES (1, 0, 0), (2, 0, 0)",
    ] {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("set up");
    }
    pool
}

async fn add_one<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    DB::execute(tx, DB::sql("UPDATE counter SET value = value + 1 WHERE id = 1"), &[]).await?;
    Ok(())
}
