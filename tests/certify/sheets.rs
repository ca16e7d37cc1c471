//! The sheets of the servers that the tests can start, as snapshots.
//!
//! Review a changed sheet, and accept it with `UPDATE_SNAPSHOTS=1`.

use atomically::testing::{Sheet, certify};
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Postgres, Sqlite};
use tokio::task::spawn_blocking;

use crate::support::TestBackend;
use crate::support::servers::Server;
use crate::support::servers::galera::Cluster;

fn file(name: &str) -> String {
    format!("{}/tests/snapshots/sheet.{name}.txt", env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn snapshot(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_default()
}

/// Compares the standings with those in the file, and shows the evidence of those that differ.
fn compare(sheet: &Sheet, name: &str) {
    let file = file(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&file, sheet.outline()).expect("write the snapshot");
    }
    assert_eq!(
        sheet.outline(),
        snapshot(name),
        "differs from {file}; review the change, and accept it with UPDATE_SNAPSHOTS=1:\n{sheet}"
    );
}

/// The server does what the crate believes of it, and its sheet is that of the snapshot.
async fn certified<DB: TestBackend>(name: &str) {
    let pool = DB::pool(2).await;
    let sheet = certify(&pool.pool).run().await.expect("a sheet");
    sheet.assert_no_findings();
    // The URL of the server may name one of MySQL.
    compare(&sheet, if sheet.engine.starts_with("MySQL") { "mysql_9" } else { name });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_has_the_sheet_of_the_snapshot() {
    certified::<Postgres>("postgresql").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_has_the_sheet_of_the_snapshot() {
    let _turn = crate::turn().await;
    certified::<MySql>("mariadb").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_has_the_sheet_of_the_snapshot() {
    certified::<Sqlite>("sqlite").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn galera_has_the_sheet_of_the_snapshot() {
    let cluster = spawn_blocking(Cluster::start).await.expect("a cluster");
    let mut pools = cluster
        .urls()
        .into_iter()
        .map(|url| PoolOptions::<MySql>::new().max_connections(2).connect_lazy(&url).expect("a URL"));
    let pool = pools.next().expect("a node");
    let sheet = certify(&pool).nodes(pools).run().await.expect("a sheet");
    sheet.assert_no_findings();
    compare(&sheet, "galera");
}

/// What a transaction pooler takes away is a finding where the driver relies on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbouncer_has_the_sheet_of_the_snapshot() {
    let start = || {
        let server = Server::postgres();
        (server.pgbouncer(false), server)
    };
    let (pooler, _server) = spawn_blocking(start).await.expect("a pooler and a server");
    let pool = PoolOptions::<Postgres>::new().max_connections(2).connect_lazy(pooler.url()).expect("a URL");
    let sheet = certify(&pool).run().await.expect("a sheet");
    let findings: Vec<_> = sheet.findings().into_iter().map(|finding| finding.id).collect();
    compare(&sheet, "pgbouncer");
    assert_eq!(findings, ["sessions.prepared-statements", "sessions.notifications"]);
}
