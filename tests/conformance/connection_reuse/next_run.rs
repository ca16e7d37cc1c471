//! Which run reuses the connection of a run that has ended.

use std::sync::atomic::Ordering;

use atomically::{Atomic, Error, Pessimistic, TransactorExt as _, Tx};
use futures_util::future::{FutureExt as _, join_all};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{CountingPool, TEST_TIMEOUT, run_until_notified, wait_until_in_use};
use crate::conformance::increments::{increment, value};
use crate::support::{TestBackend, eventually, in_one_of};

pub(crate) async fn the_next_run_reuses_the_connection<DB: TestBackend>() {
    let counting = CountingPool::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    let runs = async || {
        for _ in 0..3 {
            db.run(increment::<DB>).await.expect("an increment");
            // Background tasks can run between two runs.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
    };
    counting.until_no_connection_returns(runs).await;
    // A single statement reuses the connection as well.
    let (units, single) = (db.clone(), Atomic::default().on(&counting.pool).reuse_connections());
    let update = || sqlx::raw_sql(DB::sql("UPDATE counter SET value = value + 0 WHERE id = 1"));
    counting
        .until_no_connection_returns(async || {
            for _ in 0..3 {
                assert_eq!(single.apply(update()).await.expect("a commit"), 1);
            }
        })
        .await;
    // If no run follows, the connection returns to the pool.
    eventually(1, async || counting.pool.num_idle()).await;

    // With `always_through_pool` it returns after every run.
    let without_reuse = units.always_through_pool();
    let before = counting.returned();
    for _ in 0..5 {
        without_reuse.run(increment::<DB>).await.expect("an increment");
    }
    eventually(before + 5, async || counting.returned()).await;
    assert_eq!(counting.opened.load(Ordering::Relaxed), 1);
}

pub(crate) async fn the_longest_waiting_run_is_next<DB: TestBackend>() {
    let counting = CountingPool::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    counting
        .until_no_connection_returns(async || {
            let (end, order) = (Notify::new(), std::sync::Mutex::new(Vec::new()));
            let run = |i: u32| {
                let (db, order) = (&db, &order);
                async move {
                    db.run(async |_tx: &mut Tx<DB>| {
                        order.lock().expect("the order").push(i);
                        Ok::<_, Error>(())
                    })
                    .await
                    .expect("a commit");
                }
            };
            let mut first = Box::pin(run_until_notified(&db, &end));
            tokio::select! {
                () = &mut first => panic!("the first run returned early"),
                () = wait_until_in_use(&counting.pool) => {}
            }
            let mut waiting: Vec<_> = (0..6).map(|i| Box::pin(run(i))).collect();
            for run in &mut waiting {
                assert!(run.now_or_never().is_none());
            }
            // The first waiting run and one in the middle are dropped.
            drop(waiting.remove(3));
            drop(waiting.remove(0));
            end.notify_one();
            tokio::join!(first, join_all(waiting));
            assert_eq!(*order.lock().expect("the order"), [1, 2, 4, 5]);
        })
        .await;
}

/// The run is dropped after a connection was assigned to it.
pub(crate) async fn a_dropped_waiter_loses_no_connection<DB: TestBackend>() {
    // A test of the pool that a busy machine does not finish within a second is given up.
    in_one_of(3, async || match connections_opened_by_dropped_waiters::<DB>().await {
        1 => Ok(()),
        opened => Err(format!("a connection was closed: {opened} were opened")),
    })
    .await;
}

async fn connections_opened_by_dropped_waiters<DB: TestBackend>() -> u32 {
    let counting = CountingPool::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    for round in 0..20 {
        let end = Notify::new();
        let mut first = Box::pin(run_until_notified(&db, &end));
        tokio::select! {
            () = &mut first => panic!("the first run returned early"),
            () = wait_until_in_use(&counting.pool) => {}
        }
        let mut dropped = Box::pin(db.run(increment::<DB>));
        let mut waiting = Box::pin(db.run(increment::<DB>));
        assert!((&mut dropped).now_or_never().is_none());
        assert!((&mut waiting).now_or_never().is_none());
        end.notify_one();
        first.await;
        drop(dropped);
        timeout(TEST_TIMEOUT, waiting).await.expect("in time").expect("an increment");
        eventually(1, async || counting.pool.num_idle()).await;
        assert_eq!(value(&counting.direct).await, 2 * (round + 1));
    }
    counting.opened.load(Ordering::Relaxed)
}
