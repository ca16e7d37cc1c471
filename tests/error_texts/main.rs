//! What an error and the log say of every way in which a run can fail, kept as snapshots: one file for each
//! database.
//!
//! Whoever reads such a line at night must find in it what failed, where, why, and what to do. A change of a
//! text shows up here; look at it, and keep it with `UPDATE_SNAPSHOTS=1`.

mod connecting;
mod misuse;
mod statements;
#[path = "../support/mod.rs"]
mod support;
mod table;
mod waiting;

use sqlx::{MySql, Postgres, Sqlite};
use support::TestBackend;
use table::Table;

/// On one thread, so that the log of this test is that of this thread.
#[tokio::test]
async fn every_failure_on_postgresql_says_what_to_do() {
    let mut table = Table::new::<Postgres>();
    on_a_server::<Postgres>(&mut table).await;
    connecting::with_a_wrong_password_on_postgres(&mut table).await;
    statements::an_exclusion_constraint(&mut table).await;
    table.compare("postgresql");
}

#[tokio::test]
async fn every_failure_on_mariadb_says_what_to_do() {
    let mut table = Table::new::<MySql>();
    // MySQL has other words for some of them.
    let pool = MySql::pool(1).await;
    let version: String =
        sqlx::query_scalar("SELECT VERSION()").fetch_one(&*pool).await.expect("the version");
    if !version.contains("MariaDB") {
        return;
    }
    on_a_server::<MySql>(&mut table).await;
    connecting::with_a_wrong_password_on_mariadb(&mut table).await;
    misuse::what_commits_implicitly(&mut table).await;
    table.compare("mariadb");
}

#[tokio::test]
async fn every_failure_on_sqlite_says_what_to_do() {
    let mut table = Table::new::<Sqlite>();
    connecting::without_a_server(&mut table).await;
    on_any_database::<Sqlite>(&mut table).await;
    waiting::for_a_writer(&mut table).await;
    misuse::on_sqlite(&mut table).await;
    table.compare("sqlite");
}

async fn on_any_database<DB: TestBackend>(table: &mut Table) {
    connecting::with_a_pool_that_gives_none::<DB>(table).await;
    statements::that_fail::<DB>(table).await;
    statements::that_violate_constraints::<DB>(table).await;
    statements::that_conflict::<DB>(table).await;
    waiting::in_this_process::<DB>(table).await;
    misuse::of_transactions::<DB>(table).await;
    misuse::of_runs::<DB>(table).await;
}

async fn on_a_server<DB: TestBackend>(table: &mut Table) {
    connecting::to_a_server::<DB>(table).await;
    on_any_database::<DB>(table).await;
    statements::without_a_value::<DB>(table).await;
    statements::that_deadlock::<DB>(table).await;
    waiting::for_locks::<DB>(table).await;
    waiting::for_a_silent_server::<DB>(table).await;
    misuse::of_locks::<DB>(table).await;
}
