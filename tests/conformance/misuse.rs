//! Mistakes of callers that are reported early.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::{
    Atomic, Error, ErrorKind, Event, Optimistic, Options, Pessimistic, PoolTransactor, TransactorExt as _,
    Tx, UnitEvent,
};
use sqlx::Pool;
use tokio::sync::Notify;

use super::increments::{counter, increment, value};
use crate::support::{TestBackend, eventually, with_longer_limits};

pub(crate) async fn refuses_a_nested_run<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let other = Optimistic::default().on(&pool);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            increment(tx).await?;
            other.run(increment::<DB>).await
        })
        .await
        .expect_err("a second transaction");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert!(error.to_string().contains("tx.savepoint"), "{error}");
    assert_eq!(value(&pool).await, 0);

    // Consecutive runs, and runs on different pools, are allowed.
    let elsewhere = counter::<DB>(1).await;
    let second = Pessimistic::default().on(&elsewhere);
    db.run(async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        second.run(increment::<DB>).await
    })
    .await
    .expect("two transactions of two pools");
    other.run(increment::<DB>).await.expect("a run after the first one");
    assert_eq!(value(&pool).await, 2);
}

/// Either the driver or the server detects it. SQLite treats a missing parameter as NULL.
pub(crate) async fn does_not_retry_a_missing_parameter<DB: TestBackend>() {
    let server = counter::<DB>(1).await;
    let opened = Arc::new(AtomicU32::new(0));
    let counted = opened.clone();
    let options = server.options().clone().after_connect(move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    });
    let pool = options.connect(&server.url).await.expect("a pool");
    let update = || DB::sql("UPDATE counter SET value = ? WHERE id = ?");

    let attempts = AtomicU32::new(0);
    let db = Pessimistic::default().on(&pool);
    let run = db.run(async |tx: &mut Tx<DB>| {
        attempts.fetch_add(1, Ordering::Relaxed);
        Ok::<_, Error>(DB::execute(tx, update(), &[7]).await?)
    });
    let error = run.await.expect_err("a value is missing");
    assert_eq!(error.kind(), ErrorKind::Database, "{error:?}");
    assert!(error.to_string().contains("parameter"), "{error}");
    assert_eq!(attempts.load(Ordering::Relaxed), 1);

    let single = Atomic::default().on(&pool);
    let error = DB::apply(&single, update(), &[7]).await.expect_err("a value is missing");
    assert_eq!(error.kind(), ErrorKind::Database, "{error:?}");
    assert_eq!(DB::apply(&single, update(), &[7, 1]).await.expect("a commit"), 1);
    assert_eq!(value(&pool).await, 7);
    let opened = opened.load(Ordering::Relaxed);
    assert!(opened <= 3, "{opened} connections for two mistakes");
}

