//! What callers are told when a run fails, and that failures which look alike are told apart.

#![allow(dead_code, reason = "SQLite has no use for what takes a server")]

mod deadlines;
mod deadlocks;
mod gates;
mod hooks;
mod packets;
#[path = "../support/mod.rs"]
mod support;
mod unique;
mod versions;
mod worker;

use std::time::Duration;

use atomically::{Error, Tx};
use support::{TestBackend, TestPool, on_every_database};

/// Only to tell "in time" from "never", on the busiest of machines.
const FOR_EVER: Duration = Duration::from_secs(60);

on_every_database!(
    hooks::on_rollback_runs_when_the_next_attempt_cannot_open,
    unique::a_violation_that_a_savepoint_rescued_is_not_retried,
    unique::a_violation_that_ends_the_unit_is_retried,
    versions::a_comparison_with_null_is_not_retried,
    versions::a_null_that_is_assigned_is_not_a_comparison,
);

mod servers {
    crate::support::on_every_database!(@on postgres sqlx::Postgres,
        deadlines::a_lock_wait_that_meets_the_deadline_is_a_lock_timeout
    );
    crate::support::on_every_database!(@on mariadb sqlx::MySql,
        deadlines::a_lock_wait_that_meets_the_deadline_is_a_lock_timeout
    );
}

/// Two rows, `1` and `2`, with a value and a version that may be NULL.
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
