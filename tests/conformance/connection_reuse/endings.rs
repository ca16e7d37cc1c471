//! Connections whose pool, runtime or server session ends before the next run.

use std::sync::atomic::Ordering;
use std::sync::mpsc;

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

/// A thread with connections of its own that ends sessions while the test waits for it, so that no task of
/// the test's runtime can run in between.
struct Killer {
    sessions: mpsc::Sender<i64>,
    ends: mpsc::Receiver<()>,
}

impl Killer {
    fn start<DB: ServerBackend>(url: &str) -> Self {
        let (url, (sessions, kills), (ended, ends)) = (url.to_owned(), mpsc::channel(), mpsc::channel());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            let admin = runtime.block_on(DB::another(&url));
            for session in kills {
                runtime.block_on(DB::kill_session(&admin, session));
                ended.send(()).expect("the test waits");
            }
        });
        let killer = Self { sessions, ends };
        // No session has this number. The next ones will find the connections open.
        (0..3).for_each(|_| killer.kill(0));
        killer
    }

    fn kill(&self, session: i64) {
        self.sessions.send(session).expect("the thread");
        self.ends.recv().expect("the session has ended");
    }
}

/// The server ends the session between two runs.
pub(crate) async fn replaces_a_reused_connection_that_died<DB: ServerBackend>() {
    let counting = CountingPool::<DB>::new().await;
    let db = Pessimistic::default().on(&counting.pool).reuse_connections().attempts(1);
    let killer = Killer::start::<DB>(&counting.direct.url);
    counting
        .until_no_connection_returns(async || {
            let session = db
                .run(async |tx: &mut Tx<DB>| Ok::<_, Error>(DB::fetch(tx, DB::sql(DB::SESSION), &[]).await?));
            killer.kill(session.await.expect("a commit"));
            let attempt = db.run(async |tx: &mut Tx<DB>| {
                increment(tx).await?;
                Ok::<_, Error>(tx.attempt())
            });
            assert_eq!(attempt.await.expect("on a fresh connection"), 1);
        })
        .await;
    assert!(counting.opened.load(Ordering::Relaxed) > 1);
}
