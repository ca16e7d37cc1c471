//! Faults happen when they were planned, as the database's own do, and units survive them.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use atomically::testing::{Fault, Faults, Moment, RetryCheckError, assert_retry_safe, check_retry_safe};
use atomically::{
    Adaptive, Atomic, Ended, Error, ErrorKind, FailureKind, Optimistic, Options, Pessimistic, Resolve,
    Serializable, Transactor, TransactorExt as _, Tx, Unit,
};
use tokio::time::Instant;

use super::increments::{counter, increment, value};
use super::outcomes::set_value;
use crate::support::TestBackend;

const MOMENTS: [Moment; 4] = [Moment::Begin, Moment::Statement(1), Moment::Statement(2), Moment::Commit];

const FAULTS: [Fault; 5] = [
    Fault::SerializationFailure,
    Fault::Deadlock,
    Fault::LockTimeout,
    Fault::ConnectionLost,
    Fault::AnswerLost,
];

/// Every unit commits once, whatever it meets. A commit that goes unanswered is reported as unknown, unless
/// it is resolved.
async fn survives<DB: TestBackend, X: Transactor<DB>>(pool: &sqlx::Pool<DB>, db: &X, resolves: bool) {
    let count = || async { Ok::<_, String>(value(pool).await) };
    let faults = assert_retry_safe(db, increment::<DB>, count).await;
    assert!(
        faults > MOMENTS.len() * FAULTS.len(),
        "{faults}: at BEGIN, at either statement, and at COMMIT, and more in second attempts"
    );
    for moment in MOMENTS {
        for fault in FAULTS {
            let (before, faults) = (value(pool).await, Faults::new().at(moment, fault));
            let outcome = faults.on(db).run(increment::<DB>).await;
            assert_eq!(faults.pending(), 0, "{moment:?} did not come");
            let is_lost = matches!(fault, Fault::ConnectionLost | Fault::AnswerLost);
            let stored = if moment == Moment::Commit && is_lost && !resolves {
                let error = outcome.expect_err("nobody knows");
                assert!(error.is_commit_unknown(), "{fault:?} at {moment:?}: {error:?}");
                i64::from(fault == Fault::AnswerLost)
            } else {
                outcome.unwrap_or_else(|error| panic!("{fault:?} at {moment:?}: {error:?}"));
                1
            };
            assert_eq!(value(pool).await, before + stored, "{fault:?} at {moment:?}");
        }
    }
}

pub(crate) async fn every_strategy_survives_every_fault<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    survives(&pool, &Pessimistic::default().on(&pool), false).await;
    survives(&pool, &Optimistic::default().on(&pool), false).await;
    survives(&pool, &Serializable::default().on(&pool), false).await;
    survives(&pool, &Atomic::default().on(&pool), false).await;
    survives(&pool, &Adaptive::default().on(&pool), false).await;
    survives(&pool, &Adaptive::default().on(&pool).options(Options::new().on_key("counter")), false).await;
    let db = Pessimistic::default().on(&pool);
    db.create_operation_table().await.expect("a table");
    survives(&pool, &db.options(Options::new().resolve_commits(Resolve::Operation)), true).await;
}

/// Runs a unit again whose commit went unanswered: what must never be done.
struct Reckless<X>(X);

#[async_trait]
impl<DB: TestBackend, X: Transactor<DB>> Transactor<DB> for Reckless<X> {
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        match self.0.transact(options, unit).await {
            Err(error) if error.is_commit_unknown() => self.0.transact(options, unit).await,
            result => result,
        }
    }
}

pub(crate) async fn a_commit_that_is_run_again_is_found<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let db = Reckless(Pessimistic::default().on(&pool));
    let count = || async { Ok::<_, String>(value(&pool).await) };
    let found = check_retry_safe(&db, increment::<DB>, count).await.expect_err("it is applied twice");
    let RetryCheckError::NotSafe(found) = found else { panic!("{found}") };
    assert_eq!(found.fault, Some((Moment::Commit, Fault::AnswerLost)));
    assert_eq!((found.expected, found.found), ((1, 1), 2), "{found}");
}

pub(crate) async fn an_effect_outside_of_the_transaction_is_found<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let db = Pessimistic::default().on(&pool);
    let mails = AtomicI64::new(0);
    let unit = async |tx: &mut Tx<DB>| {
        mails.fetch_add(1, Ordering::Relaxed);
        increment(tx).await
    };
    let count = || async { Ok::<_, String>(mails.load(Ordering::Relaxed)) };
    let found = check_retry_safe(&db, unit, count).await.expect_err("one mail for each attempt");
    let RetryCheckError::NotSafe(found) = found else { panic!("{found}") };
    assert_eq!(found.found, 2, "{found}");

    // In a hook it is sent once.
    let mails = std::sync::Arc::new(AtomicI64::new(0));
    let unit = async |tx: &mut Tx<DB>| {
        let mails = mails.clone();
        tx.on_commit(async move {
            mails.fetch_add(1, Ordering::Relaxed);
        });
        increment(tx).await
    };
    let count = || async { Ok::<_, String>(mails.load(Ordering::Relaxed)) };
    assert!(assert_retry_safe(&db, &unit, count).await > 20);
}

