//! The pool's own tests of its connections, and those who take connections from it, get their turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Atomic, Error, Pessimistic, TransactorExt as _, Tx};
use futures_util::future::{FutureExt as _, join_all};
use sqlx::pool::PoolOptions;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Counting, FOR_EVER, MAX_RUNS, hold};
use crate::conformance::increments::{counter, increment, value};
use crate::support::{TestBackend, eventually};

pub(crate) async fn a_connection_passes_by_the_pool_now_and_then<DB: TestBackend>() {
    let counting = Counting::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    let (mut seen, mut in_a_row, mut most_in_a_row) = (counting.returned(), 0, 0);
    for _ in 0..20 * MAX_RUNS {
        let began_on = db.run(async |tx: &mut Tx<DB>| {
            increment(tx).await?;
            Ok::<_, Error>(counting.returned())
        });
        let returned = began_on.await.expect("an increment");
        in_a_row = if returned == seen { in_a_row + 1 } else { 1 };
        seen = returned;
        assert!(in_a_row <= MAX_RUNS, "{in_a_row} runs in a row");
        most_in_a_row = most_in_a_row.max(in_a_row);
    }
    assert!(most_in_a_row > 1, "no run took over the connection of the one before: nothing was shown");
}

/// One connection, and three tasks that run units without end.
pub(crate) async fn other_users_of_the_pool_get_their_turn<DB: TestBackend>() {
    let counting = Counting::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    let (runs, returned) = (Arc::new(AtomicU32::new(0)), counting.returned());
    let busy: Vec<_> = (0..3)
        .map(|_| {
            let (db, runs) = (db.clone(), runs.clone());
            tokio::spawn(async move {
                loop {
                    db.run(increment::<DB>).await.expect("an increment");
                    runs.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let before = runs.load(Ordering::Relaxed);
        let own = timeout(FOR_EVER, counting.pool.acquire()).await.expect("in time").expect("its turn");
        let waited = runs.load(Ordering::Relaxed) - before;
        drop(own);
        // The two that stood in the pool's line before may each have been called, and have handed their
        // connection on.
        assert!(waited <= 3 * MAX_RUNS, "{waited} runs went before");
        eventually(true, async || runs.load(Ordering::Relaxed) > before + waited + 5).await;
    }
    for task in busy {
        task.abort();
        let _ = task.await;
    }
    let (runs, returned) = (runs.load(Ordering::Relaxed), counting.returned() - returned);
    assert!(returned < runs, "the connection came back {returned} times for {runs} runs: none was handed on");
}

pub(crate) async fn uses_connections_that_are_returned_to_the_pool<DB: TestBackend>() {
    let counting = Counting::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    let held = counting.pool.acquire().await.expect("the connection");
    let mut runs: Vec<_> = (0..3).map(|_| Box::pin(db.run(increment::<DB>))).collect();
    for run in &mut runs {
        assert!(run.now_or_never().is_none());
    }
    drop(held);
    for done in timeout(FOR_EVER, join_all(runs)).await.expect("in time") {
        done.expect("an increment");
    }
    assert_eq!(counting.opened.load(Ordering::Relaxed), 1, "a connection was closed");
}

/// Whoever waits is offered two connections at once, and takes one.
pub(crate) async fn of_two_that_come_at_once_none_is_lost<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let [opened, slow] = [Arc::<AtomicU32>::default(), Arc::default()];
    let (opens, slowly) = (opened.clone(), slow.clone());
    let [begun, go] = [Arc::<Notify>::default(), Arc::default()];
    let (begins, goes) = (begun.clone(), go.clone());
    let pool = PoolOptions::<DB>::new()
        .max_connections(2)
        .after_connect(move |_, _| {
            opens.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(()) })
        })
        .before_acquire(move |_, _| {
            let (slow, begins, goes) = (slowly.swap(0, Ordering::Relaxed), begins.clone(), goes.clone());
            Box::pin(async move {
                if slow == 1 {
                    begins.notify_one();
                    goes.notified().await;
                }
                Ok(true)
            })
        });
    let pool = pool.connect(&direct.url).await.expect("a pool");
    let db = Pessimistic::default().on(&pool).reuse_connections();
    for comes_first in ["the pool's", "the other run's"] {
        let end = Notify::new();
        let own = pool.acquire().await.expect("one connection");
        let mut at_work = Box::pin(hold(&db, &end));
        tokio::select! {
            () = &mut at_work => panic!("it was not told to end"),
            () = eventually((2, 0), async || (pool.size(), pool.num_idle())) => {}
        }
        let mut waits = Box::pin(db.run(async |_tx: &mut Tx<DB>| Ok::<_, Error>(())));
        assert!((&mut waits).now_or_never().is_none());
        if comes_first == "the pool's" {
            // While the pool still tests it, the other one comes.
            slow.store(1, Ordering::Relaxed);
            drop(own);
            tokio::select! {
                _ = &mut waits => panic!("its connection was not tested"),
                () = begun.notified() => {}
            }
            end.notify_one();
            at_work.await;
            assert!((&mut waits).now_or_never().is_none());
            go.notify_one();
        } else {
            // Both are there when it looks. On a slow machine both come from the pool.
            end.notify_one();
            at_work.await;
            drop(own);
            eventually(true, async || pool.num_idle() > 0).await;
        }
        timeout(FOR_EVER, waits).await.expect("in time").expect("a commit");
        eventually((2, 2), async || (pool.size(), pool.num_idle())).await;
        assert_eq!(opened.load(Ordering::Relaxed), 2, "{comes_first} first: a connection was closed");
    }
}

/// The pool tests a connection for a statement that is its own transaction, and meanwhile another one is
/// handed on.
pub(crate) async fn no_connection_is_closed_while_the_pool_tests_it<DB: TestBackend>() {
    const CALLERS: u32 = 4;
    const CALLS: u32 = 300;
    let direct = counter::<DB>(1).await;
    let [opened, returned] = [Arc::<AtomicU32>::default(), Arc::default()];
    let (opens, returns) = (opened.clone(), returned.clone());
    let options = PoolOptions::<DB>::new()
        .max_connections(CALLERS)
        .after_connect(move |_, _| {
            opens.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(()) })
        })
        .after_release(move |_, _| {
            returns.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(true) })
        });
    let pool = options.connect(&direct.url).await.expect("a pool");
    let lone = Atomic::default().on(&pool);
    for (reuses, lone) in [(true, lone.clone().reuse_connections()), (false, lone)] {
        returned.store(0, Ordering::Relaxed);
        // Those that pause find a connection that is idle, and while it is tested the others hand theirs on.
        let caller = |caller| {
            let lone = lone.clone();
            tokio::spawn(async move {
                for _ in 0..CALLS {
                    if caller % 2 == 0 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    let read = sqlx::raw_sql(DB::sql("UPDATE counter SET value = 0 WHERE id = -1"));
                    assert_eq!(lone.apply(read).await.expect("an answer"), 0);
                }
            })
        };
        for ended in join_all((0..CALLERS).map(caller)).await {
            ended.expect("all were answered");
        }
        eventually(pool.size() as usize, async || pool.num_idle()).await;
        let returned = returned.load(Ordering::Relaxed);
        assert!(returned > 0, "the pool tested no connection: nothing was shown");
        assert!(!reuses || returned < CALLERS * CALLS, "no connection was handed on: nothing was shown");
    }
    let opened = opened.load(Ordering::Relaxed);
    assert!(opened <= 4, "{opened} connections for a pool of four");
}

