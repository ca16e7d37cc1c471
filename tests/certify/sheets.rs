//! The sheets of the servers that the tests can start, as snapshots.
//!
//! Review a changed sheet, and accept it with `UPDATE_SNAPSHOTS=1`.

use atomically::testing::{Sheet, certify};
use sqlx::{MySql, Postgres, Sqlite};

use crate::support::TestBackend;

/// Compares the standings with those in the file, and shows the evidence of those that differ.
fn compare(sheet: &Sheet, name: &str) {
    let file = format!("{}/tests/snapshots/sheet.{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&file, sheet.outline()).expect("write the snapshot");
    }
    let snapshot = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        sheet.outline(),
        snapshot,
        "differs from {file}; review the change, and accept it with UPDATE_SNAPSHOTS=1:\n{sheet}"
    );
}

async fn certified<DB: TestBackend>(name: &str) {
    let pool = DB::pool(2).await;
    let sheet = certify(&pool.pool).run().await.expect("a sheet");
    println!("{sheet}");
    compare(&sheet, name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_has_the_sheet_of_the_snapshot() {
    certified::<Postgres>("postgresql").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_has_the_sheet_of_the_snapshot() {
    certified::<MySql>("mariadb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_has_the_sheet_of_the_snapshot() {
    certified::<Sqlite>("sqlite").await;
}