/// Nothing is shown by a unit that never has an effect.
pub(crate) async fn a_unit_that_never_commits_is_not_checked<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let count = || async { Ok::<_, String>(value(&pool).await) };
    let unit = async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("UPDATE no_such_table SET value = 1"), &[]).await?;
        Ok::<_, Error>(())
    };
    let found = check_retry_safe(&db, unit, count).await.expect_err("it has no effect");
    assert!(!matches!(found, RetryCheckError::NotSafe(_)), "{found}");
    let gives_up = async |_: &mut Tx<DB>| Err::<(), _>(Error::from(sqlx::Error::RowNotFound));
    check_retry_safe(&db, gives_up, count).await.expect_err("it has no effect");
}

/// Nor by one that is never run again.
pub(crate) async fn a_unit_that_is_never_run_again_is_not_checked<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool).attempts(1);
    let count = || async { Ok::<_, String>(value(&pool).await) };
    let found = check_retry_safe(&db, increment::<DB>, count).await.expect_err("there is one attempt");
    assert!(!matches!(found, RetryCheckError::NotSafe(_)), "{found}");
}

/// A transactor that keeps its options to itself has no faults.
pub(crate) async fn does_not_check_a_unit_behind_an_opaque_transactor<DB: TestBackend>() {
    struct Deaf<X>(X);
    #[async_trait]
    impl<DB: TestBackend, X: Transactor<DB>> Transactor<DB> for Deaf<X> {
        async fn transact(&self, _: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
            self.0.transact(&Options::new(), unit).await
        }
    }
    let pool = counter::<DB>(2).await;
    let db = Deaf(Pessimistic::default().on(&pool));
    let count = || async { Ok::<_, String>(value(&pool).await) };
    let found = check_retry_safe(&db, increment::<DB>, count).await.expect_err("no fault can be injected");
    assert!(!matches!(found, RetryCheckError::NotSafe(_)), "{found}");
}

/// What happens outside of the transaction from the second attempt on happens twice when there is a third
/// one.
pub(crate) async fn an_effect_of_later_attempts_is_found<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let mails = std::sync::Arc::new(AtomicI64::new(0));
    let unit = async |tx: &mut Tx<DB>| {
        let mails = mails.clone();
        let send = async move {
            mails.fetch_add(1, Ordering::Relaxed);
        };
        if tx.attempt() == 1 {
            tx.on_commit(send);
        } else {
            send.await;
        }
        increment(tx).await
    };
    let count = || async { Ok::<_, String>(mails.load(Ordering::Relaxed)) };
    let found = check_retry_safe(&db, unit, count).await.expect_err("two mails");
    let RetryCheckError::NotSafe(found) = found else { panic!("{found}") };
    assert_eq!(found.found, 2, "{found}");
}

/// The database's own error, and the state that it leaves behind.
pub(crate) async fn a_fault_is_what_the_database_would_say<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool).attempts(1);
    let has_a_server = DB::NAME != "SQLite";
    for (fault, kind) in [
        (Fault::SerializationFailure, FailureKind::SerializationFailure),
        (Fault::Deadlock, if has_a_server { FailureKind::Deadlock } else { FailureKind::Busy }),
        (Fault::LockTimeout, if has_a_server { FailureKind::LockTimeout } else { FailureKind::Busy }),
        (Fault::ConnectionLost, FailureKind::ConnectionLost),
        (Fault::AnswerLost, FailureKind::ConnectionLost),
    ] {
        for moment in [Moment::Statement(1), Moment::Statement(2)] {
            let faults = Faults::new().at(moment, fault);
            let error = faults
                .on(&db)
                .run(async |tx: &mut Tx<DB>| {
                    let _ = set_value(tx, 7).await;
                    // One who does not care must not do half of it.
                    let _ = set_value(tx, 8).await;
                    Ok::<_, Error>(())
                })
                .await
                .expect_err("a fault");
            assert_eq!(faults.pending(), 0, "{moment:?} did not come");
            let failure = error.failure().expect("a failure");
            assert_eq!(failure.kind(), kind, "{fault:?}");
            let is_from_the_server =
                !matches!(fault, Fault::ConnectionLost | Fault::AnswerLost) && has_a_server;
            assert_eq!(failure.code().is_some(), is_from_the_server, "{failure}");
            assert_eq!(value(&pool).await, 0, "{fault:?} at {moment:?}");
        }
    }
    let faults = Faults::new().at(Moment::Commit, Fault::AnswerLost);
    let unit = async |tx: &mut Tx<DB>| {
        set_value(tx, 9).await?;
        Ok::<_, Error>(())
    };
    let error = faults.on(&db).run(unit).await.expect_err("unanswered");
    assert_eq!(error.kind(), ErrorKind::CommitUnknown);
    assert_eq!(value(&pool).await, 9, "the server has done it");
}

pub(crate) async fn a_step_can_be_held_back<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let delay = Duration::from_millis(60);
    let faults = Faults::new().delay(Moment::Statement(1), delay).delay(Moment::Commit, delay);
    let started = Instant::now();
    faults.on(&db).run(increment::<DB>).await.expect("slow");
    assert!(started.elapsed() >= 2 * delay);
    assert_eq!(faults.pending(), 0);
}
