//! Statements that a unit runs on the connection itself, so that the transaction does not observe them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use atomically::{Error, ErrorKind, Optimistic, Serializable, TransactorExt as _, Tx};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::increments::{counter, patient, value};
use super::outcomes::{TextError, set_value};
use crate::support::{TestBackend, eventually};

const UNITS: u32 = 4;

/// The unit's own error would imply that nothing was stored.
pub(crate) async fn reports_a_raw_commit_before_the_units_own_error<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Optimistic::default().on(&pool);
    let runs = AtomicU32::new(0);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            runs.fetch_add(1, Ordering::Relaxed);
            set_value(tx, 5).await.map_err(Error::from)?;
            DB::raw(tx.connection()?, "COMMIT").await.map_err(Error::from)?;
            Err::<(), _>(TextError("its own".to_owned()))
        })
        .await
        .expect_err("the unit has committed and failed");
    assert!(error.0.contains("statements that ran outside of it may be stored"), "{error:?}");
    assert_eq!((value(&pool).await, runs.into_inner()), (5, 1));
    eventually(0, async || DB::open_transactions(&pool).await).await;
}

/// Each further attempt would store the committed increment once more.
pub(crate) async fn does_not_retry_a_conflict_after_a_raw_commit<DB: TestBackend>() {
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

pub(crate) async fn retries_conflicts_of_raw_statements<DB: TestBackend>() {
    increments_on_the_connection::<DB>(false).await;
}

pub(crate) async fn retries_ignored_conflicts_of_raw_statements<DB: TestBackend>() {
    increments_on_the_connection::<DB>(true).await;
}

/// All units read on the connection before the first of them writes, so only one of them can commit its first
/// attempt.
async fn increments_on_the_connection<DB: TestBackend>(ignores_errors: bool) {
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
                // An error that the unit created and handled must not affect the classification of the next
                // one.
                let _handled = Error::from(sqlx::Error::WorkerCrashed);
                let update = "UPDATE counter SET value = value + 1 WHERE id = 1";
                let updated = DB::raw(tx.connection()?, update).await.map_err(Error::from);
                if ignores_errors { Ok(()) } else { updated }
            })
            .await
        });
    }
    for ended in units.join_all().await {
        ended.expect("an increment");
    }
    assert_eq!(value(&pool).await, i64::from(UNITS));
    assert!(attempts.load(Ordering::Relaxed) > UNITS, "no conflict occurred, so the test proves nothing");
}
