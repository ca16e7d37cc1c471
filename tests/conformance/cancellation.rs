//! Futures that are dropped before they complete.

pub(crate) mod every_poll;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use atomically::{Atomic, Error, ErrorKind, Optimistic, Pessimistic, TransactorExt as _, Tx};
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::increments::{counter, increment, value};
use super::outcomes::set_value;
use crate::support::{TestBackend, eventually};

/// Polls a future until it completes, but at most `polls` times, and then drops it.
pub(crate) async fn poll_at_most<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut remaining = polls;
    poll_fn(move |context| {
        if remaining == 0 {
            return Poll::Ready(None);
        }
        remaining -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// Shorter than the endless statements take, and longer than anything else on a busy machine.
const MUCH_TOO_LONG: Duration = Duration::from_secs(60);

/// If the remaining rows were read before the connection is closed, the locks could be held indefinitely.
pub(crate) async fn dropping_a_stream_releases_its_locks<DB: TestBackend>(endless: &'static str) {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_secs(240));
    let others = DB::another(&pool.url).await;
    for drops_stream in [true, false] {
        // Reading the remaining rows does not yield, so no timeout could interrupt it: the measured time
        // includes the run.
        let started = Instant::now();
        let has_row = Notify::new();
        let run = db.run(async |tx: &mut Tx<DB>| {
            set_value(tx, 9).await?;
            let mut rows = DB::stream(tx, DB::sql(endless));
            while rows.try_next().await?.is_some_and(|_| !drops_stream) {
                has_row.notify_one();
                // The driver does not yield while it has rows to read.
                tokio::task::yield_now().await;
            }
            Err::<(), _>(Error::from(sqlx::Error::RowNotFound))
        });
        if drops_stream {
            timeout(MUCH_TOO_LONG, run).await.expect("in time").expect_err("its own error");
        } else {
            let soon = async {
                has_row.notified().await;
                tokio::time::sleep(Duration::from_millis(300)).await;
            };
            tokio::select! {
                ended = run => panic!("it reads endless rows: {ended:?}"),
                () = soon => {}
            }
        }
        DB::pool_execute(&others, DB::sql("UPDATE counter SET value = 0 WHERE id = 1"), &[])
            .await
            .expect("a write");
        assert!(started.elapsed() < MUCH_TOO_LONG, "the lock was held for {:?}", started.elapsed());
    }
}

/// The statement waits for a lock that another session holds, so it is always interrupted.
pub(crate) async fn dropping_a_statement_aborts_the_transaction<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let blocker = DB::blocker(&pool.url).await;
    let db = Optimistic::default().on(&pool);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            let cut = tokio::time::timeout(Duration::from_millis(50), set_value(tx, 9)).await;
            assert!(cut.is_err(), "the row was not locked");
            let next = set_value(tx, 10).await.expect_err("the transaction is aborted");
            assert!(next.to_string().contains("future of a statement was dropped"), "{next}");
            Ok::<_, Error>(())
        })
        .await
        .expect_err("the transaction is aborted");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    drop(blocker);
    eventually(0, async || DB::open_transactions(&pool).await).await;
    assert_eq!(value(&pool).await, 0);
}

/// How many connections beyond the pool's maximum may be open, as documented.
const MAX_BEYOND_POOL: i64 = 8;

/// Closing a connection does not end its statement, so each caller would leave another session that waits for
/// the row.
pub(crate) async fn timed_out_callers_do_not_accumulate_server_sessions<DB: TestBackend>() {
    const CONNECTIONS: i64 = 4;
    let pool = counter::<DB>(4).await;
    let blocker = DB::blocker(&pool.url).await;
    let watcher = DB::another(&pool.url).await;
    let (units, single) = (Pessimistic::default().on(&pool), Atomic::default().on(&pool));
    let caller_timeout = Duration::from_millis(50);
    let (started, has_ended) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let callers = join_all((0..8_u32).map(|caller| {
        let (units, single, has_ended) = (units.clone(), single.clone(), has_ended.clone());
        tokio::spawn(async move {
            while !has_ended.load(Ordering::Relaxed) {
                let timed_out = if caller.is_multiple_of(2) {
                    timeout(caller_timeout, units.run(increment::<DB>)).await.is_err()
                } else {
                    let update = DB::sql("UPDATE counter SET value = value + ? WHERE id = 1");
                    timeout(caller_timeout, DB::apply(&single, update, &[1])).await.is_err()
                };
                assert!(timed_out, "the row is locked");
            }
        })
    }));
    let watched = async {
        // On a busy machine it takes longer until the first sessions wait.
        let mut max_sessions = 0;
        while started.elapsed() < Duration::from_secs(3)
            || (max_sessions <= CONNECTIONS && started.elapsed() < MUCH_TOO_LONG)
        {
            max_sessions = max_sessions.max(DB::open_transactions(&watcher).await);
        }
        has_ended.store(true, Ordering::Relaxed);
        max_sessions
    };
    let (ended, max_sessions) = tokio::join!(callers, watched);
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    assert!(
        max_sessions > CONNECTIONS,
        "no caller timed out while its session waited, so the test proves nothing"
    );
    // One of the sessions is the one that holds the row.
    assert!(
        max_sessions <= 1 + CONNECTIONS + MAX_BEYOND_POOL,
        "{max_sessions} sessions are active for a pool of {CONNECTIONS}"
    );

    drop(blocker);
    eventually(0, async || DB::open_transactions(&watcher).await).await;
    timeout(MUCH_TOO_LONG, units.run(increment::<DB>)).await.expect("in time").expect("a commit");
}
