//! Fencing: a worker that was presumed dead (the zombie) cannot change a job that another one took over.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use atomically::queue::{Claim, Queue, Retry, complete_all_in};
use atomically::testing::{Client, explore};
use atomically::{
    Attempt, Error, ErrorKind, Failure, Isolation, Optimistic, Options, Pessimistic, Plan, PoolTransactor,
    Strategy, TransactorExt as _, Tx, Verdict,
};
use sqlx::Pool;

use crate::support::TestBackend;
use crate::{ask, claim_one, effects, enqueue, job, lapse, queue, write_ledger};

const LEVELS: [Isolation; 3] = [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable];

fn at<DB: TestBackend>(level: Isolation, pool: &Pool<DB>) -> PoolTransactor<DB, Optimistic> {
    Optimistic::default().on(pool).options(Options::new().isolation(level))
}

/// Stores the effect of a job and completes it, in one transaction.
pub(crate) async fn work<DB: TestBackend>(
    db: &PoolTransactor<DB, impl Strategy>,
    claim: &Claim<DB>,
) -> Result<(), Error> {
    db.run(async |tx| {
        write_ledger(tx, claim).await?;
        claim.complete_in(tx).await
    })
    .await
}

/// The lease of the zombie expires, the heir claims the job and works on it, and the zombie completes it.
pub(crate) async fn a_zombie_leaves_no_effect<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    for (round, level) in LEVELS.into_iter().enumerate() {
        let db = at(level, &pool);
        enqueue(&pool, &queue, job(round as i64)).await;
        let zombie = claim_one(&queue).await;
        lapse(&pool).await;
        let heir = claim_one(&queue).await;
        assert_eq!((heir.id(), heir.token()), (zombie.id(), zombie.token() + 1));

        let error = work(&db, &zombie).await.expect_err("it was taken over");
        assert_eq!(error.kind(), ErrorKind::StaleClaim, "{level}: {error:?}");
        assert!(error.is_stale_claim());
        assert_eq!(effects(&pool).await, round as i64, "{level}: the zombie left something");

        work(&db, &heir).await.expect("the heir is not disturbed");
        assert_eq!(effects(&pool).await, round as i64 + 1);
        assert_eq!(ask(&pool, "SELECT COUNT(*) FROM ledger WHERE token <> 2").await, 0);
        // The same after the heir has completed the job.
        let error = work(&db, &zombie).await.expect_err("it is done");
        assert_eq!(error.kind(), ErrorKind::StaleClaim, "{level}: {error:?}");
        assert_eq!(effects(&pool).await, round as i64 + 1);
    }
}

/// When the heir claims the job, the zombie's transaction has begun and still sees the zombie's token.
pub(crate) async fn a_zombie_with_an_older_snapshot_leaves_no_effect<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let others = Queue::new("jobs", &DB::another(&pool.url).await).expect("a name");
    for (round, level) in LEVELS.into_iter().enumerate() {
        let db = at(level, &pool);
        enqueue(&pool, &queue, job(round as i64)).await;
        let zombie = claim_one(&queue).await;
        lapse(&pool).await;
        let error = db
            .run(async |tx: &mut Tx<DB>| {
                // Under SERIALIZABLE, MariaDB would lock the job if this read its row.
                DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM ledger"), &[]).await?;
                if tx.attempt() == 1 {
                    let heir = claim_one(&others).await;
                    assert_eq!(heir.token(), zombie.token() + 1);
                }
                write_ledger(tx, &zombie).await?;
                zombie.complete_in(tx).await
            })
            .await
            .expect_err("it was taken over");
        assert_eq!(error.kind(), ErrorKind::StaleClaim, "{level}: {error:?}");
        assert_eq!(effects(&pool).await, 0, "{level}: the zombie left something");
        lapse(&pool).await;
        claim_one(&queue).await.complete().await.expect("cleared away");
    }
}

/// Returns a claim whose job another worker has taken over.
async fn stale<DB: TestBackend>(pool: &Pool<DB>, queue: &Queue<DB>) -> Claim<DB> {
    enqueue(pool, queue, job(1)).await;
    let zombie = claim_one(queue).await;
    lapse(pool).await;
    let _heir = claim_one(queue).await;
    zombie
}

