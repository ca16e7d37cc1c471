//! Every wait has a limit, and no run leaves a setting or a transaction on its connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atomically::testing::{Fault, Faults, Moment};
use atomically::{
    Adaptive, Atomic, Backoff, Error, ErrorKind, Event, FailureKind, Optimistic, Options, Pessimistic,
    PoolTransactor, Serializable, Strategy, TransactorExt as _, Tx, UnitEvent,
};
use sqlx::Pool;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::increments::{counter, increment, value};
use super::outcomes::set_value;
use crate::support::{ServerBackend, TestBackend, eventually, with_longer_limits};

/// Distinguishes slow from never, even on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) async fn a_panicking_unit_rolls_back_and_releases_its_connection<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let task = {
        let db = db.clone();
        tokio::spawn(async move {
            db.run(async |tx: &mut Tx<DB>| {
                set_value(tx, 9).await?;
                if tx.attempt() == 1 {
                    panic!("the unit panics");
                }
                Ok::<_, Error>(())
            })
            .await
        })
    };
    assert!(task.await.expect_err("the unit panics").is_panic());
    timeout(TEST_TIMEOUT, db.run(increment::<DB>)).await.expect("in time").expect("a commit after the panic");
    eventually(0, async || DB::open_transactions(&pool).await).await;
    assert_eq!(value(&pool).await, 1);
}

pub(crate) async fn times_out_on_an_exhausted_pool<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let held = pool.acquire().await.expect("the only connection");
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_millis(100));
    let run = db.run(increment::<DB>);
    let error = timeout(TEST_TIMEOUT, run).await.expect("in time").expect_err("no connection");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.is_unavailable() && error.is_exhausted());
    assert!(error.to_string().contains("all 1 connections of the pool stayed in use"), "{error}");
    drop(held);
    Pessimistic::default().on(&pool).run(increment::<DB>).await.expect("a commit");
    assert_eq!(value(&pool).await, 1);
}

pub(crate) async fn times_out_on_a_locked_row<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let blocker = DB::blocker(&pool.url).await;
    let deadline = Duration::from_millis(1500);

    let run = async { Pessimistic::default().on(&pool).deadline(deadline).run(increment::<DB>).await };
    let error = timeout(TEST_TIMEOUT, run).await.expect("in time").expect_err("the row is locked");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");

    let run = async {
        let db = Serializable::default().on(&pool).deadline(deadline);
        db.run(async |tx: &mut Tx<DB>| set_value(tx, 1).await.map_err(Error::from)).await
    };
    let error = timeout(TEST_TIMEOUT, run).await.expect("in time").expect_err("the row is locked");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");

    // A single statement may acquire its lock and commit after its caller has stopped waiting.
    with_longer_limits(deadline, async |deadline| {
        let db = Atomic::default().on(&pool).deadline(deadline);
        let run = db.apply(sqlx::raw_sql(DB::sql("UPDATE counter SET value = value + 0 WHERE id = 1")));
        let ended = timeout(deadline + TEST_TIMEOUT, run).await.expect("in time");
        let error = ended.expect_err("the row is locked");
        // Without a connection in time, nothing was sent.
        if error.is_unavailable() {
            return Err(error);
        }
        assert_eq!(error.kind(), ErrorKind::CommitUnknown, "{error:?}");
        Ok(())
    })
    .await;

    drop(blocker);
    eventually(0, async || DB::open_transactions(&pool).await).await;
    Pessimistic::default().on(&pool).run(increment::<DB>).await.expect("a commit");
    assert_eq!(value(&pool).await, 1);
}

/// The deadline interrupts the last attempt, and the error still reports the lock timeout of an earlier one.
pub(crate) async fn deadline_errors_report_an_earlier_lock_timeout<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let blocker = DB::blocker(&pool.url).await;
    let error = with_longer_limits(Duration::from_millis(2500), async |deadline| {
        let options = Options::new().lock_timeout(Duration::from_secs(1)).deadline(deadline).seed(1);
        let run = async { Pessimistic::default().on(&pool).options(options).run(increment::<DB>).await };
        let ended = timeout(deadline + TEST_TIMEOUT, run).await.expect("in time");
        let error = ended.expect_err("the row is locked");
        // The last attempt alone does not end with a lock timeout.
        if error.attempts() > Some(1) { Ok(error) } else { Err(error) }
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
    assert!(error.is_lock_timeout(), "{error:?}");
    drop(blocker);
}

pub(crate) async fn a_slow_unit_fails_at_its_deadline<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let has_written = AtomicBool::new(false);
    let error = with_longer_limits(Duration::from_millis(500), async |deadline| {
        let db = Pessimistic::default().on(&pool).deadline(deadline);
        let run = db.run(async |tx: &mut Tx<DB>| {
            set_value(tx, 9).await?;
            has_written.store(true, Ordering::Relaxed);
            std::future::pending::<()>().await;
            Ok::<_, Error>(())
        });
        let error = timeout(deadline + TEST_TIMEOUT, run).await.expect("in time").expect_err("too slow");
        if has_written.load(Ordering::Relaxed) { Ok(error) } else { Err(error) }
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.to_string().starts_with("deadline passed after 1 attempt in "), "{error}");
    eventually(0, async || DB::open_transactions(&pool).await).await;
    assert_eq!(value(&pool).await, 0);
}

/// The pool has one connection, so its next user gets the connection that the limits were set on.
pub(crate) async fn restores_the_sessions_limits_after_each_run<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let before = DB::limits(&pool).await;
    let db = Serializable::default().on(&pool).deadline(Duration::from_secs(3));

    db.run(increment::<DB>).await.expect("a commit");
    assert_eq!(DB::limits(&pool).await, before, "after a commit");

    let own_error = db.run(async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        assert_ne!(DB::limits_inside(tx).await, before.0, "no limit was set");
        Err::<(), Error>(sqlx::Error::RowNotFound.into())
    });
    own_error.await.expect_err("its own error");
    assert_eq!(DB::limits(&pool).await, before, "after a rollback");

    let failed = db.run(async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("INSERT INTO counter VALUES (1, 0, 0)"), &[]).await?;
        Ok::<_, Error>(())
    });
    let error = failed.await.expect_err("a duplicate");
    assert_eq!(error.failure().map(|failure| failure.kind()), Some(FailureKind::Constraint));
    assert_eq!(DB::limits(&pool).await, before, "after a failure");
}

