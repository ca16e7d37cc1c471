//! What a unit does on the connection itself, where the transaction cannot see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use atomically::{Error, ErrorKind, Optimistic, Serializable, TransactorExt as _, Tx};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::increments::{counter, patient, value};
use super::outcomes::{Text, set_value};
use crate::support::{TestBackend, eventually};

const UNITS: u32 = 4;

/// The unit's own error would say that nothing was stored.
pub(crate) async fn a_commit_before_an_own_error_is_reported<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Optimistic::default().on(&pool);
    let runs = AtomicU32::new(0);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            runs.fetch_add(1, Ordering::Relaxed);
            set_value(tx, 5).await.map_err(Error::from)?;
            DB::raw(tx.connection()?, "COMMIT").await.map_err(Error::from)?;
            Err::<(), _>(Text("its own".to_owned()))
        })
        .await
        .expect_err("stored, although the unit failed");
    assert!(error.0.contains("statements that ran outside of it may be stored"), "{error:?}");
    assert_eq!((value(&pool).await, runs.into_inner()), (5, 1));
    eventually(0, async || DB::open_transactions(&pool).await).await;
}

/// Each further attempt would store once more what was committed.
pub(crate) async fn a_commit_before_a_conflict_is_not_run_again<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Optimistic::default().on(&pool).attempts(3);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            DB::execute(tx, DB::sql("UPDATE counter SET value = value + 1 WHERE id = 1"), &[]).await?;
            DB::raw(tx.connection()?, "COMMIT").await?;
            tx.expect_one(0)
        })
        .await
        .expect_err("not one transaction");
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Aborted, Some(1)), "{error:?}");
    assert_eq!(value(&pool).await, 1);
    eventually(0, async || DB::open_transactions(&pool).await).await;
}

pub(crate) async fn conflicts_are_retried<DB: TestBackend>() {
    increments_on_the_connection::<DB>(false).await;
}

pub(crate) async fn swallowed_conflicts_are_retried<DB: TestBackend>() {
    increments_on_the_connection::<DB>(true).await;
}

/// All units have read, on the connection, before the first of them writes there: only one can go on.
async fn increments_on_the_connection<DB: TestBackend>(swallows: bool) {
    let pool = counter::<DB>(UNITS).await;
    let db = patient(Serializable::default(), &pool);
    let (have_read, attempts) = (Arc::new(Barrier::new(UNITS as usize)), Arc::new(AtomicU32::new(0)));
    let mut units = JoinSet::new();
    for _ in 0..UNITS {
        let (db, have_read, attempts) = (db.clone(), have_read.clone(), attempts.clone());
        units.spawn(async move {
            db.run(async |tx: &mut Tx<DB>| {
                attempts.fetch_add(1, Ordering::Relaxed);
                DB::raw(tx.connection()?, "SELECT value FROM counter WHERE id = 1").await?;
                if tx.attempt() == 1 {
                    have_read.wait().await;
                }
                // An error that was handled says nothing about the next one.
                let _handled = Error::from(sqlx::Error::WorkerCrashed);
                let update = "UPDATE counter SET value = value + 1 WHERE id = 1";
                let updated = DB::raw(tx.connection()?, update).await.map_err(Error::from);
                if swallows { Ok(()) } else { updated }
            })
            .await
        });
    }
    for ended in units.join_all().await {
        ended.expect("an increment");
    }
    assert_eq!(value(&pool).await, i64::from(UNITS));
    assert!(attempts.load(Ordering::Relaxed) > UNITS, "no conflict happened, so nothing was shown");
}
