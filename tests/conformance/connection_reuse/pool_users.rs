//! Connection reuse neither disturbs the pool's own tests nor starves its other users.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Atomic, Error, Pessimistic, TransactorExt as _, Tx};
use futures_util::future::{FutureExt as _, join_all};
use sqlx::pool::PoolOptions;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{CountingPool, MAX_RUNS, TEST_TIMEOUT, run_until_notified};
use crate::conformance::increments::{counter, increment, value};
use crate::support::{TestBackend, eventually, in_one_of};

pub(crate) async fn a_connection_serves_a_limited_number_of_runs_in_a_row<DB: TestBackend>() {
    let counting = CountingPool::<DB>::new().await;
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
    assert!(most_in_a_row > 1, "no run reused a connection, so the test proves nothing");
}

/// Three tasks run units continuously on a pool of one connection.
pub(crate) async fn other_users_of_the_pool_are_not_starved<DB: TestBackend>() {
    let counting = CountingPool::<DB>::new().await;
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
        // The first poll queues for the connection.
        let mut acquiring = Box::pin(timeout(TEST_TIMEOUT, counting.pool.acquire()));
        let at_once = (&mut acquiring).now_or_never();
        let before = runs.load(Ordering::Relaxed);
        let acquired = match at_once {
            Some(acquired) => acquired,
            None => acquiring.await,
        };
        let connection = acquired.expect("in time").expect("a connection");
        let waited = runs.load(Ordering::Relaxed) - before;
        drop(connection);
        // Two runs may have been ahead in the pool's queue, each followed by runs that reused its connection.
        assert!(waited <= 3 * MAX_RUNS, "{waited} runs were ahead");
        eventually(true, async || runs.load(Ordering::Relaxed) > before + waited + 5).await;
    }
    for task in busy {
        task.abort();
        let _ = task.await;
    }
    let (runs, returned) = (runs.load(Ordering::Relaxed), counting.returned() - returned);
    assert!(
        returned < runs,
        "the connection returned {returned} times for {runs} runs, so it was never reused"
    );
}

pub(crate) async fn uses_connections_that_are_returned_to_the_pool<DB: TestBackend>() {
    let counting = CountingPool::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    let held = counting.pool.acquire().await.expect("the connection");
    let mut runs: Vec<_> = (0..3).map(|_| Box::pin(db.run(increment::<DB>))).collect();
    for run in &mut runs {
        assert!(run.now_or_never().is_none());
    }
    drop(held);
    for done in timeout(TEST_TIMEOUT, join_all(runs)).await.expect("in time") {
        done.expect("an increment");
    }
    assert_eq!(counting.opened.load(Ordering::Relaxed), 1, "a connection was closed");
}

/// Two connections become available to the waiting run at the same time, and it uses one of them.
pub(crate) async fn loses_no_connection_when_two_become_available<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let [opened, test_is_slow] = [Arc::<AtomicU32>::default(), Arc::default()];
    let (opens, slow_test) = (opened.clone(), test_is_slow.clone());
    let [test_started, test_may_end] = [Arc::<Notify>::default(), Arc::default()];
    let (started, may_end) = (test_started.clone(), test_may_end.clone());
    let pool = PoolOptions::<DB>::new()
        .max_connections(2)
        .after_connect(move |_, _| {
            opens.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(()) })
        })
        .before_acquire(move |_, _| {
            let is_slow = slow_test.swap(0, Ordering::Relaxed) == 1;
            let (started, may_end) = (started.clone(), may_end.clone());
            Box::pin(async move {
                if is_slow {
                    started.notify_one();
                    may_end.notified().await;
                }
                Ok(true)
            })
        });
    let pool = pool.connect(&direct.url).await.expect("a pool");
    let db = Pessimistic::default().on(&pool).reuse_connections();
    for comes_first in ["the pool's", "the other run's"] {
        let end = Notify::new();
        let pooled = pool.acquire().await.expect("one connection");
        let mut active = Box::pin(run_until_notified(&db, &end));
        tokio::select! {
            () = &mut active => panic!("the active run returned early"),
            () = eventually((2, 0), async || (pool.size(), pool.num_idle())) => {}
        }
        let mut waiting = Box::pin(db.run(async |_tx: &mut Tx<DB>| Ok::<_, Error>(())));
        assert!((&mut waiting).now_or_never().is_none());
        if comes_first == "the pool's" {
            // The other connection becomes available while the pool still tests this one.
            test_is_slow.store(1, Ordering::Relaxed);
            drop(pooled);
            tokio::select! {
                _ = &mut waiting => panic!("the connection was not tested"),
                () = test_started.notified() => {}
            }
            end.notify_one();
            active.await;
            assert!((&mut waiting).now_or_never().is_none());
            test_may_end.notify_one();
        } else {
            // Both are available when the run is polled. On a slow machine both come from the pool.
            end.notify_one();
            active.await;
            drop(pooled);
            eventually(true, async || pool.num_idle() > 0).await;
        }
        timeout(TEST_TIMEOUT, waiting).await.expect("in time").expect("a commit");
        eventually((2, 2), async || (pool.size(), pool.num_idle())).await;
        assert_eq!(opened.load(Ordering::Relaxed), 2, "{comes_first} first: a connection was closed");
    }
}