/// Callers that give up while the pool tests a connection for them.
pub(crate) async fn dropping_a_run_during_before_acquire_closes_no_connection<DB: TestBackend>() {
    let Counting { pool, opened, direct, .. } = Counting::<DB>::new().await;
    let (tested, tests) = (Arc::<AtomicU32>::default(), pool.options().clone());
    let counted = tested.clone();
    let tests = tests.before_acquire(move |_, _| {
        let counted = counted.clone();
        Box::pin(async move {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(true)
        })
    });
    let pool = tests.connect(&direct.url).await.expect("a pool");
    let before = opened.load(Ordering::Relaxed);
    let db = Pessimistic::default().on(&pool);
    let lone = Atomic::default().on(&pool);
    for lone in [lone.clone().reuse_connections(), lone] {
        for _ in 0..10 {
            eventually(1, async || pool.num_idle()).await;
            let unit = timeout(Duration::from_millis(20), db.run(increment::<DB>)).await;
            assert!(unit.is_err(), "it was given up");
            eventually(1, async || pool.num_idle()).await;
            let update = sqlx::raw_sql(DB::sql("UPDATE counter SET value = value + 1 WHERE id = 1"));
            let applied = timeout(Duration::from_millis(20), lone.apply(update)).await;
            assert!(applied.is_err(), "it was given up");
        }
    }
    eventually(1, async || pool.num_idle()).await;
    assert!(tested.load(Ordering::Relaxed) > 0, "nobody gave up during a test: nothing was shown");
    assert_eq!(opened.load(Ordering::Relaxed), before);
    assert_eq!(value(&direct).await, 0, "none of them was sent");
}
