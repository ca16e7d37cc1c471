//! Every wait has a limit, and nothing is left behind.

use std::sync::Arc;
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
use crate::support::{ServerBackend, TestBackend, eventually};

/// Only to tell "in time" from "never", on the busiest of machines.
const FOR_EVER: Duration = Duration::from_secs(20);

pub(crate) async fn a_panic_leaks_nothing<DB: TestBackend>() {
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
    assert!(task.await.expect_err("a panic is not run again").is_panic());
    timeout(FOR_EVER, db.run(increment::<DB>)).await.expect("in time").expect("the pool is usable at once");
    eventually(0, async || DB::open_transactions(&pool).await).await;
    assert_eq!(value(&pool).await, 1);
}

pub(crate) async fn an_exhausted_pool_is_a_typed_error_in_time<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let held = pool.acquire().await.expect("the only connection");
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_millis(100));
    let run = db.run(increment::<DB>);
    let error = timeout(FOR_EVER, run).await.expect("in time").expect_err("no connection");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.is_unavailable() && error.is_exhausted());
    assert!(error.to_string().contains("all 1 connections of the pool stayed in use"), "{error}");
    drop(held);
    Pessimistic::default().on(&pool).run(increment::<DB>).await.expect("usable again");
    assert_eq!(value(&pool).await, 1);
}

pub(crate) async fn a_locked_row_is_a_typed_error_in_time<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let blocker = DB::blocker(&pool.url).await;
    let deadline = Duration::from_millis(500);

    let run = async { Pessimistic::default().on(&pool).deadline(deadline).run(increment::<DB>).await };
    let error = timeout(FOR_EVER, run).await.expect("in time").expect_err("the row is locked");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");

    let run = async {
        let db = Serializable::default().on(&pool).deadline(deadline);
        db.run(async |tx: &mut Tx<DB>| set_value(tx, 1).await.map_err(Error::from)).await
    };
    let error = timeout(FOR_EVER, run).await.expect("in time").expect_err("the row is locked");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");

    // A lone statement that nobody waits for any more may still get its lock, and commit.
    let db = Atomic::default().on(&pool).deadline(deadline);
    let run = db.apply(sqlx::raw_sql(DB::sql("UPDATE counter SET value = value + 0 WHERE id = 1")));
    let error = timeout(FOR_EVER, run).await.expect("in time").expect_err("the row is locked");
    assert_eq!(error.kind(), ErrorKind::CommitUnknown, "{error:?}");

    drop(blocker);
    eventually(0, async || DB::open_transactions(&pool).await).await;
    Pessimistic::default().on(&pool).run(increment::<DB>).await.expect("usable again");
    assert_eq!(value(&pool).await, 1);
}

/// Although the last attempt is cut short by the deadline.
pub(crate) async fn a_lock_timeout_below_the_deadline_is_reported<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let blocker = DB::blocker(&pool.url).await;
    let options =
        Options::new().lock_timeout(Duration::from_secs(1)).deadline(Duration::from_millis(2500)).seed(1);
    let run = async { Pessimistic::default().on(&pool).options(options).run(increment::<DB>).await };
    let error = timeout(FOR_EVER, run).await.expect("in time").expect_err("the row is locked");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
    assert!(error.is_lock_timeout(), "{error:?}");
    drop(blocker);
}

pub(crate) async fn a_slow_unit_meets_its_deadline<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_millis(50));
    let run = db.run(async |tx: &mut Tx<DB>| {
        set_value(tx, 9).await?;
        std::future::pending::<()>().await;
        Ok::<_, Error>(())
    });
    let error = timeout(FOR_EVER, run).await.expect("in time").expect_err("too slow");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    assert!(error.to_string().starts_with("deadline passed after 1 attempt in "), "{error}");
    eventually(0, async || DB::open_transactions(&pool).await).await;
    assert_eq!(value(&pool).await, 0);
}

/// One connection: the next borrower gets the very one that the limits were set on.
pub(crate) async fn no_limit_is_left_behind<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let before = DB::limits(&pool).await;
    let db = Serializable::default().on(&pool).deadline(Duration::from_secs(3));

    db.run(increment::<DB>).await.expect("a commit");
    assert_eq!(DB::limits(&pool).await, before, "after a commit");

    let own = db.run(async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        assert_ne!(DB::limits_inside(tx).await, before.0, "no limit was set at all");
        Err::<(), Error>(sqlx::Error::RowNotFound.into())
    });
    own.await.expect_err("its own error");
    assert_eq!(DB::limits(&pool).await, before, "after a rollback");

    let failed = db.run(async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("INSERT INTO counter VALUES (1, 0, 0)"), &[]).await?;
        Ok::<_, Error>(())
    });
    let error = failed.await.expect_err("a duplicate");
    assert_eq!(error.failure().map(|failure| failure.kind()), Some(FailureKind::Constraint));
    assert_eq!(DB::limits(&pool).await, before, "after a failure");
}

