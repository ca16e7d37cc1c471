//! Savepoints: parts of a unit that are rolled back separately.

use std::sync::atomic::{AtomicU32, Ordering};

use atomically::{Error, ErrorKind, Optimistic, Pessimistic, TransactorExt as _, Tx};
use tokio::sync::{Barrier, Notify};

use super::increments::{counter, patient, value};
use super::outcomes::set_value;
use crate::support::{TestBackend, eventually};

async fn insert_again<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    DB::execute(tx, DB::sql("INSERT INTO counter VALUES (1, 0, 0)"), &[]).await?;
    Ok(())
}

pub(crate) async fn a_unit_continues_after_a_violation_in_a_savepoint<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| {
        set_value(tx, 1).await?;
        let violation = tx
            .savepoint(async |tx: &mut Tx<DB>| {
                set_value(tx, 2).await?;
                insert_again(tx).await
            })
            .await;
        assert!(violation.expect_err("a duplicate").constraint().is_some());
        DB::execute(tx, DB::sql("UPDATE counter SET value = value + 10 WHERE id = 1"), &[]).await?;
        Ok::<_, Error>(())
    })
    .await
    .expect("a commit");
    assert_eq!(value(&pool).await, 11);
}

pub(crate) async fn savepoints_can_be_nested<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let add = async |tx: &mut Tx<DB>, n: i64| {
        DB::execute(tx, DB::sql("UPDATE counter SET value = value + ? WHERE id = 1"), &[n]).await?;
        Ok::<_, Error>(())
    };
    db.run(async |tx: &mut Tx<DB>| {
        add(tx, 1).await?;
        tx.savepoint(async |tx: &mut Tx<DB>| {
            add(tx, 10).await?;
            let inner: Result<(), Error> = tx
                .savepoint(async |tx: &mut Tx<DB>| {
                    add(tx, 100).await?;
                    let innermost: Result<(), Error> =
                        tx.savepoint(async |tx: &mut Tx<DB>| add(tx, 1000).await).await;
                    innermost?;
                    Err(sqlx::Error::RowNotFound.into())
                })
                .await;
            assert!(inner.is_err());
            tx.savepoint(async |tx: &mut Tx<DB>| add(tx, 10_000).await).await
        })
        .await
    })
    .await
    .expect("a commit");
    assert_eq!(value(&pool).await, 10_011);
}

/// The savepoint's closure returns `Ok` although a statement has failed. The savepoint fails if the database
/// aborts the transaction, and is kept if the database rolls back only the failed statement.
pub(crate) async fn ignoring_a_failure_in_a_savepoint_loses_nothing_silently<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let outcome = db
        .run(async |tx: &mut Tx<DB>| {
            let savepoint = tx
                .savepoint(async |tx: &mut Tx<DB>| {
                    set_value(tx, 2).await?;
                    let _ = insert_again(tx).await;
                    Ok::<_, Error>(())
                })
                .await;
            Ok::<_, Error>(savepoint.is_ok())
        })
        .await
        .expect("the unit continues");
    assert_eq!((outcome, value(&pool).await), if DB::NAME == "PostgreSQL" { (false, 0) } else { (true, 2) });
}

/// Two units lock two rows in opposite orders, the second row inside of a savepoint whose error they discard.
pub(crate) async fn retries_a_deadlock_ignored_in_a_savepoint<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let db = patient(Optimistic::default(), &pool);
    let (attempts, both_hold_one) = (AtomicU32::new(0), Barrier::new(2));
    let (attempts, both_hold_one) = (&attempts, &both_hold_one);
    let add = || DB::sql("UPDATE counter SET value = value + 1 WHERE id = ?");
    let run = |first: i64, second: i64| {
        db.run(async move |tx: &mut Tx<DB>| {
            attempts.fetch_add(1, Ordering::Relaxed);
            DB::execute(tx, add(), &[first]).await?;
            if tx.attempt() == 1 {
                both_hold_one.wait().await;
            }
            let discarded: Result<(), Error> = tx
                .savepoint(async |tx: &mut Tx<DB>| {
                    DB::execute(tx, add(), &[second]).await?;
                    Ok(())
                })
                .await;
            if discarded.is_err() {
                // On MariaDB the deadlock has ended the transaction, so this statement would be committed
                // separately.
                let after = DB::execute(tx, add(), &[first]).await;
                assert!(after.is_err(), "a statement was sent after the deadlock");
            }
            Ok::<_, Error>(())
        })
    };
    let (one, other) = tokio::join!(run(1, 2), run(2, 1));
    one.expect("one commits");
    other.expect("the other commits");
    assert!(attempts.load(Ordering::Relaxed) > 2, "there was no deadlock");
    for id in [1, 2] {
        let value = DB::pool_fetch(&pool, DB::sql("SELECT value FROM counter WHERE id = ?"), &[id]).await;
        assert_eq!(value.expect("the row"), 2);
    }
}

/// No part of a dropped savepoint is committed.
pub(crate) async fn dropping_a_savepoint_aborts_the_transaction<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            let has_written = Notify::new();
            let savepoint = tx.savepoint(async |tx: &mut Tx<DB>| {
                set_value(tx, 5).await?;
                has_written.notify_one();
                std::future::pending::<()>().await;
                Ok::<_, Error>(())
            });
            tokio::select! {
                ended = savepoint => panic!("it never ends: {ended:?}"),
                () = has_written.notified() => {}
            }
            let next = set_value(tx, 6).await.expect_err("the transaction is aborted");
            assert!(next.to_string().contains("the future of a savepoint was dropped"), "{next}");
            Ok::<_, Error>(())
        })
        .await
        .expect_err("the transaction is aborted");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert_eq!(value(&pool).await, 0);
    eventually(0, async || DB::open_transactions(&pool).await).await;
}

/// The purpose of `NOWAIT`: try to lock a row, and continue without it.
pub(crate) async fn a_unit_continues_after_a_refused_lock_in_a_savepoint<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let blocker = DB::blocker(&pool.url).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| {
        let refused = tx
            .savepoint(async |tx: &mut Tx<DB>| {
                let select = DB::sql("SELECT value FROM counter WHERE id = 1 FOR UPDATE NOWAIT");
                Ok::<_, Error>(DB::fetch(tx, select, &[]).await?)
            })
            .await;
        assert!(refused.expect_err("the row is locked").is_lock_not_available());
        DB::execute(tx, DB::sql("UPDATE counter SET value = 7 WHERE id = 2"), &[]).await?;
        Ok::<_, Error>(())
    })
    .await
    .expect("a commit");
    drop(blocker);
    let other = DB::pool_fetch(&pool, DB::sql("SELECT value FROM counter WHERE id = 2"), &[]).await;
    assert_eq!(other.expect("the other row"), 7);
}
