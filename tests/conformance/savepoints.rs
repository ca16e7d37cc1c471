//! Parts of a unit that fail on their own.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use atomically::{Error, ErrorKind, Optimistic, Pessimistic, TransactorExt as _, Tx};
use tokio::sync::Barrier;

use super::increments::{counter, patient, value};
use super::outcomes::set_value;
use crate::support::{TestBackend, eventually};

async fn insert_again<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    DB::execute(tx, DB::sql("INSERT INTO counter VALUES (1, 0, 0)"), &[]).await?;
    Ok(())
}

pub(crate) async fn a_rescued_violation_lets_the_unit_go_on<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx: &mut Tx<DB>| {
        set_value(tx, 1).await?;
        let rescued = tx
            .savepoint(async |tx: &mut Tx<DB>| {
                set_value(tx, 2).await?;
                insert_again(tx).await
            })
            .await;
        assert!(rescued.expect_err("a duplicate").constraint().is_some());
        DB::execute(tx, DB::sql("UPDATE counter SET value = value + 10 WHERE id = 1"), &[]).await?;
        Ok::<_, Error>(())
    })
    .await
    .expect("a commit");
    assert_eq!(value(&pool).await, 11);
}

pub(crate) async fn savepoints_nest<DB: TestBackend>() {
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

/// The scope says `Ok` where its database has said no.
pub(crate) async fn a_scope_that_hides_a_failure_is_not_ok<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool);
    let outcome = db
        .run(async |tx: &mut Tx<DB>| {
            let hidden = tx
                .savepoint(async |tx: &mut Tx<DB>| {
                    set_value(tx, 2).await?;
                    let _ = insert_again(tx).await;
                    Ok::<_, Error>(())
                })
                .await;
            Ok::<_, Error>(hidden.is_ok())
        })
        .await
        .expect("the unit goes on");
    // Where the database undoes the statement alone, the rest of the scope stands.
    assert_eq!((outcome, value(&pool).await), if DB::NAME == "PostgreSQL" { (false, 0) } else { (true, 2) });
}

/// Two units lock two rows in opposite order, the second one inside a savepoint whose error they throw away.
pub(crate) async fn a_conflict_outlives_its_scope<DB: TestBackend>() {
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
            let thrown_away: Result<(), Error> = tx
                .savepoint(async |tx: &mut Tx<DB>| {
                    DB::execute(tx, add(), &[second]).await?;
                    Ok(())
                })
                .await;
            if thrown_away.is_err() {
                // On MariaDB this would be stored on its own: there is no transaction any more.
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

/// In mid-statement and between two statements: never half of a scope.
pub(crate) async fn a_dropped_scope_ends_the_transaction<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            let scope = tx.savepoint(async |tx: &mut Tx<DB>| {
                set_value(tx, 5).await?;
                std::future::pending::<()>().await;
                Ok::<_, Error>(())
            });
            assert!(tokio::time::timeout(Duration::from_millis(200), scope).await.is_err());
            let next = set_value(tx, 6).await.expect_err("fails fast");
            assert!(next.to_string().contains("the future of a savepoint was dropped"), "{next}");
            Ok::<_, Error>(())
        })
        .await
        .expect_err("never Ok");
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error:?}");
    assert_eq!(value(&pool).await, 0);
    eventually(0, async || DB::open_transactions(&pool).await).await;
}

/// What `NOWAIT` is for: try, and do something else.
pub(crate) async fn a_refused_lock_can_be_rescued<DB: TestBackend>() {
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
        assert!(refused.expect_err("held").is_lock_not_available());
        DB::execute(tx, DB::sql("UPDATE counter SET value = 7 WHERE id = 2"), &[]).await?;
        Ok::<_, Error>(())
    })
    .await
    .expect("a commit");
    drop(blocker);
    let other = DB::pool_fetch(&pool, DB::sql("SELECT value FROM counter WHERE id = 2"), &[]).await;
    assert_eq!(other.expect("the other row"), 7);
}
