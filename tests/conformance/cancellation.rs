//! Futures that are dropped before they are done.

pub(crate) mod every_poll;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use atomically::{Atomic, Error, ErrorKind, Optimistic, Pessimistic, TransactorExt as _, Tx};
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::increments::{counter, increment, value};
use super::outcomes::set_value;
use crate::support::{TestBackend, eventually};

/// Polls a future as often as it wants to be, but at most `polls` times, and drops it then.
pub(crate) async fn polled<F: Future>(polls: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// Reading the rest of the rows before the connection is closed could take for ever, with the locks held.
pub(crate) async fn a_stream_that_is_given_up_leaves_no_lock_behind<DB: TestBackend>(endless: &'static str) {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_secs(60));
    let others = DB::another(&pool.url).await;
    for gives_up in [true, false] {
        // Reading the rest does not yield, so no timeout would end it: the run counts, too.
        let started = Instant::now();
        let run = db.run(async |tx: &mut Tx<DB>| {
            set_value(tx, 9).await?;
            let mut rows = DB::stream(tx, DB::sql(endless));
            while rows.try_next().await?.is_some_and(|_| !gives_up) {
                // The driver does not yield while there is something to read.
                tokio::task::yield_now().await;
            }
            Err::<(), _>(Error::from(sqlx::Error::RowNotFound))
        });
        // The unit that gives up needs no other limit than that of the test, however busy the machine is.
        let limit = if gives_up { Duration::from_secs(10) } else { Duration::from_millis(300) };
        let ended = timeout(limit, run).await;
        assert_eq!(ended.is_ok(), gives_up, "the unit that gives up ends, the other one is dropped");
        DB::pool_execute(&others, DB::sql("UPDATE counter SET value = 0 WHERE id = 1"), &[])
            .await
            .expect("a write");
        assert!(started.elapsed() < Duration::from_secs(10), "the lock was held for {:?}", started.elapsed());
    }
}

/// The statement waits for a lock that is held all the while, so it is cut short for certain.
pub(crate) async fn a_dropped_statement_kills_the_transaction<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let blocker = DB::blocker(&pool.url).await;
    let db = Optimistic::default().on(&pool);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            let cut = tokio::time::timeout(Duration::from_millis(50), set_value(tx, 9)).await;
            assert!(cut.is_err(), "the row was not locked");
            let next = set_value(tx, 10).await.expect_err("fails fast");
            assert!(next.to_string().contains("future of a statement was dropped"), "{next}");
            Ok::<_, Error>(())
        })
        .await
        .expect_err("never Ok");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    drop(blocker);
    eventually(0, async || DB::open_transactions(&pool).await).await;
    assert_eq!(value(&pool).await, 0);
}

/// What a pool may have open beyond its maximum, as documentation says.
const MAX_BEYOND_POOL: i64 = 8;

/// Closing a connection ends no statement: each caller would leave another session waiting for the row.
pub(crate) async fn callers_that_give_up_on_a_locked_row_do_not_fill_the_server<DB: TestBackend>() {
    const CONNECTIONS: i64 = 4;
    let pool = counter::<DB>(4).await;
    let blocker = DB::blocker(&pool.url).await;
    let watcher = DB::another(&pool.url).await;
    let (units, lone) = (Pessimistic::default().on(&pool), Atomic::default().on(&pool));
    let patience = Duration::from_millis(50);
    let end = Instant::now() + Duration::from_secs(3);
    let callers = join_all((0..8_u32).map(|caller| {
        let (units, lone) = (units.clone(), lone.clone());
        tokio::spawn(async move {
            while Instant::now() < end {
                let gave_up = if caller.is_multiple_of(2) {
                    timeout(patience, units.run(increment::<DB>)).await.is_err()
                } else {
                    let update = DB::sql("UPDATE counter SET value = value + ? WHERE id = 1");
                    timeout(patience, DB::apply(&lone, update, &[1])).await.is_err()
                };
                assert!(gave_up, "the row is locked");
            }
        })
    }));
    let watched = async {
        let mut most = 0;
        while Instant::now() < end {
            most = most.max(DB::open_transactions(&watcher).await);
        }
        most
    };
    let (ended, most) = tokio::join!(callers, watched);
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    assert!(most > CONNECTIONS, "nobody gave up while the server was busy: nothing was shown");
    // The first one is the one that holds the row.
    assert!(
        most <= 1 + CONNECTIONS + MAX_BEYOND_POOL,
        "{most} sessions are at work for a pool of {CONNECTIONS}"
    );

    drop(blocker);
    eventually(0, async || DB::open_transactions(&watcher).await).await;
    timeout(Duration::from_secs(20), units.run(increment::<DB>)).await.expect("in time").expect("usable");
}
