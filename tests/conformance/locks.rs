//! Locks that a unit requests explicitly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Atomic, Error, ErrorKind, Optimistic, Options, Pessimistic, TransactorExt as _, Tx};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::increments::patient;
use crate::support::{TestBackend, TestPool, eventually};

const ACCOUNTS: i64 = 6;
const BALANCE: i64 = 1000;

pub(crate) async fn bank<DB: TestBackend>(connections: u32) -> TestPool<DB> {
    let pool = DB::pool(connections).await;
    let create = "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    for id in 1..=ACCOUNTS {
        let insert = DB::sql("INSERT INTO account VALUES (?, ?)");
        DB::pool_execute(&pool, insert, &[id, BALANCE]).await.expect("an account");
    }
    pool
}

/// Returns four accounts, between which money is moved. They differ from call to call, and so does their
/// order.
fn route(n: i64) -> [i64; 4] {
    // The step varies, so that the accounts are visited in different orders.
    let step = 1 + n % 5;
    std::array::from_fn(|i| (n * 7 + i as i64 * step) % ACCOUNTS + 1)
}

/// Runs concurrent transfers that lock their rows in a common order, or in the order of their route. Returns
/// the number of retries.
async fn count_retries<DB: TestBackend>(in_order: bool, rounds: i64) -> u32 {
    let pool = bank::<DB>(8).await;
    let db = patient(Optimistic::default(), &pool);
    let attempts = Arc::new(AtomicU32::new(0));
    let clients = 8;
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let (db, attempts) = (db.clone(), attempts.clone());
        tasks.spawn(async move {
            for round in 0..rounds {
                let route = route(client * rounds + round);
                db.run(async |tx: &mut Tx<DB>| {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    if in_order {
                        assert!(DB::lock_accounts(tx, &route).await?.is_empty());
                    }
                    for (i, id) in route.into_iter().enumerate() {
                        let change = if i % 2 == 0 { -1 } else { 1 };
                        let update = DB::sql("UPDATE account SET balance = balance + ? WHERE id = ?");
                        DB::execute(tx, update, &[change, id]).await?;
                    }
                    Ok::<_, Error>(())
                })
                .await
                .expect("a transfer");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no panic");
    }
    let total = DB::pool_fetch(&pool, DB::sql(DB::TOTAL), &[]).await.expect("the total");
    assert_eq!(total, ACCOUNTS * BALANCE, "the total has changed");
    attempts.load(Ordering::Relaxed) - (clients * rounds) as u32
}

pub(crate) async fn rows_locked_in_a_common_order_never_deadlock<DB: TestBackend>() {
    assert_eq!(count_retries::<DB>(true, 60).await, 0);
    assert!(
        count_retries::<DB>(false, 6).await > 0,
        "no deadlock occurred without the order either, so the test proves nothing"
    );
}

pub(crate) async fn lock_rows_returns_the_missing_keys<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| {
        assert_eq!(DB::lock_accounts(tx, &[3, 99, 1, 3, 77]).await?, [77, 99]);
        assert!(DB::lock_accounts(tx, &[]).await?.is_empty());
        Ok::<_, Error>(())
    })
    .await
    .expect("a commit");
}

/// The number of keys exceeds the maximum of one statement.
pub(crate) async fn lock_rows_takes_any_number_of_keys<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let db = patient(Pessimistic::default(), &pool);
    let keys: Vec<i64> = (1..=70_000).collect();
    let (missing, attempts) = db
        .run(async |tx: &mut Tx<DB>| {
            let missing = DB::lock_accounts(tx, &keys).await?;
            Ok::<_, Error>((missing, tx.attempt()))
        })
        .await
        .expect("a commit");
    assert_eq!(attempts, 1);
    assert!(missing.len() < keys.len() && missing.ends_with(&keys[60_000..]), "{} missing", missing.len());
}