pub(crate) async fn reports_a_unit_that_waits_for_a_second_connection<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let error = with_longer_limits(Duration::from_secs(1), async |limit| {
        let options = pool.options().clone().acquire_timeout(limit);
        let pool = options.connect_lazy_with((*pool.connect_options()).clone());
        let db = Pessimistic::default().on(&pool).deadline(4 * limit).attempts(1);
        waits_for_a_second_connection(&db, &pool).await
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert!(error.to_string().contains("on `tx`"), "{error}");

    // If the deadline is shorter than the acquire timeout, its error says the same.
    let error = with_longer_limits(Duration::from_secs(2), async |deadline| {
        let options = pool.options().clone().acquire_timeout(4 * deadline);
        let pool = options.connect_lazy_with((*pool.connect_options()).clone());
        let db = Pessimistic::default().on(&pool).deadline(deadline);
        waits_for_a_second_connection(&db, &pool).await
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
    assert!(error.to_string().contains("on `tx`"), "{error}");
}

/// Returns the error of the run, or `Err` if the unit has not requested the connection in time.
async fn waits_for_a_second_connection<DB: TestBackend>(
    db: &PoolTransactor<DB, Pessimistic>,
    pool: &Pool<DB>,
) -> Result<Error, Error> {
    let waits = AtomicBool::new(false);
    let requests_another_connection = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        waits.store(true, Ordering::Relaxed);
        DB::pool_fetch(pool, DB::sql("SELECT 1"), &[]).await?;
        Ok::<_, Error>(())
    };
    let error = db.run(requests_another_connection).await.expect_err("the pool has one connection");
    if waits.load(Ordering::Relaxed) { Ok(error) } else { Err(error) }
}

/// A unit that waits for the pool while it holds the only connection cannot succeed. This is reported long
/// before the wait times out.
pub(crate) async fn idle_events_report_an_exhausted_pool<DB: TestBackend>() {
    for (connections, is_exhausted) in [(1, true), (2, false)] {
        let server = counter::<DB>(connections).await;
        let options = server.options().clone().acquire_timeout(Duration::from_secs(60));
        let pool = options.connect(&server.url).await.expect("a pool");
        // Otherwise the unit might open the other connection, and both would be in use.
        eventually(1, async || pool.num_idle()).await;
        let (events, reported) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let (recorded, notify) = (events.clone(), reported.clone());
        let db = Pessimistic::default()
            .on(&pool)
            .options(Options::new().idle_warning(Duration::from_millis(300)))
            .observed_by(move |event: &Event<'_>| {
                if let Event::Unit { event: UnitEvent::Idle { pool_exhausted, .. }, .. } = event {
                    recorded.lock().expect("the events").push(*pool_exhausted);
                    notify.notify_one();
                }
            });
        let unit = async |tx: &mut Tx<DB>| {
            increment(tx).await?;
            let waits_for_the_pool = async {
                if is_exhausted {
                    let _ = DB::pool_fetch(&pool, DB::sql("SELECT 1"), &[]).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = waits_for_the_pool => {}
                () = reported.notified() => {}
            }
            Ok::<_, Error>(())
        };
        db.run(unit).await.expect("a commit");
        assert_eq!(*events.lock().expect("the events"), [is_exhausted], "{connections} connections");
    }
}

/// Covers every call of the crate that acquires a connection.
pub(crate) async fn refuses_calls_on_the_units_own_pool<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let single = Atomic::default().on(&pool);
    let inside = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        let update = DB::sql("UPDATE counter SET value = 7 WHERE id = 1");
        let refused = [
            ("apply", DB::apply(&single, update, &[]).await.map(drop)),
            ("run", db.run(increment::<DB>).await),
            ("create_operation_table", db.create_operation_table().await),
            ("purge_operations", db.purge_operations(Duration::from_secs(1)).await.map(drop)),
        ];
        for (call, refused) in refused {
            let error = refused.expect_err(call);
            assert_eq!(error.kind(), ErrorKind::Aborted, "{call}: {error}");
            assert!(error.to_string().contains("tx.savepoint"), "{call}: {error}");
        }
        Ok::<_, Error>(())
    };
    db.run(inside).await.expect("the unit continues");
    assert_eq!(value(&pool).await, 1);
}

/// Two units try to create a row that neither has found, and the second one finds it in its next attempt.
pub(crate) async fn get_or_create_retries_a_unique_violation<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Optimistic::default().on(&pool);
    let other = pool.pool.clone();
    let get_or_create = async |tx: &mut Tx<DB>| {
        let look = DB::sql("SELECT COUNT(*) FROM counter WHERE id = 7");
        if DB::fetch(tx, look, &[]).await? == 0 {
            if tx.attempt() == 1 && DB::NAME != "SQLite" {
                let rival = DB::sql("INSERT INTO counter VALUES (7, 0, 0)");
                DB::pool_execute(&other, rival, &[]).await?;
            } else if tx.attempt() == 1 {
                // SQLite would report the rival's write as a conflict, so the unit causes the violation
                // itself.
                DB::execute(tx, DB::sql("INSERT INTO counter VALUES (1, 0, 0)"), &[]).await?;
            }
            DB::execute(tx, DB::sql("INSERT INTO counter VALUES (7, 1, 1)"), &[]).await?;
        }
        Ok::<_, Error>(tx.attempt())
    };
    let attempts =
        db.with(Options::new().retry_unique(3)).run(get_or_create).await.expect("found or created");
    assert_eq!(attempts, 2);

    let violates = async |tx: &mut Tx<DB>| {
        let insert = DB::sql("INSERT INTO counter VALUES (1, 0, 0)");
        DB::execute(tx, insert, &[]).await?;
        Ok::<_, Error>(())
    };
    let error = db.with(Options::new().retry_unique(2)).run(violates).await.expect_err("always a violation");
    assert_eq!(error.kind(), ErrorKind::Constraint, "the retries are limited: {error:?}");
}