/// An error that keeps only the kind of a crate error.
#[derive(Debug, PartialEq)]
enum Opaque {
    Own,
    OfTheCrate(ErrorKind),
}

impl From<Error> for Opaque {
    fn from(error: Error) -> Self {
        Self::OfTheCrate(error.kind())
    }
}

pub(crate) async fn a_stale_claim_is_reported_even_if_the_unit_discards_it<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let zombie = stale(&pool, &queue).await;
    let db = Pessimistic::default().on(&pool);
    let mapped = db.run(async |tx| {
        write_ledger(tx, &zombie).await?;
        zombie.complete_in(tx).await.map_err(|_| Opaque::Own)
    });
    assert_eq!(mapped.await, Err(Opaque::OfTheCrate(ErrorKind::StaleClaim)));
    let swallowed = db.run(async |tx| {
        write_ledger(tx, &zombie).await?;
        let _ = zombie.complete_in(tx).await;
        Ok::<_, Error>(())
    });
    let error = swallowed.await.expect_err("never Ok");
    assert_eq!(error.kind(), ErrorKind::StaleClaim, "{error:?}");
    let early = db.run(async |tx| {
        let _ = zombie.complete_in(tx).await;
        write_ledger(tx, &zombie).await
    });
    assert!(early.await.expect_err("nothing runs behind it").is_stale_claim());
    assert_eq!(effects(&pool).await, 0);
}

pub(crate) async fn a_stale_claim_is_never_retried<DB: TestBackend>() {
    #[derive(Debug)]
    struct Reckless;
    impl Strategy for Reckless {
        fn plan(&self, attempt: &Attempt) -> Plan {
            Pessimistic::default().plan(attempt)
        }
        fn verdict(&self, _failure: &Failure) -> Verdict {
            Verdict::RunAgain
        }
    }
    let (pool, queue) = queue::<DB>(3).await;
    let zombie = stale(&pool, &queue).await;
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = attempts.clone();
    let db = PoolTransactor::new(Reckless, &pool);
    let error = db
        .run(async |tx| {
            counted.fetch_add(1, SeqCst);
            zombie.complete_in(tx).await
        })
        .await
        .expect_err("it was taken over");
    assert_eq!((error.kind(), attempts.load(SeqCst)), (ErrorKind::StaleClaim, 1));
}

pub(crate) async fn a_stale_claim_in_a_savepoint_fails_the_transaction<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let zombie = stale(&pool, &queue).await;
    let db = Pessimistic::default().on(&pool);
    let error = db
        .run(async |tx: &mut Tx<DB>| {
            write_ledger(tx, &zombie).await?;
            let _ = tx.savepoint(async |tx: &mut Tx<DB>| zombie.complete_in(tx).await).await;
            Ok::<_, Error>(())
        })
        .await
        .expect_err("never Ok");
    assert_eq!((error.kind(), effects(&pool).await), (ErrorKind::StaleClaim, 0));
}

pub(crate) async fn every_change_is_fenced<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let zombie = stale(&pool, &queue).await;
    let row = "SELECT token * 1000 + attempts * 10 + CASE WHEN claimed_at IS NULL THEN 0 ELSE 1 END
               FROM atomically_job
               WHERE due_at > 1 AND died_at IS NULL AND last_error IS NULL";
    assert_eq!(ask(&pool, row).await, 2_021, "the heir's");
    for result in [
        zombie.extend().await,
        zombie.release().await,
        zombie.complete().await,
        zombie.fail("no", Retry::Backoff).await.map(drop),
        zombie.fail("no", Retry::Never).await.map(drop),
    ] {
        let error = result.expect_err("it was taken over");
        assert_eq!(error.kind(), ErrorKind::StaleClaim, "{error:?}");
        assert!(error.to_string().contains("job 1 of the queue \"jobs\""), "{error}");
        assert_eq!(ask(&pool, row).await, 2_021, "the heir's");
    }
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job_lease").await, 0);
}

