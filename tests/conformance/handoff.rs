//! Connections that go from one run to the next, and what the pool and its other users see of it.
//!
//! On one thread, where what a run leaves behind in the background only begins when its task waits for something.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Atomic, Error, ErrorKind, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use futures_util::future::{FutureExt as _, join_all};
use sqlx::Pool;
use sqlx::pool::PoolOptions;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::increments::{counter, increment, value};
use crate::support::{TestBackend, TestPool, eventually};

/// Only to tell "in time" from "never", on the busiest of machines.
const FOR_EVER: Duration = Duration::from_secs(20);

/// What documentation says that a connection serves at most.
const MOST_RUNS: u32 = 32;

/// A pool of one connection that counts how often connections are opened, and how often they come back.
struct Counting<DB: TestBackend> {
    pool: Pool<DB>,
    opened: Arc<AtomicU32>,
    returned: Arc<AtomicU32>,
    direct: TestPool<DB>,
}

impl<DB: TestBackend> Counting<DB> {
    async fn new() -> Self {
        let direct = counter::<DB>(1).await;
        let [opened, returned] = [Arc::<AtomicU32>::default(), Arc::default()];
        let [opens, returns] = [opened.clone(), returned.clone()];
        let pool = PoolOptions::<DB>::new()
            .max_connections(1)
            .after_connect(move |_, _| {
                opens.fetch_add(1, Ordering::Relaxed);
                Box::pin(async { Ok(()) })
            })
            .after_release(move |_, _| {
                returns.fetch_add(1, Ordering::Relaxed);
                Box::pin(async { Ok(true) })
            });
        let pool = pool.connect(&direct.url).await.expect("a pool");
        Self { pool, opened, returned, direct }
    }

    fn returned(&self) -> u32 {
        self.returned.load(Ordering::Relaxed)
    }

    /// Tries until no connection came back to the pool meanwhile: which one does after a while, on a slow machine.
    async fn without_a_return<T>(&self, mut attempt: impl AsyncFnMut() -> T) -> T {
        for _ in 0..100 {
            eventually(1, async || self.pool.num_idle()).await;
            let before = self.returned();
            let result = attempt().await;
            if self.returned() == before {
                return result;
            }
        }
        panic!("no connection was handed on in 100 attempts");
    }
}

/// A run that holds the connection until it is told to end.
async fn hold<DB: TestBackend>(db: &PoolTransactor<DB, Pessimistic>, end: &Notify) {
    let held = db.run(async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        end.notified().await;
        Ok::<_, Error>(())
    });
    held.await.expect("a commit");
}

/// The connection is in use, and whoever comes now has to wait.
async fn in_use<DB: TestBackend>(pool: &Pool<DB>) {
    eventually(true, async || pool.size() == 1 && pool.num_idle() == 0).await;
}

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

/// The pool tests a connection for a statement that is its own transaction, and meanwhile another one is handed on.
pub(crate) async fn no_connection_is_closed_while_the_pool_tests_it<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let opened = Arc::<AtomicU32>::default();
    let opens = opened.clone();
    let options = PoolOptions::<DB>::new().max_connections(4).after_connect(move |_, _| {
        opens.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    });
    let pool = options.connect(&direct.url).await.expect("a pool");
    let lone = Atomic::default().on(&pool);
    for lone in [lone.clone().reuse_connections(), lone] {
        // Those that pause find a connection that is idle, and while it is tested the others hand theirs on.
        let caller = |caller| {
            let lone = lone.clone();
            tokio::spawn(async move {
                for _ in 0..300 {
                    if caller % 2 == 0 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    let read = sqlx::raw_sql(DB::sql("UPDATE counter SET value = 0 WHERE id = -1"));
                    assert_eq!(lone.apply(read).await.expect("an answer"), 0);
                }
            })
        };
        for ended in join_all((0..4).map(caller)).await {
            ended.expect("all were answered");
        }
    }
    let opened = opened.load(Ordering::Relaxed);
    assert!(opened <= 4, "{opened} connections for a pool of four");
}

