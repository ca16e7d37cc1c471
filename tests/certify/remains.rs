//! Nothing is left behind: after a success, a failure, and when the future is dropped.

use atomically::testing::certify;
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Pool, Postgres, Sqlite};
use tokio::sync::mpsc;

use crate::liar::{liar, rewrite};
use crate::support::{ServerBackend, TestBackend, TestPool, eventually};

/// How many schemas, databases and tables of certifications there are.
trait Remains: TestBackend {
    const COUNT: &'static str;
}

impl Remains for Postgres {
    const COUNT: &'static str =
        "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'atomically_certify%')
        + (SELECT count(*) FROM pg_class WHERE relname LIKE 'atomically_certify%')";
}

impl Remains for MySql {
    const COUNT: &'static str = "SELECT COUNT(*) FROM (SELECT schema_name FROM information_schema.schemata
        WHERE schema_name LIKE 'atomically_certify%' UNION ALL
        SELECT table_name FROM information_schema.tables
        WHERE table_name LIKE 'atomically_certify%') AS remains";
}

impl Remains for Sqlite {
    const COUNT: &'static str = "SELECT count(*) FROM sqlite_master WHERE name LIKE 'atomically_certify%'";
}

async fn remains<DB: Remains>(pool: &TestPool<DB>) -> i64 {
    DB::pool_fetch(pool, DB::sql(DB::COUNT), &[]).await.expect("the names")
}

fn same_server<DB: Remains>(url: &str) -> Pool<DB> {
    PoolOptions::<DB>::new().max_connections(2).connect_lazy(url).expect("a URL")
}

/// Drops the future before this check, and waits until nothing is left.
async fn dropped_before<DB: Remains>(pool: &TestPool<DB>, check: &'static str) {
    for _ in 0..20 {
        if is_dropped_before(pool, check).await {
            eventually(0, async || remains(pool).await).await;
            return;
        }
    }
    panic!("the machine was too busy each time to drop it before its end");
}

async fn is_dropped_before<DB: Remains>(pool: &TestPool<DB>, check: &'static str) -> bool {
    let (reached, mut at) = mpsc::unbounded_channel();
    let certified = same_server::<DB>(&pool.url);
    let task = tokio::spawn(async move {
        let notify = move |progress: &atomically::testing::CertifyProgress| {
            if progress.check == check {
                reached.send(()).expect("a test that waits");
            }
        };
        certify(&certified).progress(notify).only(["savepoints.", check]).run().await
    });
    at.recv().await.expect("the check is reached");
    let has_remains = remains(pool).await > 0;
    task.abort();
    let is_dropped = task.await.is_err();
    assert!(has_remains || !is_dropped, "there is nothing to clean up");
    is_dropped
}

async fn nothing_is_left<DB: Remains>(pool: &TestPool<DB>, during: &'static str) {
    let checks = ["commit.", "ddl."];
    certify(&pool.pool).only(checks).run().await.expect("a sheet");
    assert_eq!(remains(pool).await, 0);
    dropped_before(pool, during).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_on_postgresql() {
    nothing_is_left(&Postgres::pool(2).await, "limits.statement-timeout").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_on_mariadb() {
    let _turn = crate::turn().await;
    nothing_is_left(&MySql::pool(2).await, "limits.statement-timeout").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_on_sqlite() {
    nothing_is_left(&Sqlite::pool(2).await, "unique-key.fence").await;
}

/// Its tables are then in the database of the pool, with a prefix.
async fn without_a_schema<DB: ServerBackend + Remains>(create: &'static str) {
    let pool = DB::pool(2).await;
    let url = liar(&pool.url, &[rewrite(create, "CREATE NOTHING")]).await;
    let sheet = certify(&same_server::<DB>(&url)).only(["commit.stored", "ddl."]).run().await;
    sheet.expect("a sheet").assert_held(["commit.stored"]);
    assert_eq!(remains(&pool).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_without_the_right_to_create_schemas_is_certified() {
    without_a_schema::<Postgres>("CREATE SCHEMA").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mariadb_without_the_right_to_create_databases_is_certified() {
    let _turn = crate::turn().await;
    without_a_schema::<MySql>("CREATE DATABASE").await;
}

/// A check fails whose session the server has ended, and the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_after_sessions_were_killed() {
    let pool = Postgres::pool(2).await;
    let url =
        liar(&pool.url, &[rewrite("SAVEPOINT certify", "SELECT pg_terminate_backend(pg_backend_pid())")])
            .await;
    let sheet = certify(&same_server::<Postgres>(&url)).only(["savepoints.", "ddl."]).run().await;
    let sheet = sheet.expect("a sheet");
    sheet.assert_held(["ddl.transactional"]);
    assert_ne!(sheet.standing("savepoints.undo"), Some(atomically::testing::Standing::Held), "{sheet}");
    assert_eq!(remains(&pool).await, 0);
}

#[tokio::test]
async fn a_database_in_memory_is_refused() {
    let error = certify(&same_server::<Sqlite>("sqlite::memory:")).run().await.expect_err("no sheet");
    assert_eq!(error.kind(), atomically::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("use a file"), "{error}");
}
