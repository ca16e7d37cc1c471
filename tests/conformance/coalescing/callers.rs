//! Callers that are dropped, time out, or call from inside of a unit.

use std::time::Duration;

use atomically::DeltaOutcome::Applied;
use atomically::{ErrorKind, Key, Options, Pessimistic, TransactorExt as _, Tx};
use futures_util::FutureExt as _;
use futures_util::future::join_all;

use super::{BlockedBatch, deltas, expect_all, patient, run_behind, several_statements};
use crate::conformance::increments::{counter, value};
use crate::support::{TestBackend, eventually};

/// The dropped callers include the one whose call started the batch. A dropped call that was not written yet
/// is not stored.
pub(crate) async fn dropping_a_caller_cancels_only_its_own_call<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let stock = deltas(&pool).max_batches(1);
    let blocked = BlockedBatch::new(&pool.url, &pool, &stock).await;
    let mut calls: Vec<_> = (0..9).map(|n| Box::pin(stock.add(1, 1 << n))).collect();
    for call in &mut calls {
        assert!(call.now_or_never().is_none());
    }
    blocked.first.abort();
    let kept: Vec<_> =
        calls.into_iter().enumerate().filter(|(n, _)| n % 3 == 1).map(|(_, call)| call).collect();
    let mut blocker = blocked.blocker;
    DB::raw(&mut blocker, "ROLLBACK").await.expect("a rollback");
    let expected = [2, 2 + 16, 2 + 16 + 128].map(|value| Applied { value });
    assert_eq!(expect_all(join_all(kept).await), expected);
    assert_eq!(value(&pool).await, 146);
}

/// The call is part of a batch that waits for its locks.
pub(crate) async fn a_caller_dropped_before_the_locks_are_acquired_stores_nothing<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let stock = deltas(&pool).options(several_statements()).max_batches(1);
    eventually(1, async || pool.num_idle()).await;
    let mut blocker = DB::blocker(&pool.url).await;
    let (mut first, mut second) = (Box::pin(stock.add(1, 1)), Box::pin(stock.add(1, 10)));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    eventually(0, async || pool.num_idle()).await;
    drop(first);
    DB::raw(&mut blocker, "ROLLBACK").await.expect("a rollback");
    assert_eq!(second.await.expect("a commit"), Applied { value: 10 });
}

/// Each call in a batch has its own deadline: the batch waits for its locks until the last deadline, while
/// the other calls time out.
pub(crate) async fn calls_fail_at_their_deadlines_and_store_nothing<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    eventually(1, async || pool.num_idle()).await;
    let mut blocker = DB::blocker(&pool.url).await;
    let short = deltas(&pool).options(Options::new().deadline(Duration::from_millis(300)));
    let staggered = (0..6).map(async |n| {
        tokio::time::sleep(Duration::from_millis(60 * n)).await;
        short.add(1, 1).await
    });
    for error in join_all(staggered).await {
        let error = error.expect_err("another session holds the lock");
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
    }
    DB::raw(&mut blocker, "ROLLBACK").await.expect("a rollback");
    assert_eq!(short.options(patient()).add(1, 1).await.expect("a commit"), Applied { value: 1 });
    assert_eq!(value(&pool).await, 1);
}

pub(crate) async fn a_full_queue_refuses_calls_immediately<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let stock = deltas(&pool).capacity(2).max_batches(1);
    let blocked = BlockedBatch::new(&pool.url, &pool, &stock).await;
    let (mut one, mut two) = (Box::pin(stock.add(1, 1)), Box::pin(stock.add(1, 10)));
    assert!((&mut one).now_or_never().is_none() && (&mut two).now_or_never().is_none());
    let full = stock.add(1, 100).now_or_never().expect("an immediate error").expect_err("the queue is full");
    assert_eq!(full.kind(), ErrorKind::Overloaded, "{full:?}");
    assert!(full.is_overloaded() && full.to_string().contains("2 calls"), "{full}");

    // A dropped call frees its slot in the queue.
    drop(one);
    let (_, results) = run_behind(blocked, [two, Box::pin(stock.add(1, 1000))]).await;
    assert_eq!(expect_all(results), [Applied { value: 10 }, Applied { value: 1010 }]);
}

/// The call would wait for a connection, or for a lock, that only the end of its own unit releases.
pub(crate) async fn refuses_a_call_inside_of_a_unit<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let stock = deltas(&pool);
    let error = Pessimistic::default()
        .on(&pool)
        .run(async |_: &mut Tx<DB>| stock.add(1, 1).await.map(drop))
        .await
        .expect_err("a call inside of a unit");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert_eq!(value(&pool).await, 0);
}

pub(crate) async fn every_caller_gets_the_error_of_a_closed_pool<DB: TestBackend>()
where
    i64: Key<DB>,
{
    let pool = counter::<DB>(1).await;
    let stock = deltas(&pool);
    pool.close().await;
    for result in join_all((0..4).map(|n| stock.add(n, 1))).await {
        let error = result.expect_err("the pool is closed");
        assert!(error.to_string().contains("closed"), "{error}");
    }
}
