//! Units that conflict with each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use atomically::{
    Error, FailureKind, Optimistic, Pessimistic, PoolTransactor, Strategy, TransactorExt as _, Tx,
};
use sqlx::Pool;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::scrape::{Exporter, Scrape};
use crate::support::{TestBackend, TestPool};

const UNITS: u32 = 6;

/// Two rows to contend for.
pub(crate) async fn counter<DB: TestBackend>(connections: u32) -> TestPool<DB> {
    let pool = DB::pool(connections).await;
    for sql in [
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)",
        "INSERT INTO counter VALUES (1, 0), (2, 0)",
    ] {
        DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("two rows");
    }
    pool
}

/// Sets limits that no test reaches.
pub(crate) fn patient<DB: TestBackend, S: Strategy>(strategy: S, pool: &Pool<DB>) -> PoolTransactor<DB, S> {
    PoolTransactor::new(strategy, pool).attempts(10_000).deadline(Duration::from_secs(120))
}

pub(crate) async fn add<DB: TestBackend>(tx: &mut Tx<DB>, id: i64) -> Result<(), Error> {
    DB::execute(tx, DB::sql("UPDATE counter SET value = value + 1 WHERE id = ?"), &[id]).await?;
    Ok(())
}

/// How many attempts of these units failed with a kind that the alerts count as a conflict.
fn conflicts(scrape: &Scrape, unit: &str) -> f64 {
    FailureKind::ALL
        .into_iter()
        .filter(|kind| kind.is_conflict())
        .map(|kind| scrape.sum("atomically_failures_total", &[("unit", unit), ("kind", kind.as_str())]))
        .sum()
}

/// All units read the row before any of them writes it, so all but one are retried. The metrics match the
/// numbers of attempts that the units counted.
pub(crate) async fn conflicts_are_counted<DB: TestBackend>() {
    let pool = counter::<DB>(UNITS).await;
    let exporter = Exporter::new();
    let db = patient(Optimistic::default(), &pool).observed_by(exporter.metrics.clone());
    let (attempts, all_have_read) = (Arc::new(AtomicU32::new(0)), Arc::new(Barrier::new(UNITS as usize)));
    let mut units = JoinSet::new();
    for _ in 0..UNITS {
        let (db, attempts, all_have_read) = (db.clone(), attempts.clone(), all_have_read.clone());
        units.spawn(async move {
            let storm = db.named("storm");
            storm
                .run(async |tx: &mut Tx<DB>| {
                    attempts.fetch_add(1, SeqCst);
                    let value = DB::fetch(tx, DB::sql("SELECT value FROM counter WHERE id = 1"), &[]).await?;
                    if tx.attempt() == 1 {
                        all_have_read.wait().await;
                    }
                    let update = DB::sql("UPDATE counter SET value = ? WHERE id = 1 AND value = ?");
                    let done = DB::execute(tx, update, &[value + 1, value]).await?;
                    tx.expect_one(done)
                })
                .await
        });
    }
    while let Some(unit) = units.join_next().await {
        unit.expect("no panic").expect("a commit");
    }
    let (units, attempts) = (f64::from(UNITS), f64::from(attempts.load(SeqCst)));
    assert!(attempts >= 2.0 * units - 1.0, "{attempts} attempts: no units conflicted");

    let scrape = exporter.scrape();
    let labels = [("unit", "storm"), ("strategy", "optimistic")];
    assert_eq!(scrape.sum("atomically_attempts_total", &labels), attempts);
    assert_eq!(conflicts(&scrape, "storm"), attempts - units, "{scrape:?}");
    assert_eq!(scrape.sum("atomically_failures_total", &labels), attempts - units, "of other kinds");
    assert_eq!(scrape.sum("atomically_unit_attempts_sum", &labels), attempts);
    for (name, label) in [
        ("atomically_units_total", ("outcome", "committed")),
        ("atomically_units_total", ("unit", "storm")),
        ("atomically_unit_attempts_count", ("unit", "storm")),
        ("atomically_unit_duration_seconds_count", ("unit", "storm")),
        ("atomically_unit_duration_seconds_bucket", ("le", "+Inf")),
    ] {
        assert_eq!(scrape.sum(name, &[label]), units, "{name} {label:?}");
    }
    // Each unit had an open transaction while it waited for the others, for locks and for its next attempt.
    let seconds = |name: &str| scrape.sum(&format!("atomically_{name}_seconds_sum"), &labels);
    for name in ["statement", "control", "idle_in_transaction", "pool_wait", "backoff"] {
        assert!(seconds(name) > 0.0, "no time for {name}");
    }
    assert!(seconds("lock_wait") <= seconds("statement"));
    assert_eq!(seconds("gate_wait"), 0.0);
}

/// Each unit has locked the row that the other one requests next.
pub(crate) async fn deadlocks_are_counted<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let exporter = Exporter::new();
    let db = patient(Pessimistic::default(), &pool).observed_by(exporter.metrics.clone());
    let (attempts, both_have_one) = (AtomicU32::new(0), Barrier::new(2));
    let crosses = async |first: i64, second: i64| {
        let (attempts, both_have_one) = (&attempts, &both_have_one);
        let crosses = db.named("crosses");
        crosses
            .run(async |tx: &mut Tx<DB>| {
                attempts.fetch_add(1, SeqCst);
                add(tx, first).await?;
                if tx.attempt() == 1 {
                    both_have_one.wait().await;
                }
                add(tx, second).await
            })
            .await
    };
    let (one, other) = tokio::join!(crosses(1, 2), crosses(2, 1));
    one.expect("a commit");
    other.expect("a commit");
    let deadlocks = f64::from(attempts.load(SeqCst)) - 2.0;
    assert!(deadlocks >= 1.0);
    let labels = [("unit", "crosses"), ("strategy", "pessimistic"), ("kind", "deadlock")];
    assert_eq!(exporter.scrape().sum("atomically_failures_total", &labels), deadlocks);
}
