//! Units that lock, count and insert never draw the same number.

use std::time::Duration;

use atomically::{
    Attempt, Error, ErrorKind, Isolation, Plan, PoolTransactor, Strategy, TransactorExt as _, Tx,
};
use sqlx::{MySql, Postgres};
use tokio::task::JoinSet;

use crate::support::{TestBackend, TestPool};

#[derive(Debug, Clone, Copy)]
struct At(Isolation);

impl Strategy for At {
    fn plan(&self, _attempt: &Attempt) -> Plan {
        Plan::new(self.0)
    }
}

async fn numbers<DB: TestBackend>() -> TestPool<DB> {
    let pool = DB::pool(8).await;
    let create = DB::sql("CREATE TABLE number (n BIGINT NOT NULL)");
    DB::pool_execute(&pool, create, &[]).await.expect("a table");
    pool
}

/// Draws numbers in several concurrent tasks; returns the committed ones.
async fn draw<DB: TestBackend>(pool: &TestPool<DB>, isolation: Isolation) -> Result<Vec<i64>, Error> {
    let db = PoolTransactor::new(At(isolation), pool).attempts(10_000).deadline(Duration::from_secs(120));
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let db = db.clone();
        tasks.spawn(async move {
            let mut drawn = Vec::new();
            for _ in 0..10 {
                let number = db.run(async |tx: &mut Tx<DB>| {
                    tx.advisory_lock("numbers").await?;
                    let number = DB::fetch(tx, DB::sql("SELECT count(*) FROM number"), &[]).await? + 1;
                    DB::execute(tx, DB::sql("INSERT INTO number VALUES (?)"), &[number]).await?;
                    Ok::<_, Error>(number)
                });
                drawn.push(number.await?);
            }
            Ok::<_, Error>(drawn)
        });
    }
    let mut all = Vec::new();
    while let Some(drawn) = tasks.join_next().await {
        all.extend(drawn.expect("no panic")?);
    }
    all.sort_unstable();
    Ok(all)
}

async fn are_distinct<DB: TestBackend>(isolation: Isolation) {
    let pool = numbers::<DB>().await;
    let drawn = draw(&pool, isolation).await.expect("numbers");
    assert_eq!(drawn, (1..=80).collect::<Vec<_>>(), "{isolation:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_advisory_locks_protect_reads() {
    are_distinct::<Postgres>(Isolation::ReadCommitted).await;
    are_distinct::<Postgres>(Isolation::Serializable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_advisory_locks_protect_reads() {
    are_distinct::<MySql>(Isolation::ReadCommitted).await;
    are_distinct::<MySql>(Isolation::RepeatableRead).await;
}

/// The snapshot is older than the lock, so the lock would not protect reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_refuses_an_advisory_lock_under_repeatable_read() {
    let pool = numbers::<Postgres>().await;
    let error = draw(&pool, Isolation::RepeatableRead).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("snapshot"), "{error}");
    let db = PoolTransactor::new(At(Isolation::RepeatableRead), &pool);
    let error = db.run(async |tx: &mut Tx<Postgres>| tx.try_advisory_lock("numbers").await).await;
    assert_eq!(error.expect_err("refused").kind(), ErrorKind::Unsupported);
}

/// The read has taken the snapshot before the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mysql_refuses_an_advisory_lock_after_a_read_under_repeatable_read() {
    let pool = numbers::<MySql>().await;
    let locks_late = async |tx: &mut Tx<MySql>| {
        MySql::fetch(tx, MySql::sql("SELECT count(*) FROM number"), &[]).await?;
        tx.advisory_lock("numbers").await
    };
    let db = PoolTransactor::new(At(Isolation::RepeatableRead), &pool);
    let error = db.run(locks_late).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("take the lock first"), "{error}");
    let db = PoolTransactor::new(At(Isolation::ReadCommitted), &pool);
    db.run(locks_late).await.expect("a lock");
}