pub(crate) async fn replaces_a_dead_pooled_connection<DB: ServerBackend>() {
    let pool = counter::<DB>(3).await;
    // The pool has three idle connections.
    let held = [pool.acquire().await, pool.acquire().await, pool.acquire().await]
        .map(|held| held.expect("a connection"));
    drop(held);
    eventually(3, async || pool.num_idle()).await;
    DB::kill_sessions(&pool.url).await;

    let db = Pessimistic::default().on(&pool).attempts(1);
    let attempt = db.run(async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        Ok::<_, Error>(tx.attempt())
    });
    assert_eq!(attempt.await.expect("on a fresh connection"), 1);
    assert_eq!(value(&pool).await, 1);
}

/// Servers store limits as 31 bits of milliseconds.
pub(crate) async fn accepts_limits_longer_than_servers_can_represent<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    for limit in [Duration::from_secs(10 * 365 * 24 * 60 * 60), Duration::MAX] {
        let options = DB::with_timeouts(Options::new().deadline(limit).lock_timeout(limit), limit);
        let db = Pessimistic::default().on(&pool).options(options);
        db.run(increment::<DB>).await.expect("an increment");
    }
}

/// The pool has one connection, and the next attempt begins hours later: another unit commits in the
/// meantime.
pub(crate) async fn releases_the_connection_before_the_backoff<DB: TestBackend>() {
    others_commit_during_a_backoff::<DB, _>(Pessimistic::default()).await;
    others_commit_during_a_backoff::<DB, _>(Optimistic::default()).await;
    others_commit_during_a_backoff::<DB, _>(Serializable::default()).await;
    others_commit_during_a_backoff::<DB, _>(Adaptive::default()).await;
    others_commit_during_a_backoff::<DB, _>(Atomic::default()).await;

    let pool = counter::<DB>(1).await;
    let faults = Faults::new().at(Moment::Statement(1), Fault::SerializationFailure);
    let (paused, backoff_started) = with_long_backoff(Atomic::default().on(&pool).options(faults.options()));
    let conflict = async move {
        paused.apply(sqlx::raw_sql(DB::sql("UPDATE counter SET value = value + 1"))).await.map(drop)
    };
    assert_another_unit_commits(&pool, conflict, &backoff_started).await;
}

async fn others_commit_during_a_backoff<DB: TestBackend, S: Strategy + Clone>(strategy: S) {
    let pool = counter::<DB>(1).await;
    let db = PoolTransactor::new(strategy, &pool.pool);
    for db in [db.clone(), db.clone().reuse_connections(), db.options(Options::new().on_key("a key"))] {
        let (paused, backoff_started) = with_long_backoff(db);
        let conflict = async move {
            let unit = async |tx: &mut Tx<DB>| {
                increment(tx).await?;
                tx.expect_one(0)
            };
            paused.run(unit).await
        };
        assert_another_unit_commits(&pool, conflict, &backoff_started).await;
    }
}

/// Returns the transactor with backoffs of hours, and a notification that is sent when a backoff begins.
fn with_long_backoff<DB: TestBackend, S: Strategy>(
    db: PoolTransactor<DB, S>,
) -> (PoolTransactor<DB, S>, Arc<Notify>) {
    let day = Duration::from_secs(24 * 60 * 60);
    let backoff_started = Arc::<Notify>::default();
    let notified = backoff_started.clone();
    let long_backoff = Options::new().backoff(Backoff::exponential(day, day)).deadline(20 * day).seed(1);
    let db = db.options(long_backoff).observed_by(move |event: &Event<'_>| {
        if let Event::Unit { event: UnitEvent::BackingOff { delay }, .. } = event {
            assert!(*delay > TEST_TIMEOUT, "the backoff is too short for the test: {delay:?}");
            notified.notify_one();
        }
    });
    (db, backoff_started)
}

async fn assert_another_unit_commits<DB: TestBackend>(
    pool: &Pool<DB>,
    paused: impl Future<Output = Result<(), Error>> + Send + 'static,
    backoff_started: &Notify,
) {
    let before = value(pool).await;
    let paused = tokio::spawn(paused);
    timeout(TEST_TIMEOUT, backoff_started.notified()).await.expect("a backoff begins");
    let other = Pessimistic::default().on(pool);
    timeout(TEST_TIMEOUT, other.run(increment::<DB>))
        .await
        .expect("the connection is idle")
        .expect("a commit");
    assert!(!paused.is_finished(), "the run did not wait for its next attempt");
    assert_eq!(value(pool).await, before + 1);
    paused.abort();
    let _ = paused.await;
}