/// Callers that give up while the pool tests a connection for them.
pub(crate) async fn whoever_gives_up_a_test_closes_no_connection<DB: TestBackend>() {
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

pub(crate) async fn a_connection_passes_by_the_pool_now_and_then<DB: TestBackend>() {
    let counting = Counting::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    let (mut seen, mut in_a_row) = (counting.returned(), 0);
    for _ in 0..20 * MOST_RUNS {
        let began_on = db.run(async |tx: &mut Tx<DB>| {
            increment(tx).await?;
            Ok::<_, Error>(counting.returned())
        });
        let returned = began_on.await.expect("an increment");
        in_a_row = if returned == seen { in_a_row + 1 } else { 1 };
        seen = returned;
        assert!(in_a_row <= MOST_RUNS, "{in_a_row} runs in a row");
    }
}

pub(crate) async fn whoever_has_waited_longest_is_next<DB: TestBackend>() {
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

/// One connection, and three tasks that run units without end.
pub(crate) async fn other_users_of_the_pool_get_their_turn<DB: TestBackend>() {
    let counting = Counting::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    let runs = Arc::new(AtomicU32::new(0));
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
        // The two that stood in the pool's line before may each have been called, and have handed their connection on.
        assert!(waited <= 3 * MOST_RUNS, "{waited} runs went before");
        eventually(true, async || runs.load(Ordering::Relaxed) > before + waited + 5).await;
    }
    for task in busy {
        task.abort();
        let _ = task.await;
    }
}

pub(crate) async fn what_comes_back_to_the_pool_is_taken_too<DB: TestBackend>() {
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

pub(crate) async fn a_pool_can_be_closed_under_it<DB: TestBackend>() {
    let counting = Counting::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    // One connection is left behind, and no run may have it any more.
    db.run(increment::<DB>).await.expect("an increment");
    let mut closing = Box::pin(counting.pool.close());
    assert!((&mut closing).now_or_never().is_none(), "the pool does not have it yet");
    assert_eq!(db.run(increment::<DB>).await.expect_err("closed").kind(), ErrorKind::Database);
    timeout(FOR_EVER, closing).await.expect("in time");

    // One is at work, and one waits for it.
    let counting = Counting::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    let end = Notify::new();
    let mut at_work = Box::pin(hold(&db, &end));
    tokio::select! {
        () = &mut at_work => panic!("it was not told to end"),
        () = in_use(&counting.pool) => {}
    }
    let mut waits = Box::pin(db.run(increment::<DB>));
    assert!((&mut waits).now_or_never().is_none());
    let mut closing = Box::pin(counting.pool.close());
    assert!((&mut closing).now_or_never().is_none(), "one is at work");
    end.notify_one();
    at_work.await;
    assert_eq!(waits.await.expect_err("closed").kind(), ErrorKind::Database);
    timeout(FOR_EVER, closing).await.expect("in time");
    assert_eq!(value(&counting.direct).await, 1);
}

/// Neither a runtime nor a transactor has to be there for a connection to find its way.
pub(crate) async fn nothing_is_left_behind_with_a_runtime<DB: TestBackend>() {
    let counting = Counting::<DB>::new().await;
    Pessimistic::default()
        .on(&counting.pool)
        .reuse_connections()
        .run(increment::<DB>)
        .await
        .expect("an increment");
    eventually(1, async || counting.pool.num_idle()).await;

    // A connection belongs to the runtime that opened it.
    let pool = PoolOptions::<DB>::new().max_connections(1).connect_lazy(&counting.direct.url).expect("a URL");
    let db = Pessimistic::default().on(&pool).reuse_connections();
    let (there, elsewhere) = (pool.clone(), db.clone());
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(elsewhere.run(increment::<DB>)).expect("an increment");
        assert_eq!((there.size(), there.num_idle()), (1, 0), "it is left for the next run");
        drop(runtime);
    });
    thread.join().expect("no panic");
    assert_eq!(pool.size(), 0, "the connection is gone with its runtime");
    db.run(increment::<DB>).await.expect("on another one");
    assert_eq!(value(&counting.direct).await, 3);
}

/// Between the end of one run and the beginning of the next.
pub(crate) async fn one_that_died_on_its_way_is_replaced<DB: TestBackend>() {
    let counting = Counting::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections().attempts(1);
    counting
        .without_a_return(async || {
            db.run(increment::<DB>).await.expect("an increment");
            let url = counting.direct.url.clone();
            let killer = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(DB::kill_sessions(&url));
            });
            killer.join().expect("killed");
            let attempt = db.run(async |tx: &mut Tx<DB>| {
                increment(tx).await?;
                Ok::<_, Error>(tx.attempt())
            });
            assert_eq!(attempt.await.expect("on a fresh connection"), 1);
        })
        .await;
    assert!(counting.opened.load(Ordering::Relaxed) > 1);
}
