//! Many tasks increment one row, and no update is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{
    Adaptive, Atomic, Attempt, Error, Isolation, Optimistic, Pessimistic, Plan, PoolTransactor, RowLock,
    Serializable, Strategy, TransactorExt as _, Tx,
};
use sqlx::Pool;
use tokio::task::JoinSet;

use crate::support::{TestBackend, TestPool};

const TASKS: u32 = 64;
const ROUNDS: u32 = 200;
const INCREMENTS: i64 = (TASKS * ROUNDS) as i64;

pub(crate) async fn counter<DB: TestBackend>(connections: u32) -> TestPool<DB> {
    let pool = DB::pool(connections).await;
    let create =
        "CREATE TABLE counter (id BIGINT PRIMARY KEY, value BIGINT NOT NULL, version BIGINT NOT NULL)";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    DB::pool_execute(&pool, DB::sql("INSERT INTO counter VALUES (1, 0, 0), (2, 0, 0)"), &[])
        .await
        .expect("insert two rows");
    pool
}

pub(crate) async fn value<DB: TestBackend>(pool: &Pool<DB>) -> i64 {
    DB::pool_fetch(pool, DB::sql("SELECT value FROM counter WHERE id = 1"), &[]).await.expect("the counter")
}

/// Reads the value, adds one and writes it with a version check, which is correct under every strategy.
pub(crate) async fn increment<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    let select = tx.for_update(DB::sql("SELECT value * 1000000 + version FROM counter WHERE id = 1"));
    let read = DB::fetch(tx, select, &[]).await?;
    let (value, version) = (read / 1_000_000, read % 1_000_000);
    let update = DB::sql("UPDATE counter SET value = ?, version = version + 1 WHERE id = 1 AND version = ?");
    let done = DB::execute(tx, update, &[value + 1, version]).await?;
    tx.expect_one(done)
}

/// A transactor with limits that suffice for the slowest strategy on a busy machine: the tests check results,
/// not times.
pub(crate) fn patient<DB: TestBackend, S: Strategy>(strategy: S, pool: &Pool<DB>) -> PoolTransactor<DB, S> {
    PoolTransactor::new(strategy, pool).attempts(10_000).deadline(Duration::from_secs(240))
}

/// Runs `operation` `ROUNDS` times in each of `TASKS` tasks. Returns the final value.
async fn run_concurrently<DB, F>(
    pool: &TestPool<DB>,
    operation: impl Fn() -> F + Clone + Send + 'static,
) -> i64
where
    DB: TestBackend,
    F: Future<Output = ()> + Send,
{
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let operation = operation.clone();
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                operation().await;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("every increment succeeds");
    }
    value(pool).await
}

struct Increments {
    final_value: i64,
    attempts: u32,
}

async fn count_increments<DB: TestBackend, S: Strategy + Clone>(strategy: S) -> Increments {
    let pool = counter::<DB>(8).await;
    let db = patient(strategy, &pool);
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = attempts.clone();
    let final_value = run_concurrently(&pool, move || {
        let (db, counted) = (db.clone(), counted.clone());
        async move {
            db.run(async |tx: &mut Tx<DB>| {
                counted.fetch_add(1, Ordering::Relaxed);
                increment(tx).await
            })
            .await
            .expect("an increment");
        }
    })
    .await;
    Increments { final_value, attempts: attempts.load(Ordering::Relaxed) }
}

pub(crate) async fn pessimistic_is_exact<DB: TestBackend>() {
    let Increments { final_value, attempts } = count_increments::<DB, _>(Pessimistic::default()).await;
    assert_eq!(final_value, INCREMENTS);
    assert!(
        attempts < TASKS * ROUNDS * 11 / 10,
        "row locks make conflicts rare, but there were {attempts} attempts"
    );
}

pub(crate) async fn adaptive_is_exact<DB: TestBackend>() {
    let Increments { final_value, attempts } = count_increments::<DB, _>(Adaptive::default()).await;
    assert_eq!(final_value, INCREMENTS);
    assert!(attempts > TASKS * ROUNDS, "no conflict occurred, so the test proves nothing");
}

pub(crate) async fn optimistic_is_exact_and_retries<DB: TestBackend>() {
    let Increments { final_value, attempts } = count_increments::<DB, _>(Optimistic::default()).await;
    assert_eq!(final_value, INCREMENTS);
    assert!(attempts > TASKS * ROUNDS, "no conflict occurred, so the test proves nothing");
}

pub(crate) async fn serializable_is_exact_and_retries<DB: TestBackend>() {
    let Increments { final_value, attempts } = count_increments::<DB, _>(Serializable::default()).await;
    assert_eq!(final_value, INCREMENTS);
    assert!(attempts > TASKS * ROUNDS, "no conflict occurred, so the test proves nothing");
}

pub(crate) async fn atomic_is_exact<DB: TestBackend>() {
    let pool = counter::<DB>(8).await;
    let db = patient(Atomic::default(), &pool);
    let value = run_concurrently(&pool, move || {
        let db = db.clone();
        async move {
            db.run(async |tx: &mut Tx<DB>| {
                let update = DB::sql("UPDATE counter SET value = value + 1 WHERE id = 1");
                let done = DB::execute(tx, update, &[]).await?;
                tx.expect_one(done)
            })
            .await
            .expect("an increment");
        }
    })
    .await;
    assert_eq!(value, INCREMENTS);
}

pub(crate) async fn atomic_apply_is_exact<DB: TestBackend>() {
    let pool = counter::<DB>(8).await;
    let db = patient(Atomic::default(), &pool);
    let value = run_concurrently(&pool, move || {
        let db = db.clone();
        async move {
            let update = DB::sql("UPDATE counter SET value = value + 1 WHERE id = 1");
            assert_eq!(db.apply(sqlx::raw_sql(update)).await.expect("an increment"), 1);
        }
    })
    .await;
    assert_eq!(value, INCREMENTS);
}

pub(crate) async fn custom_strategy_is_exact<DB: TestBackend>() {
    /// Locks no rows in the first attempt, and locks them in later ones.
    #[derive(Debug, Clone)]
    struct LockOnSecond;
    impl Strategy for LockOnSecond {
        fn plan(&self, attempt: &Attempt) -> Plan {
            let plan = Plan::new(Isolation::ReadCommitted);
            if attempt.number == 1 { plan } else { plan.locking(RowLock::NO_KEY_UPDATE) }
        }
    }

    let Increments { final_value, attempts } = count_increments::<DB, _>(LockOnSecond).await;
    assert_eq!(final_value, INCREMENTS);
    assert!(attempts > TASKS * ROUNDS, "no conflict occurred, so the test proves nothing");
}

/// Shows that the increments overlap: without any protection the same load loses updates.
pub(crate) async fn unprotected_increments_lose_updates<DB: TestBackend>() {
    let pool = counter::<DB>(8).await;
    let shared = pool.pool.clone();
    let value = run_concurrently(&pool, move || {
        let pool = shared.clone();
        async move {
            let read = value(&pool).await;
            let update = DB::sql("UPDATE counter SET value = ? WHERE id = 1");
            DB::pool_execute(&pool, update, &[read + 1]).await.expect("a write");
        }
    })
    .await;
    assert!(value < INCREMENTS, "the increments did not overlap: all {value} of them are stored");
}
