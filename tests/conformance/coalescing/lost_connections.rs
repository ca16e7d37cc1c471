//! Batches that lose their connection, the response to their COMMIT, their runtime or their last handle.

use std::time::Duration;

use atomically::DeltaOutcome::Applied;
use atomically::{ErrorKind, Key};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use sqlx::pool::PoolOptions;

use super::{BlockedBatch, deltas, expect_all, run_behind, several_statements};
use crate::conformance::increments::{counter, value};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{ServerBackend, TestBackend, eventually};

/// The batch runs on another runtime. When that one shuts down, the callers on this runtime receive an error.
pub(crate) async fn a_runtime_shutdown_leaves_no_caller_waiting<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let stock = deltas(&pool).max_batches(1);
    eventually(1, async || pool.num_idle()).await;
    let mut blocker = DB::blocker(&pool.url).await;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let first = stock.clone();
    runtime.spawn(async move { first.add(1, 1).await });
    eventually(0, async || pool.num_idle()).await;
    let waiting = tokio::spawn({
        let stock = stock.clone();
        async move { stock.add(1, 10).await }
    });
    let mut probe = Box::pin(stock.add(1, 100));
    assert!((&mut probe).now_or_never().is_none());
    runtime.shutdown_background();
    let error = probe.await.expect_err("the runtime has shut down");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    DB::raw(&mut blocker, "ROLLBACK").await.expect("a rollback");
    let stored = match waiting.await.expect("no panic") {
        Ok(_) => 10,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            0
        }
    };
    assert_eq!(stock.add(1, 1000).await.expect("a commit"), Applied { value: stored + 1000 });
}

/// Each call is stored once although the server ends the session of the batch.
pub(crate) async fn retries_a_batch_that_lost_its_connection<DB: ServerBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let watcher = DB::another(&pool.url).await;
    let stock = deltas(&pool).options(several_statements());
    let session = DB::pool_fetch(&pool, DB::sql(DB::SESSION), &[]).await.expect("the pool's only session");
    eventually(1, async || pool.num_idle()).await;
    let blocker = DB::blocker(&pool.url).await;
    let mut calls = join_all((0..5).map(|n| stock.add(1, 1 << n)));
    assert!((&mut calls).now_or_never().is_none());
    eventually(2, async || DB::open_transactions(&watcher).await).await;
    // The other session keeps its lock until then, so that the batch has not sent its COMMIT.
    DB::kill_session(&watcher, session).await;
    drop(blocker);
    let mut values: Vec<i64> = Vec::new();
    for outcome in expect_all(calls.await) {
        let Applied { value } = outcome else { panic!("{outcome:?}") };
        values.push(value);
    }
    assert_eq!(values, [1, 3, 7, 15, 31]);
    assert_eq!(value(&DB::another(&pool.url).await).await, 31);
}

pub(crate) async fn every_caller_gets_the_error_of_an_unknown_commit<DB: TestBackend>()
where
    i64: Key<DB>,
{
    for (fault, delivered) in [(Fault::CutBefore, false), (Fault::CutAfter, true)] {
        let direct = counter::<DB>(1).await;
        let proxy = Proxy::to(&direct.url).await;
        let pool = PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await;
        let pool = pool.expect("a pool through the proxy");
        let stock = deltas(&pool).options(several_statements()).at_least(0).max_batches(1);
        let blocked = BlockedBatch::new(&direct.url, &pool, &stock).await;
        // The first commit gets a response, the next one does not.
        proxy.cycle(DB::COMMIT, &[None, Some(fault)]);
        let (first, results) = run_behind(blocked, [5, -9, 2].map(|delta| stock.add(1, delta))).await;
        assert_eq!(first.expect("a commit"), Applied { value: 0 });
        for result in results {
            let error = result.expect_err("the outcome is unknown");
            assert!(error.is_commit_unknown(), "{fault:?}: {error:?}");
        }
        assert_eq!(proxy.hits(), 1, "the commit was sent once");
        proxy.heal();
        eventually(if delivered { 7 } else { 0 }, async || value(&direct).await).await;
    }
}

/// The runtime of the batch is shut down while COMMIT is in flight.
pub(crate) async fn a_commit_is_unknown_after_its_runtime_shuts_down<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&direct.url)).await;
    let pool = pool.expect("a pool through the proxy");
    let stock = deltas(&pool).options(several_statements()).max_batches(1);
    eventually(1, async || pool.num_idle()).await;
    let mut blocker = DB::blocker(&direct.url).await;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let first = stock.clone();
    runtime.spawn(async move { first.add(1, 0).await });
    eventually(0, async || pool.num_idle()).await;
    let mut call = Box::pin(stock.add(1, 1));
    assert!((&mut call).now_or_never().is_none());
    proxy.cycle(DB::COMMIT, &[None, Some(Fault::SilenceAfter)]);
    DB::raw(&mut blocker, "ROLLBACK").await.expect("a rollback");
    eventually(1, async || proxy.hits()).await;
    runtime.shutdown_background();
    let error = call.await.expect_err("the outcome is unknown");
    assert!(error.is_commit_unknown(), "{error:?}");
}

/// A batch that waits for a lock is cancelled immediately, not at its deadline.
pub(crate) async fn dropping_the_last_handle_cancels_its_batch<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let watcher = DB::another(&pool.url).await;
    let runtime = tokio::runtime::Handle::current();
    eventually(1, async || pool.num_idle()).await;
    let blocker = DB::blocker(&pool.url).await;
    // The tasks that return connections to their pools end a moment after the connections are idle.
    let mut before = runtime.metrics().num_alive_tasks();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        before = before.min(runtime.metrics().num_alive_tasks());
    }
    let stock = deltas(&pool);
    let mut call = Box::pin(stock.add(1, 1));
    assert!((&mut call).now_or_never().is_none());
    eventually(2, async || DB::open_transactions(&watcher).await).await;
    assert!(runtime.metrics().num_alive_tasks() > before, "the batch has no task");
    drop(call);
    drop(stock);
    eventually(0, async || pool.size()).await;
    // The connection's task ends when the server's statement ends, which waits for the row.
    drop(blocker);
    eventually(true, async || runtime.metrics().num_alive_tasks() <= before).await;
}
