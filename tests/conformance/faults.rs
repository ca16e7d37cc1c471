//! Injected faults occur at the planned moment with the database's own errors, and units handle them.

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

/// Asserts that each unit commits once, whichever fault occurs, and that a commit without a response is
/// reported as unknown unless it is resolved.
async fn assert_survives_every_fault<DB: TestBackend, X: Transactor<DB>>(
    pool: &sqlx::Pool<DB>,
    db: &X,
    resolves: bool,
) {
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
            assert_eq!(faults.pending(), 0, "{moment:?} did not occur");
            let is_lost = matches!(fault, Fault::ConnectionLost | Fault::AnswerLost);
            let stored = if moment == Moment::Commit && is_lost && !resolves {
                let error = outcome.expect_err("no response");
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
    assert_survives_every_fault(&pool, &Pessimistic::default().on(&pool), false).await;
    assert_survives_every_fault(&pool, &Optimistic::default().on(&pool), false).await;
    assert_survives_every_fault(&pool, &Serializable::default().on(&pool), false).await;
    assert_survives_every_fault(&pool, &Atomic::default().on(&pool), false).await;
    assert_survives_every_fault(&pool, &Adaptive::default().on(&pool), false).await;
    assert_survives_every_fault(
        &pool,
        &Adaptive::default().on(&pool).options(Options::new().on_key("counter")),
        false,
    )
    .await;
    let db = Pessimistic::default().on(&pool);
    db.create_operation_table().await.expect("a table");
    assert_survives_every_fault(&pool, &db.options(Options::new().resolve_commits(Resolve::Operation)), true)
        .await;
}

/// Retries a unit after an unknown commit, which is never safe.
struct RetriesUnknownCommits<X>(X);

#[async_trait]
impl<DB: TestBackend, X: Transactor<DB>> Transactor<DB> for RetriesUnknownCommits<X> {
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        match self.0.transact(options, unit).await {
            Err(error) if error.is_commit_unknown() => self.0.transact(options, unit).await,
            result => result,
        }
    }
}

pub(crate) async fn detects_a_retry_after_an_unknown_commit<DB: TestBackend>() {
    let pool = counter::<DB>(4).await;
    let db = RetriesUnknownCommits(Pessimistic::default().on(&pool));
    let count = || async { Ok::<_, String>(value(&pool).await) };
    let found = check_retry_safe(&db, increment::<DB>, count).await.expect_err("the unit is applied twice");
    let RetryCheckError::NotSafe(found) = found else { panic!("{found}") };
    assert_eq!(found.fault, Some((Moment::Commit, Fault::AnswerLost)));
    assert_eq!((found.expected, found.found), ((1, 1), 2), "{found}");
}

pub(crate) async fn detects_an_effect_outside_of_the_transaction<DB: TestBackend>() {
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

    // A commit hook sends the mail once.
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

/// A unit without an effect would pass every check.
pub(crate) async fn refuses_to_check_a_unit_that_never_commits<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let count = || async { Ok::<_, String>(value(&pool).await) };
    let unit = async |tx: &mut Tx<DB>| {
        DB::execute(tx, DB::sql("UPDATE no_such_table SET value = 1"), &[]).await?;
        Ok::<_, Error>(())
    };
    let found = check_retry_safe(&db, unit, count).await.expect_err("the unit has no effect");
    assert!(!matches!(found, RetryCheckError::NotSafe(_)), "{found}");
    let gives_up = async |_: &mut Tx<DB>| Err::<(), _>(Error::from(sqlx::Error::RowNotFound));
    check_retry_safe(&db, gives_up, count).await.expect_err("the unit has no effect");
}

/// A unit that is never retried would pass every check.
pub(crate) async fn refuses_to_check_a_unit_that_is_never_retried<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool).attempts(1);
    let count = || async { Ok::<_, String>(value(&pool).await) };
    let found = check_retry_safe(&db, increment::<DB>, count).await.expect_err("the unit has one attempt");
    assert!(!matches!(found, RetryCheckError::NotSafe(_)), "{found}");
}

/// A transactor that ignores its options injects no faults.
pub(crate) async fn refuses_to_check_a_unit_behind_an_opaque_transactor<DB: TestBackend>() {
    struct IgnoresOptions<X>(X);
    #[async_trait]
    impl<DB: TestBackend, X: Transactor<DB>> Transactor<DB> for IgnoresOptions<X> {
        async fn transact(&self, _: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
            self.0.transact(&Options::new(), unit).await
        }
    }
    let pool = counter::<DB>(2).await;
    let db = IgnoresOptions(Pessimistic::default().on(&pool));
    let count = || async { Ok::<_, String>(value(&pool).await) };
    let found = check_retry_safe(&db, increment::<DB>, count).await.expect_err("no fault can be injected");
    assert!(!matches!(found, RetryCheckError::NotSafe(_)), "{found}");
}

/// The unit has an effect outside of the transaction in each attempt but the first, so two effects if there
/// is a third attempt.
pub(crate) async fn detects_an_effect_of_later_attempts<DB: TestBackend>() {
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

/// A fault returns the database's own error and leaves the transaction in the same state.
pub(crate) async fn faults_are_the_databases_own_errors<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool).attempts(1);
    let is_server = DB::NAME != "SQLite";
    for (fault, kind) in [
        (Fault::SerializationFailure, FailureKind::SerializationFailure),
        (Fault::Deadlock, if is_server { FailureKind::Deadlock } else { FailureKind::Busy }),
        (Fault::LockTimeout, if is_server { FailureKind::LockTimeout } else { FailureKind::Busy }),
        (Fault::ConnectionLost, FailureKind::ConnectionLost),
        (Fault::AnswerLost, FailureKind::ConnectionLost),
    ] {
        for moment in [Moment::Statement(1), Moment::Statement(2)] {
            let faults = Faults::new().at(moment, fault);
            let error = faults
                .on(&db)
                .run(async |tx: &mut Tx<DB>| {
                    let _ = set_value(tx, 7).await;
                    // A unit that ignores the error must not store a part of its work.
                    let _ = set_value(tx, 8).await;
                    Ok::<_, Error>(())
                })
                .await
                .expect_err("a fault");
            assert_eq!(faults.pending(), 0, "{moment:?} did not occur");
            let failure = error.failure().expect("a failure");
            assert_eq!(failure.kind(), kind, "{fault:?}");
            let is_from_the_server = !matches!(fault, Fault::ConnectionLost | Fault::AnswerLost) && is_server;
            assert_eq!(failure.code().is_some(), is_from_the_server, "{failure}");
            assert_eq!(value(&pool).await, 0, "{fault:?} at {moment:?}");
        }
    }
    let faults = Faults::new().at(Moment::Commit, Fault::AnswerLost);
    let unit = async |tx: &mut Tx<DB>| {
        set_value(tx, 9).await?;
        Ok::<_, Error>(())
    };
    let error = faults.on(&db).run(unit).await.expect_err("no response");
    assert_eq!(error.kind(), ErrorKind::CommitUnknown);
    assert_eq!(value(&pool).await, 9, "the commit was not delivered");
}

pub(crate) async fn faults_can_delay_a_step<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let delay = Duration::from_millis(60);
    let faults = Faults::new().delay(Moment::Statement(1), delay).delay(Moment::Commit, delay);
    let started = Instant::now();
    faults.on(&db).run(increment::<DB>).await.expect("a commit");
    assert!(started.elapsed() >= 2 * delay);
    assert_eq!(faults.pending(), 0);
}
