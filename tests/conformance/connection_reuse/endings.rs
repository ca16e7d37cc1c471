//! Connections whose pool, runtime or server session ends before the next run.

use std::sync::atomic::Ordering;

use atomically::{Error, ErrorKind, Pessimistic, TransactorExt as _, Tx};
use futures_util::future::FutureExt as _;
use sqlx::pool::PoolOptions;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{CountingPool, TEST_TIMEOUT, run_until_notified, wait_until_in_use};
use crate::conformance::increments::{increment, value};
use crate::support::{ServerBackend, TestBackend, eventually};

pub(crate) async fn closing_the_pool_ends_connection_reuse<DB: TestBackend>() {
    let counting = CountingPool::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    // The connection is kept for the next run, but no run may use it after the close.
    db.run(increment::<DB>).await.expect("an increment");
    let mut closing = Box::pin(counting.pool.close());
    assert!((&mut closing).now_or_never().is_none(), "the connection has not returned yet");
    assert_eq!(db.run(increment::<DB>).await.expect_err("closed").kind(), ErrorKind::Database);
    timeout(TEST_TIMEOUT, closing).await.expect("in time");

    // One run is active, and another one waits for its connection.
    let counting = CountingPool::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections();
    let end = Notify::new();
    let mut active = Box::pin(run_until_notified(&db, &end));
    tokio::select! {
        () = &mut active => panic!("the active run returned early"),
        () = wait_until_in_use(&counting.pool) => {}
    }
    let mut waiting = Box::pin(db.run(increment::<DB>));
    assert!((&mut waiting).now_or_never().is_none());
    let mut closing = Box::pin(counting.pool.close());
    assert!((&mut closing).now_or_never().is_none(), "one run is active");
    end.notify_one();
    active.await;
    assert_eq!(waiting.await.expect_err("closed").kind(), ErrorKind::Database);
    timeout(TEST_TIMEOUT, closing).await.expect("in time");
    assert_eq!(value(&counting.direct).await, 1);
}

/// A kept connection returns to the pool when its transactor is dropped, and is closed when its runtime shuts
/// down.
pub(crate) async fn a_connection_ends_with_its_runtime<DB: TestBackend>() {
    let counting = CountingPool::<DB>::new().await;
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
    let (thread_pool, thread_db) = (pool.clone(), db.clone());
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(thread_db.run(increment::<DB>)).expect("an increment");
        assert_eq!(
            (thread_pool.size(), thread_pool.num_idle()),
            (1, 0),
            "the connection is not kept for the next run"
        );
        drop(runtime);
    });
    thread.join().expect("no panic");
    assert_eq!(pool.size(), 0, "the connection outlived its runtime");
    db.run(increment::<DB>).await.expect("an increment on another connection");
    assert_eq!(value(&counting.direct).await, 3);
}

/// The server ends the session between two runs.
pub(crate) async fn replaces_a_reused_connection_that_died<DB: ServerBackend>() {
    let counting = CountingPool::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections().attempts(1);
    counting
        .until_no_connection_returns(async || {
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
