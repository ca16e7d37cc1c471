//! Which unique violations `retry_unique` retries.

use std::sync::atomic::{AtomicU32, Ordering};

use atomically::{Error, Options, Pessimistic, TransactorExt as _, Tx};

use crate::counter;
use crate::support::TestBackend;

#[derive(Debug)]
enum Refused {
    Own,
    Other(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

async fn duplicate<DB: TestBackend>(tx: &mut Tx<DB>) -> Result<(), Error> {
    DB::execute(tx, DB::sql("INSERT INTO counter VALUES (1, 0, 0)"), &[]).await?;
    Ok(())
}

/// The unit handles the violation, and fails for another reason.
pub(crate) async fn a_violation_within_a_savepoint_is_not_retried<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool).options(Options::new().retry_unique(3));
    let attempts = AtomicU32::new(0);
    let run = db.run(async |tx: &mut Tx<DB>| {
        attempts.fetch_add(1, Ordering::Relaxed);
        let rescued = tx.savepoint(duplicate::<DB>).await;
        assert!(rescued.is_err_and(|error| error.constraint().is_some()));
        Err::<(), _>(Refused::Own)
    });
    assert!(matches!(run.await, Err(Refused::Own)));
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}

pub(crate) async fn a_violation_that_ends_the_unit_is_retried<DB: TestBackend>() {
    let pool = counter::<DB>(1).await;
    let db = Pessimistic::default().on(&pool).options(Options::new().retry_unique(3));
    let attempts = AtomicU32::new(0);
    let run = db.run(async |tx: &mut Tx<DB>| {
        attempts.fetch_add(1, Ordering::Relaxed);
        let _ = tx.savepoint(duplicate::<DB>).await;
        duplicate(tx).await?;
        Ok::<_, Refused>(())
    });
    assert!(matches!(run.await, Err(Refused::Other(error)) if error.constraint().is_some()));
    assert_eq!(attempts.load(Ordering::Relaxed), 4);
}