/// The call waits for a row that another transaction has locked, and not for other rows.
pub(crate) async fn lock_rows_waits_for_locked_rows<DB: TestBackend>() {
    let pool = bank::<DB>(2).await;
    let db = Optimistic::default().on(&pool);
    let locked = Barrier::new(2);
    let holder = db.run(async |tx: &mut Tx<DB>| {
        DB::lock_accounts(tx, &[1]).await?;
        locked.wait().await;
        locked.wait().await;
        Ok::<_, Error>(())
    });
    let other = async {
        locked.wait().await;
        let free = db.with(Options::new().attempts(1));
        let free = free.run(async |tx: &mut Tx<DB>| DB::lock_accounts(tx, &[2]).await).await;
        let short = db.with(Options::new().attempts(1).deadline(Duration::from_millis(300)));
        let held = short.run(async |tx: &mut Tx<DB>| DB::lock_accounts(tx, &[1, 2]).await).await;
        locked.wait().await;
        (free, held)
    };
    let (holder, (free, held)) = tokio::join!(holder, other);
    holder.expect("a commit");
    free.expect("the row is not locked");
    assert!(held.expect_err("the row is locked").is_exhausted());
}

pub(crate) async fn advisory_locks_end_with_the_transaction<DB: TestBackend>() {
    let pool = bank::<DB>(2).await;
    let db = Atomic::default().on(&pool);
    let is_free = || db.run(async |tx: &mut Tx<DB>| tx.try_advisory_lock(("day", 7)).await);
    let taken = Barrier::new(2);
    let holder = db.run(async |tx: &mut Tx<DB>| {
        tx.advisory_lock(("day", 7)).await?;
        assert!(tx.try_advisory_lock(("day", 7)).await?, "the transaction holds the lock already");
        taken.wait().await;
        taken.wait().await;
        Ok::<_, Error>(())
    });
    let other = async {
        taken.wait().await;
        let free = is_free().await.expect("a commit");
        let short = db.with(Options::new().attempts(1).lock_timeout(Duration::from_millis(100)));
        let waited = short.run(async |tx: &mut Tx<DB>| tx.advisory_lock(("day", 7)).await).await;
        taken.wait().await;
        (free, waited)
    };
    let (holder, (free, waited)) = tokio::join!(holder, other);
    holder.expect("a commit");
    assert!(!free, "the lock is held");
    assert!(waited.expect_err("the lock is held").is_lock_timeout());
    eventually(true, async || is_free().await.expect("a commit")).await;

    // A rollback and a dropped run release it too.
    let rolled_back = db.run(async |tx: &mut Tx<DB>| {
        tx.advisory_lock(("day", 7)).await?;
        Err::<(), Error>(sqlx::Error::RowNotFound.into())
    });
    rolled_back.await.expect_err("its own error");
    eventually(true, async || is_free().await.expect("a commit")).await;

    let dropped = db.with(Options::new().deadline(Duration::from_millis(200)));
    let dropped = dropped.run(async |tx: &mut Tx<DB>| {
        tx.advisory_lock(("day", 7)).await?;
        std::future::pending::<()>().await;
        Ok::<_, Error>(())
    });
    dropped.await.expect_err("too slow");
    eventually(true, async || is_free().await.expect("a commit")).await;
}

pub(crate) async fn refuses_unsupported_locks<DB: TestBackend>() {
    let pool = bank::<DB>(1).await;
    let db = Optimistic::default().on(&pool);
    let advisory = db.run(async |tx: &mut Tx<DB>| tx.advisory_lock("name").await).await;
    assert_eq!(advisory.expect_err("no advisory locks").kind(), ErrorKind::Unsupported);
    let rows = db.run(async |tx: &mut Tx<DB>| DB::lock_accounts(tx, &[1]).await).await;
    assert_eq!(rows.expect_err("no row locks").kind(), ErrorKind::Unsupported);
}

/// PostgreSQL releases the lock with the savepoint, MySQL and MariaDB keep it. On each of them the
/// transaction holds the lock after requesting it again.
pub(crate) async fn a_rolled_back_advisory_lock_can_be_acquired_again<DB: TestBackend>() {
    let pool = DB::pool(1).await;
    let others = DB::another(&pool.url).await;
    let (db, other) = (Pessimistic::default().on(&pool), Pessimistic::default().on(&others));
    let is_free_to_the_other = db
        .run(async |tx: &mut Tx<DB>| {
            let undone = tx
                .savepoint(async |tx: &mut Tx<DB>| {
                    tx.advisory_lock("day").await?;
                    DB::execute(tx, DB::sql("nonsense"), &[]).await?;
                    Ok::<_, Error>(())
                })
                .await;
            assert!(undone.is_err());
            tx.advisory_lock("day").await?;
            other.run(async |tx: &mut Tx<DB>| tx.try_advisory_lock("day").await).await
        })
        .await
        .expect("two transactions");
    assert!(!is_free_to_the_other);
}
