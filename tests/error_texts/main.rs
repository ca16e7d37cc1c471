//! The error and the log lines of every way in which a run can fail, as snapshots: one file per database.
//!
//! Each text must say what failed, where, why, and what to do. Review a changed text, and accept it with
//! `UPDATE_SNAPSHOTS=1`.

mod connecting;
mod misuse;
mod statements;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod waiting;

use atomically::Key;
use sqlx::{MySql, Postgres, Sqlite};
use support::TestBackend;
use table::Table;

/// Runs on one thread, so that the log of the thread is the log of the test.
#[tokio::test]
async fn every_failure_on_postgresql_says_what_to_do() {
    let mut table = Table::new::<Postgres>("postgresql");
    on_a_server::<Postgres>(&mut table).await;
    connecting::with_parameters::<Postgres>(&mut table, "sslmode=require", "host=/no/such/directory").await;
    connecting::to_a_full_postgres(&mut table).await;
    connecting::with_a_wrong_password_on_postgres(&mut table).await;
    statements::an_exclusion_constraint(&mut table).await;
    table.compare();
}

#[tokio::test]
async fn every_failure_on_mariadb_says_what_to_do() {
    let mut table = Table::new::<MySql>("mariadb");
    // MySQL's own messages differ.
    let pool = MySql::pool(1).await;
    let version: String =
        sqlx::query_scalar("SELECT VERSION()").fetch_one(&*pool).await.expect("the version");
    if !version.contains("MariaDB") {
        return;
    }
    on_a_server::<MySql>(&mut table).await;
    connecting::with_parameters::<MySql>(&mut table, "ssl-mode=REQUIRED", "socket=/no/such/socket").await;
    connecting::to_a_full_mariadb(&mut table).await;
    connecting::with_a_wrong_password_on_mariadb(&mut table).await;
    misuse::with_an_implicit_commit(&mut table).await;
    table.compare();
}

#[tokio::test]
async fn every_failure_on_sqlite_says_what_to_do() {
    let mut table = Table::new::<Sqlite>("sqlite");
    connecting::without_a_server(&mut table).await;
    on_any_database::<Sqlite>(&mut table).await;
    waiting::for_a_writer(&mut table).await;
    misuse::on_sqlite(&mut table).await;
    table.compare();
}

async fn on_any_database<DB: TestBackend>(table: &mut Table) {
    connecting::with_an_exhausted_pool::<DB>(table).await;
    statements::that_fail::<DB>(table).await;
    statements::that_violate_constraints::<DB>(table).await;
    statements::that_conflict::<DB>(table).await;
    waiting::in_this_process::<DB>(table).await;
    misuse::of_transactions::<DB>(table).await;
    misuse::of_runs::<DB>(table).await;
}

async fn on_a_server<DB: TestBackend>(table: &mut Table)
where
    i64: Key<DB>,
{
    connecting::to_a_server::<DB>(table).await;
    connecting::to_a_server_that_does_not_answer::<DB>(table).await;
    on_any_database::<DB>(table).await;
    statements::without_a_value::<DB>(table).await;
    statements::that_deadlock::<DB>(table).await;
    waiting::for_locks::<DB>(table).await;
    waiting::for_a_silent_server::<DB>(table).await;
    misuse::of_locks::<DB>(table).await;
}