/// While the pool tests an idle connection for a single statement, another connection is reused.
pub(crate) async fn no_connection_is_closed_while_the_pool_tests_it<DB: TestBackend>() {
    // A test that a busy machine does not finish within a second is given up, with its connection.
    in_one_of(3, async || match connections_opened_by_callers_that_pause::<DB>().await {
        ..=CALLERS => Ok(()),
        opened => Err(format!("{opened} connections for a pool of {CALLERS}")),
    })
    .await;
}

const CALLERS: u32 = 4;

async fn connections_opened_by_callers_that_pause<DB: TestBackend>() -> u32 {
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
    let single = Atomic::default().on(&pool);
    for (reuses, single) in [(true, single.clone().reuse_connections()), (false, single)] {
        returned.store(0, Ordering::Relaxed);
        // Callers that pause acquire an idle connection, and while it is tested the other callers reuse
        // theirs.
        let caller = |caller| {
            let single = single.clone();
            tokio::spawn(async move {
                for _ in 0..CALLS {
                    if caller % 2 == 0 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    let read = sqlx::raw_sql(DB::sql("UPDATE counter SET value = 0 WHERE id = -1"));
                    assert_eq!(single.apply(read).await.expect("a commit"), 0);
                }
            })
        };
        for ended in join_all((0..CALLERS).map(caller)).await {
            ended.expect("no panic");
        }
        eventually(pool.size() as usize, async || pool.num_idle()).await;
        let returned = returned.load(Ordering::Relaxed);
        assert!(returned > 0, "the pool tested no connection, so the test proves nothing");
        assert!(
            !reuses || returned < CALLERS * CALLS,
            "no connection was reused, so the test proves nothing"
        );
    }
    opened.load(Ordering::Relaxed)
}

/// Callers give up while the pool tests a connection for them.
pub(crate) async fn dropping_a_run_during_before_acquire_closes_no_connection<DB: TestBackend>() {
    in_one_of(3, async || match connections_opened_for_dropped_runs::<DB>().await {
        0 => Ok(()),
        opened => Err(format!("{opened} more connections were opened")),
    })
    .await;
}

async fn connections_opened_for_dropped_runs<DB: TestBackend>() -> u32 {
    let CountingPool { pool, opened, direct, .. } = CountingPool::<DB>::new().await;
    let [test_started, test_may_end] = [Arc::new(Notify::new()), Arc::new(Notify::new())];
    let (started, may_end) = (test_started.clone(), test_may_end.clone());
    let tests = pool.options().clone().before_acquire(move |_, _| {
        let (started, may_end) = (started.clone(), may_end.clone());
        Box::pin(async move {
            started.notify_one();
            may_end.notified().await;
            Ok(true)
        })
    });
    let pool = tests.connect(&direct.url).await.expect("a pool");
    let before = opened.load(Ordering::Relaxed);
    let db = Pessimistic::default().on(&pool);
    let single = Atomic::default().on(&pool);
    for single in [single.clone().reuse_connections(), single] {
        for _ in 0..10 {
            eventually(1, async || pool.num_idle()).await;
            tokio::select! {
                _ = db.run(increment::<DB>) => panic!("the connection was not tested"),
                () = test_started.notified() => {}
            }
            test_may_end.notify_one();
            eventually(1, async || pool.num_idle()).await;
            let update = sqlx::raw_sql(DB::sql("UPDATE counter SET value = value + 1 WHERE id = 1"));
            tokio::select! {
                _ = single.apply(update) => panic!("the connection was not tested"),
                () = test_started.notified() => {}
            }
            test_may_end.notify_one();
        }
    }
    eventually(1, async || pool.num_idle()).await;
    assert_eq!(value(&direct).await, 0, "a statement was sent");
    opened.load(Ordering::Relaxed) - before
}
