//! What is silent otherwise is named.

use atomically::queue::{Fault, Queue};
use sqlx::{MySql, Postgres, Sqlite};

use crate::support::TestBackend as _;
use crate::{QueueTest, queue};

async fn faults<DB: QueueTest>(queue: &Queue<DB>) -> Vec<(Fault, String)> {
    let findings = queue.doctor().await.expect("an answer");
    findings.into_iter().map(|finding| (finding.fault, finding.message)).collect()
}

pub(crate) async fn nothing_is_wrong<DB: QueueTest>() {
    let (_pool, queue) = queue::<DB>(2).await;
    queue.create_tables().await.expect("they are there already");
    assert_eq!(faults(&queue).await, []);
}

pub(crate) async fn what_is_missing_is_named<DB: QueueTest>() {
    let pool = DB::pool(2).await;
    let queue = Queue::new("jobs", &pool).expect("a name");
    let faults = faults(&queue).await;
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults.contains(&(Fault::Missing, "there is no table atomically_job".to_owned())), "{faults:?}");
}

/// The fault that this change makes, and a word of what is said about it.
async fn finds<DB: QueueTest>(
    queue: &Queue<DB>,
    pool: &sqlx::Pool<DB>,
    change: &str,
    fault: Fault,
    word: &str,
) {
    for change in change.split(';') {
        DB::pool_execute(pool, DB::sql(change), &[]).await.expect("a change");
    }
    let faults = faults(queue).await;
    assert!(
        matches!(&faults[..], [(found, message)] if *found == fault && message.contains(word)),
        "{change}: {faults:?}"
    );
}

pub(crate) async fn a_missing_index_is_named<DB: QueueTest>() {
    for (index, word) in [("atomically_job_claim", "due_at"), ("atomically_job_unique", "unique")] {
        let (pool, queue) = queue::<DB>(2).await;
        let on = if pool.url.starts_with("mysql") { " ON atomically_job" } else { "" };
        finds(&queue, &pool, &format!("DROP INDEX {index}{on}"), Fault::Index, word).await;
    }
}

#[tokio::test]
async fn mariadb_with_another_engine_is_named() {
    let (pool, queue) = queue::<MySql>(2).await;
    finds(&queue, &pool, "ALTER TABLE atomically_job ENGINE = MyISAM", Fault::Engine, "MyISAM").await;
}

#[tokio::test]
async fn mariadb_with_another_collation_is_named() {
    let (pool, queue) = queue::<MySql>(2).await;
    let change = "ALTER TABLE atomically_job MODIFY queue VARCHAR(100) CHARACTER SET utf8mb4 NOT NULL";
    finds(&queue, &pool, change, Fault::Collation, "queue").await;
}

#[tokio::test]
async fn mariadb_with_an_index_in_another_order_is_named() {
    let (pool, queue) = queue::<MySql>(2).await;
    let change = "DROP INDEX atomically_job_claim ON atomically_job;
        CREATE INDEX atomically_job_claim ON atomically_job (queue, due_at, priority, id)";
    finds(&queue, &pool, change, Fault::Index, "queue,priority,due_at,id").await;
}

#[tokio::test]
async fn postgres_that_does_not_log_is_named() {
    let (pool, queue) = queue::<Postgres>(2).await;
    finds(&queue, &pool, "ALTER TABLE atomically_job SET UNLOGGED", Fault::Engine, "not logged").await;
}

#[tokio::test]
async fn postgres_with_another_collation_is_named() {
    let (pool, queue) = queue::<Postgres>(2).await;
    let change = "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        ALTER TABLE atomically_job ALTER unique_key TYPE TEXT COLLATE loose";
    finds(&queue, &pool, change, Fault::Collation, "unique_key").await;
}

#[tokio::test]
async fn sqlite_without_wal_is_named() {
    let (pool, _) = queue::<Sqlite>(1).await;
    let change = "PRAGMA journal_mode = DELETE";
    sqlx::query(change).execute(&pool.pool).await.expect("a change");
    let queue = Queue::new("jobs", &pool).expect("a name");
    assert_eq!(faults(&queue).await.first().map(|(fault, _)| *fault), Some(Fault::Journal));
}

#[tokio::test]
async fn sqlite_that_gives_ids_out_again_is_named() {
    let pool = Sqlite::pool(1).await;
    let queue = Queue::new("jobs", &pool).expect("a name");
    let schema = Queue::<Sqlite>::schema();
    let changed =
        schema.replace(" AUTOINCREMENT", "").replace("unique_key TEXT", "unique_key TEXT COLLATE NOCASE");
    assert_ne!(changed, schema);
    sqlx::raw_sql(sqlx::AssertSqlSafe(changed)).execute(&pool.pool).await.expect("the tables");
    let faults: Vec<_> = faults(&queue).await.into_iter().map(|(fault, _)| fault).collect();
    assert_eq!(faults, [Fault::Engine, Fault::Collation]);
}
