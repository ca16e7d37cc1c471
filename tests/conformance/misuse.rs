//! Mistakes that are told early.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::{
    Atomic, Error, ErrorKind, Event, Optimistic, Options, Pessimistic, TransactorExt as _, Tx, UnitEvent,
};
use tokio::sync::Notify;

use super::increments::{counter, increment, value};
use crate::support::TestBackend;

pub(crate) async fn a_run_inside_of_a_run_is_refused<DB: TestBackend>() {
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

    // One after the other, and on another pool, is fine.
    let elsewhere = counter::<DB>(1).await;
    let second = Pessimistic::default().on(&elsewhere);
    db.run(async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        second.run(increment::<DB>).await
    })
    .await
    .expect("two transactions of two pools");
    other.run(increment::<DB>).await.expect("behind the first");
    assert_eq!(value(&pool).await, 2);
}

/// Whoever finds it, the driver or the server. SQLite takes a value that is missing for NULL.
pub(crate) async fn a_missing_value_is_an_error_at_once<DB: TestBackend>() {
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

    let lone = Atomic::default().on(&pool);
    let error = DB::apply(&lone, update(), &[7]).await.expect_err("a value is missing");
    assert_eq!(error.kind(), ErrorKind::Database, "{error:?}");
    assert_eq!(DB::apply(&lone, update(), &[7, 1]).await.expect("a commit"), 1);
    assert_eq!(value(&pool).await, 7);
    let opened = opened.load(Ordering::Relaxed);
    assert!(opened <= 3, "{opened} connections for two mistakes");
}

pub(crate) async fn a_second_connection_differs_from_a_busy_pool<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let options = pool.options().clone().acquire_timeout(Duration::from_millis(100));
    let pool = options.connect(&pool.url).await.expect("an impatient pool");
    let db = Pessimistic::default().on(&pool);
    let asks_for_another = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        DB::pool_fetch(&pool, DB::sql("SELECT 1"), &[]).await?;
        Ok::<_, Error>(())
    };
    let error = db.run(asks_for_another).await.expect_err("there is only one");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert!(error.to_string().contains("on `tx`"), "{error}");

    // A deadline that comes first says it, too.
    let patient = pool.options().clone().acquire_timeout(Duration::from_secs(60));
    let pool = patient.connect_lazy_with((*pool.connect_options()).clone());
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_millis(300));
    let asks_for_another = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        DB::pool_fetch(&pool, DB::sql("SELECT 1"), &[]).await?;
        Ok::<_, Error>(())
    };
    let error = db.run(asks_for_another).await.expect_err("there is only one");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error:?}");
    assert!(error.to_string().contains("on `tx`"), "{error}");
}

/// Whoever waits for the pool while holding its only connection waits in vain, which is reported long before
/// it times out.
pub(crate) async fn an_idle_unit_reports_an_exhausted_pool<DB: TestBackend>() {
    for (connections, wanted) in [(1, true), (2, false)] {
        let server = counter::<DB>(connections).await;
        let options = server.options().clone().acquire_timeout(Duration::from_secs(60));
        let pool = options.connect(&server.url).await.expect("a patient pool");
        let (found, reported) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let (notes, tell) = (found.clone(), reported.clone());
        let db = Pessimistic::default()
            .on(&pool)
            .options(Options::new().idle_warning(Duration::from_millis(30)))
            .observed_by(move |event: &Event<'_>| {
                if let Event::Unit { event: UnitEvent::Idle { pool_exhausted, .. }, .. } = event {
                    notes.lock().expect("the notes").push(*pool_exhausted);
                    tell.notify_one();
                }
            });
        let waits = async |tx: &mut Tx<DB>| {
            increment(tx).await?;
            let on_the_pool = async {
                if wanted {
                    let _ = DB::pool_fetch(&pool, DB::sql("SELECT 1"), &[]).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = on_the_pool => {}
                () = reported.notified() => {}
            }
            Ok::<_, Error>(())
        };
        db.run(waits).await.expect("a commit");
        assert_eq!(*found.lock().expect("the notes"), [wanted], "{connections} connections");
    }
}

/// Every call of the crate that takes a connection of its own.
pub(crate) async fn calls_on_the_pool_of_a_unit_are_refused<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let lone = Atomic::default().on(&pool);
    let inside = async |tx: &mut Tx<DB>| {
        increment(tx).await?;
        let update = DB::sql("UPDATE counter SET value = 7 WHERE id = 1");
        let refused = [
            ("apply", DB::apply(&lone, update, &[]).await.map(drop)),
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
    db.run(inside).await.expect("the unit goes on");
    assert_eq!(value(&pool).await, 1);
}

/// Two create what neither finds; the second one finds it when it looks again.
pub(crate) async fn get_or_create_needs_one_more_look<DB: TestBackend>() {
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
                // SQLite would see the rival's write as a conflict: meet the violation itself.
                DB::execute(tx, DB::sql("INSERT INTO counter VALUES (1, 0, 0)"), &[]).await?;
            }
            DB::execute(tx, DB::sql("INSERT INTO counter VALUES (7, 1, 1)"), &[]).await?;
        }
        Ok::<_, Error>(tx.attempt())
    };
    let attempts =
        db.with(Options::new().retry_unique(3)).run(get_or_create).await.expect("found or created");
    assert_eq!(attempts, 2);

    let always = async |tx: &mut Tx<DB>| {
        let insert = DB::sql("INSERT INTO counter VALUES (1, 0, 0)");
        DB::execute(tx, insert, &[]).await?;
        Ok::<_, Error>(())
    };
    let error = db.with(Options::new().retry_unique(2)).run(always).await.expect_err("it stays taken");
    assert_eq!(error.kind(), ErrorKind::Constraint, "bounded: {error:?}");
}