pub(crate) async fn a_dead_pooled_connection_is_replaced<DB: ServerBackend>() {
    let pool = counter::<DB>(3).await;
    // Three connections, all of them idle.
    let held = [pool.acquire().await, pool.acquire().await, pool.acquire().await]
        .map(|held| held.expect("one of three"));
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

/// Servers count in 31 bits of milliseconds.
pub(crate) async fn limits_may_be_longer_than_servers_can_count<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    for limit in [Duration::from_secs(10 * 365 * 24 * 60 * 60), Duration::MAX] {
        let options = DB::with_timeouts(Options::new().deadline(limit).lock_timeout(limit), limit);
        let db = Pessimistic::default().on(&pool).options(options);
        db.run(increment::<DB>).await.expect("an increment");
    }
}

/// The pool has one connection, and the next attempt comes in some hours: meanwhile another unit commits.
pub(crate) async fn a_backoff_holds_no_connection<DB: TestBackend>() {
    others_commit_during_a_backoff::<DB, _>(Pessimistic::default()).await;
    others_commit_during_a_backoff::<DB, _>(Optimistic::default()).await;
    others_commit_during_a_backoff::<DB, _>(Serializable::default()).await;
    others_commit_during_a_backoff::<DB, _>(Adaptive::default()).await;
    others_commit_during_a_backoff::<DB, _>(Atomic::default()).await;

    let pool = counter::<DB>(1).await;
    let faults = Faults::new().at(Moment::Statement(1), Fault::SerializationFailure);
    let (paused, backs_off) = pausing(Atomic::default().on(&pool).options(faults.options()));
    let conflict = async move {
        paused.apply(sqlx::raw_sql(DB::sql("UPDATE counter SET value = value + 1"))).await.map(drop)
    };
    another_unit_commits(&pool, conflict, &backs_off).await;
}

async fn others_commit_during_a_backoff<DB: TestBackend, S: Strategy + Clone>(strategy: S) {
    let pool = counter::<DB>(1).await;
    let db = PoolTransactor::new(strategy, &pool.pool);
    for db in [db.clone(), db.clone().reuse_connections(), db.options(Options::new().on_key("a key"))] {
        let (paused, backs_off) = pausing(db);
        let conflict = async move {
            let unit = async |tx: &mut Tx<DB>| {
                increment(tx).await?;
                tx.expect_one(0)
            };
            paused.run(unit).await
        };
        another_unit_commits(&pool, conflict, &backs_off).await;
    }
}

/// The same transactor with delays of hours between attempts, and what it notifies when one begins.
fn pausing<DB: TestBackend, S: Strategy>(db: PoolTransactor<DB, S>) -> (PoolTransactor<DB, S>, Arc<Notify>) {
    let day = Duration::from_secs(24 * 60 * 60);
    let backs_off = Arc::<Notify>::default();
    let notified = backs_off.clone();
    let pausing = Options::new().backoff(Backoff::exponential(day, day)).deadline(20 * day).seed(1);
    let db = db.options(pausing).observed_by(move |event: &Event<'_>| {
        if let Event::Unit { event: UnitEvent::BackingOff { delay }, .. } = event {
            assert!(*delay > FOR_EVER, "the pause is over before anything can be shown: {delay:?}");
            notified.notify_one();
        }
    });
    (db, backs_off)
}

async fn another_unit_commits<DB: TestBackend>(
    pool: &Pool<DB>,
    paused: impl Future<Output = Result<(), Error>> + Send + 'static,
    backs_off: &Notify,
) {
    let before = value(pool).await;
    let paused = tokio::spawn(paused);
    timeout(FOR_EVER, backs_off.notified()).await.expect("it is going to be tried again");
    let other = Pessimistic::default().on(pool);
    timeout(FOR_EVER, other.run(increment::<DB>)).await.expect("the connection is free").expect("a commit");
    assert!(!paused.is_finished(), "it was to wait for another attempt");
    assert_eq!(value(pool).await, before + 1);
    paused.abort();
    let _ = paused.await;
}
