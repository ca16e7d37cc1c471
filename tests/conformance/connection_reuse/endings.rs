//! Connections whose pool, runtime or server session ends before the next run.

use std::sync::atomic::Ordering;

use atomically::{Error, ErrorKind, Pessimistic, TransactorExt as _, Tx};
use futures_util::future::FutureExt as _;
use sqlx::pool::PoolOptions;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{Counting, FOR_EVER, hold, in_use};
use crate::conformance::increments::{increment, value};
use crate::support::{ServerBackend, TestBackend, eventually};

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
pub(crate) async fn one_that_died_on_its_way_is_replaced<DB: ServerBackend>() {
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
