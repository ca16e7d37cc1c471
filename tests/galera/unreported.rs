//! Transactions that a node rolls back without reporting it: what they send afterwards is not stored, and
//! their units run again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use atomically::{Error, ErrorKind, Event, FailureKind, Pessimistic, TransactorExt as _, Tx, UnitEvent};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{MySql, Pool};
use tokio::time::Instant;

use crate::{Database, all};

const CLIENTS_OF_A_NODE: usize = 3;
const LOAD: Duration = Duration::from_secs(6);

const TABLES: [&str; 3] = [
    "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
    "CREATE TABLE addition (id BIGINT PRIMARY KEY AUTO_INCREMENT, counter BIGINT NOT NULL)",
    "INSERT INTO counter VALUES (1, 0), (2, 0)",
];

/// The unit ends its transaction on the connection itself, as a node does that reports nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_after_an_unseen_end_are_not_stored() {
    let database = Database::with(&TABLES).await;
    let pool = &database.pools[0];
    let db = Pessimistic::default().on(pool);
    let unit = async |tx: &mut Tx<MySql>| {
        sqlx::query("UPDATE counter SET value = value + 1 WHERE id = 1").execute(&mut *tx).await?;
        sqlx::raw_sql("ROLLBACK").execute(tx.connection()?).await?;
        sqlx::query("INSERT INTO addition (counter) VALUES (1)").execute(&mut *tx).await?;
        Ok::<_, Error>(())
    };
    let error = db.run(unit).await.expect_err("the transaction is gone");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
    let stored: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM addition").fetch_one(pool).await.expect("a count");
    assert_eq!(stored, 0);
    let commits: i64 = sqlx::query_scalar("SELECT @@autocommit").fetch_one(pool).await.expect("a setting");
    assert_eq!(commits, 1, "other users of the pool need it");
}

/// A node may lose the report while it prepares a statement. One that is not kept is prepared by each unit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_run_again_after_an_unreported_rollback() {
    let database = Database::with(&TABLES).await;
    let unreported = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for (pool, url) in database.pools.iter().zip(&database.urls) {
        // Over TCP, the request that closes such a statement delays the next one.
        let socket: String = sqlx::query_scalar("SELECT @@socket").fetch_one(pool).await.expect("a path");
        let options: MySqlConnectOptions = url.parse().expect("a URL");
        let pool = MySqlPoolOptions::new().max_connections(3).connect_with(options.socket(socket)).await;
        let pool = pool.expect("connections to a node");
        clients.extend((0..CLIENTS_OF_A_NODE).map(|_| add(pool.clone(), unreported.clone())));
    }
    let added: u64 = all(clients).await.into_iter().sum();
    let totals = database
        .audited(async |mut node| {
            let mut totals = Vec::<i64>::new();
            for sql in ["SELECT CAST(SUM(value) AS SIGNED) FROM counter", "SELECT COUNT(*) FROM addition"] {
                totals.push(sqlx::query_scalar(sql).fetch_one(&mut node).await.expect(sql));
            }
            totals
        })
        .await;
    println!("{added} additions, {} rollbacks were not reported", unreported.load(SeqCst));
    assert_eq!(totals, [added.cast_signed(); 2]);
    assert!(added > 100, "{added} additions");
}

async fn add(pool: Pool<MySql>, unreported: Arc<AtomicU64>) -> u64 {
    let count = move |event: &Event<'_>| {
        let Event::Unit { event: UnitEvent::AttemptFailed { failure, .. }, .. } = event else { return };
        if failure.kind() == FailureKind::SerializationFailure {
            unreported.fetch_add(1, SeqCst);
        }
    };
    let db = Pessimistic::default().on(&pool).attempts(1_000).observed_by(count);
    let (start, mut added) = (Instant::now(), 0);
    while start.elapsed() < LOAD {
        let counter = rand::random_range(1..=2_i64);
        let unit = async |tx: &mut Tx<MySql>| {
            for sql in [
                "SELECT value FROM counter WHERE id = ? FOR UPDATE",
                "UPDATE counter SET value = value + 1 WHERE id = ?",
                "SELECT value FROM counter WHERE id = ?",
                "INSERT INTO addition (counter) VALUES (?)",
            ] {
                sqlx::query(sql).bind(counter).persistent(false).execute(&mut *tx).await?;
            }
            Ok::<_, Error>(())
        };
        db.run(unit).await.expect("an addition");
        added += 1;
    }
    added
}