pub(crate) async fn complete_all_in_completes_all_or_none<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    for n in 0..3 {
        enqueue(&pool, &queue, job(n)).await;
    }
    let mut claims = queue.claim(3).await.expect("a claim");
    let db = Pessimistic::default().on(&pool);
    let second = claims[1].id();
    let taken = DB::sql("UPDATE atomically_job SET token = token + 1 WHERE id = ?");
    DB::pool_execute(&pool, taken, &[second]).await.expect("taken over");
    let error = db.run(async |tx| complete_all_in(tx, &claims).await).await.expect_err("one is stale");
    assert_eq!(error.kind(), ErrorKind::StaleClaim, "{error:?}");
    assert!(error.to_string().contains("1 of 3 jobs"), "{error}");
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job").await, 3);
    let _ = claims.remove(1);
    db.run(async |tx| complete_all_in(tx, &claims).await).await.expect("complete");
    assert_eq!(ask(&pool, "SELECT id FROM atomically_job").await, second);
    db.run(async |tx| complete_all_in::<DB>(tx, &[]).await).await.expect("nothing to do");
}

/// An extension must not write to the row that a serializable transaction is about to delete.
pub(crate) async fn extending_a_lease_does_not_conflict_with_a_completion<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let others = DB::another(&pool.url).await;
    for (round, level) in LEVELS.into_iter().enumerate() {
        enqueue(&pool, &queue, job(round as i64)).await;
        let others = Queue::new("jobs", &others).expect("a name");
        let claim = claim_one(&others).await;
        let db = at(level, &pool);
        let attempt = db
            .run(async |tx: &mut Tx<DB>| {
                // This takes the snapshot.
                DB::fetch(tx, DB::sql("SELECT token FROM atomically_job WHERE id = ?"), &[claim.id()])
                    .await?;
                if tx.attempt() == 1 {
                    claim.extend().await?;
                }
                write_ledger(tx, &claim).await?;
                // SQLite has one writer at a time, and it is this transaction.
                if !pool.url.starts_with("sqlite") {
                    claim.extend().await?;
                }
                claim.complete_in(tx).await?;
                Ok::<_, Error>(tx.attempt())
            })
            .await;
        // SQLite refuses every write of a transaction whose snapshot is older than the last commit.
        let needed = if pool.url.starts_with("sqlite") { 2 } else { 1 };
        assert!(attempt.as_ref().is_ok_and(|attempt| *attempt <= needed), "{level}: {attempt:?}");
    }
    assert_eq!(effects(&pool).await, 3);
}

async fn complete<DB: TestBackend>(
    db: Client<'_, PoolTransactor<DB, Optimistic>>,
    claim: Arc<Claim<DB>>,
) -> Result<(), Error> {
    db.run(async |tx| {
        write_ledger(tx, &claim).await?;
        claim.complete_in(tx).await
    })
    .await
}

/// The zombie and the heir complete the job, in every interleaving of their transactions: the zombie fails.
pub(crate) async fn one_of_two_concurrent_completions_is_fenced<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    for level in LEVELS {
        let db = at(level, &pool);
        let claims: Mutex<Vec<Arc<Claim<DB>>>> = Mutex::default();
        let set_up = |_| async {
            DB::pool_execute(&pool, DB::sql("DELETE FROM ledger"), &[]).await.expect("an empty ledger");
            enqueue(&pool, &queue, job(1)).await;
            let zombie = claim_one(&queue).await;
            lapse(&pool).await;
            let heir = claim_one(&queue).await;
            *claims.lock().expect("no panic") = vec![Arc::new(zombie), Arc::new(heir)];
            Ok::<_, Error>(())
        };
        let claimed = |which: usize| claims.lock().expect("no panic")[which].clone();
        let report = explore(&pool)
            .set_up(set_up)
            .client("zombie", &db, |db| {
                let completed = complete(db, claimed(0));
                async move {
                    match completed.await {
                        Err(error) if error.is_stale_claim() => Ok(()),
                        Err(error) => Err(error.to_string()),
                        Ok(()) => Err(String::from("it was taken over")),
                    }
                }
            })
            .client("heir", &db, |db| complete(db, claimed(1)))
            .expect("effects of the heir", 1_i64, |_| async {
                Ok::<_, Error>(ask(&pool, "SELECT COUNT(*) FROM ledger WHERE token = 2").await)
            })
            .expect("effects", 1_i64, |_| async { Ok::<_, Error>(effects(&pool).await) })
            .run()
            .await
            .expect("explored");
        assert!(report.passes(), "{level}: {report}");
        assert!(report.complete);
    }
}
