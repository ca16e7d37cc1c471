//! Which run gets the connection of the one that has ended.

use std::sync::atomic::Ordering;

use atomically::{Atomic, Error, Pessimistic, TransactorExt as _, Tx};
use futures_util::future::{FutureExt as _, join_all};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Counting, FOR_EVER, hold, in_use};
use crate::conformance::increments::{increment, value};
use crate::support::{TestBackend, eventually};

pub(crate) async fn a_run_leaves_its_connection_to_the_next<DB: TestBackend>() {
    let counting = Counting::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    let runs = async || {
        for _ in 0..3 {
            db.run(increment::<DB>).await.expect("an increment");
            // Others get their turn in between.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
    };
    counting.without_a_return(runs).await;
    // The statement alone is on it as well.
    let (units, lone) = (db.clone(), Atomic::default().on(&counting.pool).reuse_connections());
    let update = || sqlx::raw_sql(DB::sql("UPDATE counter SET value = value + 0 WHERE id = 1"));
    counting
        .without_a_return(async || {
            for _ in 0..3 {
                assert_eq!(lone.apply(update()).await.expect("a commit"), 1);
            }
        })
        .await;
    // When no run comes, the pool has it.
    eventually(1, async || counting.pool.num_idle()).await;

    // And each time, for one who asks for that.
    let careful = units.always_through_pool();
    let before = counting.returned();
    for _ in 0..5 {
        careful.run(increment::<DB>).await.expect("an increment");
    }
    eventually(before + 5, async || counting.returned()).await;
    assert_eq!(counting.opened.load(Ordering::Relaxed), 1);
}

pub(crate) async fn the_run_that_waited_longest_is_next<DB: TestBackend>() {
    let counting = Counting::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    counting
        .without_a_return(async || {
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
            let mut first = Box::pin(hold(&db, &end));
            tokio::select! {
                () = &mut first => panic!("it was not told to end"),
                () = in_use(&counting.pool) => {}
            }
            let mut waiting: Vec<_> = (0..6).map(|i| Box::pin(run(i))).collect();
            for waits in &mut waiting {
                assert!(waits.now_or_never().is_none());
            }
            // One in front of the others and one among them go.
            drop(waiting.remove(3));
            drop(waiting.remove(0));
            end.notify_one();
            tokio::join!(first, join_all(waiting));
            assert_eq!(*order.lock().expect("the order"), [1, 2, 4, 5]);
        })
        .await;
}

/// Handed on, and not picked up any more.
pub(crate) async fn a_waiter_that_goes_takes_no_connection_along<DB: TestBackend>() {
    let counting = Counting::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    for round in 0..20 {
        let end = Notify::new();
        let mut first = Box::pin(hold(&db, &end));
        tokio::select! {
            () = &mut first => panic!("it was not told to end"),
            () = in_use(&counting.pool) => {}
        }
        let mut goes = Box::pin(db.run(increment::<DB>));
        let mut stays = Box::pin(db.run(increment::<DB>));
        assert!((&mut goes).now_or_never().is_none());
        assert!((&mut stays).now_or_never().is_none());
        end.notify_one();
        first.await;
        drop(goes);
        timeout(FOR_EVER, stays).await.expect("in time").expect("an increment");
        eventually(1, async || counting.pool.num_idle()).await;
        assert_eq!(value(&counting.direct).await, 2 * (round + 1));
    }
    assert_eq!(counting.opened.load(Ordering::Relaxed), 1, "a connection was closed");
}
