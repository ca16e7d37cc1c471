//! A worker that was taken for dead, and is not.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use atomically::queue::{Claim, Queue, Retry, complete_all_in};
use atomically::testing::{Client, NotFenced, assert_fenced, check_fenced, explore};
use atomically::{
    Attempt, Error, ErrorKind, Failure, Isolation, Optimistic, Options, Pessimistic, Plan, PoolTransactor,
    Strategy, TransactorExt as _, Tx, Verdict,
};
use sqlx::Pool;

use crate::{QueueTest, ask, claim_one, effects, enqueue, job, lapse, queue, write_ledger};

const LEVELS: [Isolation; 3] = [Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable];

fn at<DB: QueueTest>(level: Isolation, pool: &Pool<DB>) -> PoolTransactor<DB, Optimistic> {
    Optimistic::default().on(pool).options(Options::new().isolation(level))
}

/// The effect of a job, and its end.
async fn work<DB: QueueTest>(db: &PoolTransactor<DB, impl Strategy>, claim: &Claim<DB>) -> Result<(), Error> {
    db.run(async |tx| {
        write_ledger(tx, claim).await?;
        claim.complete_in(tx).await
    })
    .await
}

/// A claims, its lease lapses, B claims and is at work, A completes.
pub(crate) async fn a_zombie_leaves_no_effect<DB: QueueTest>() {
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
        // Now that it is done, too.
        let error = work(&db, &zombie).await.expect_err("it is done");
        assert_eq!(error.kind(), ErrorKind::StaleClaim, "{level}: {error:?}");
        assert_eq!(effects(&pool).await, round as i64 + 1);
    }
}

/// The zombie's transaction has begun, and sees the job as its own, when the other one claims it.
pub(crate) async fn a_zombie_whose_snapshot_is_older_leaves_no_effect<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(3).await;
    let others = Queue::new("jobs", &DB::another(&pool.url).await).expect("a name");
    for (round, level) in LEVELS.into_iter().enumerate() {
        let db = at(level, &pool);
        enqueue(&pool, &queue, job(round as i64)).await;
        let zombie = claim_one(&queue).await;
        lapse(&pool).await;
        let error = db
            .run(async |tx: &mut Tx<DB>| {
                // A read of the job itself would lock it on MariaDB, under SERIALIZABLE.
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

/// A claim that somebody else has taken over.
async fn stale<DB: QueueTest>(pool: &Pool<DB>, queue: &Queue<DB>) -> Claim<DB> {
    enqueue(pool, queue, job(1)).await;
    let zombie = claim_one(queue).await;
    lapse(pool).await;
    let _heir = claim_one(queue).await;
    zombie
}

/// An error that keeps nothing of what it was made from, but for that it was this crate's.
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

pub(crate) async fn a_stale_claim_is_told_whatever_the_unit_makes_of_it<DB: QueueTest>() {
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

pub(crate) async fn a_stale_claim_is_never_run_again<DB: QueueTest>() {
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

pub(crate) async fn a_stale_claim_outlives_a_savepoint<DB: QueueTest>() {
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

/// Not only the end.
pub(crate) async fn every_change_is_fenced<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(3).await;
    let zombie = stale(&pool, &queue).await;
    let row = "SELECT token * 1000 + attempts * 10 + CASE WHEN claimed_at IS NULL THEN 0 ELSE 1 END FROM atomically_job
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

pub(crate) async fn all_or_none_are_completed<DB: QueueTest>() {
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

/// The row that a serializable transaction is about to remove must not be written to meanwhile.
pub(crate) async fn extending_does_not_disturb_a_completion<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(3).await;
    let others = DB::another(&pool.url).await;
    for (round, level) in LEVELS.into_iter().enumerate() {
        enqueue(&pool, &queue, job(round as i64)).await;
        let others = Queue::new("jobs", &others).expect("a name");
        let claim = claim_one(&others).await;
        let db = at(level, &pool);
        let attempt = db
            .run(async |tx: &mut Tx<DB>| {
                // It has begun, and has seen the job.
                DB::fetch(tx, DB::sql("SELECT token FROM atomically_job WHERE id = ?"), &[claim.id()])
                    .await?;
                if tx.attempt() == 1 {
                    claim.extend().await?;
                }
                write_ledger(tx, &claim).await?;
                // SQLite has one writer at a time, and this is it.
                if !pool.url.starts_with("sqlite") {
                    claim.extend().await?;
                }
                claim.complete_in(tx).await?;
                Ok::<_, Error>(tx.attempt())
            })
            .await;
        // Of those whose snapshot is older, SQLite refuses every writer, whatever it wants to write.
        let needed = if pool.url.starts_with("sqlite") { 2 } else { 1 };
        assert!(attempt.as_ref().is_ok_and(|attempt| *attempt <= needed), "{level}: {attempt:?}");
    }
    assert_eq!(effects(&pool).await, 3);
}

/// As the test kit checks it.
pub(crate) async fn handlers_that_complete_in_their_transaction_are_fenced<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(3).await;
    let db = Pessimistic::default().on(&pool);
    let (db, queue, pool) = (&db, &queue, &pool);
    let enqueue = || db.run(async |tx| queue.enqueue(tx, job(1)).await);
    let count = || async { Ok::<_, Error>(effects(pool).await) };
    assert_fenced(queue, enqueue, |claim| async move { work(db, &claim).await }, count).await;

    let beside = |claim: Claim<DB>| async move {
        db.run(async |tx| write_ledger(tx, &claim).await).await?;
        claim.complete().await
    };
    let found = check_fenced(queue, enqueue, beside, count).await.expect_err("effects of both");
    assert!(matches!(found, NotFenced::Effects { expected: 0, found: 1, .. }), "{found}");
    lapse(pool).await;
    claim_one(queue).await.complete().await.expect("cleared away");

    let careless = |claim: Claim<DB>| async move {
        let _ = work(db, &claim).await;
        Ok::<_, Error>(())
    };
    let found = check_fenced(queue, enqueue, careless, count).await.expect_err("it says that it was done");
    assert!(matches!(found, NotFenced::LossNotReported { .. }), "{found}");
}

/// A claim that was checked is no permission: by the time of the effect somebody else may have the job.
pub(crate) async fn handlers_that_check_and_then_act_are_not_fenced<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(4).await;
    let db = Pessimistic::default().on(&pool);
    let (db, queue, pool) = (&db, &queue, &pool);
    let enqueue = || db.run(async |tx| queue.enqueue(tx, job(1)).await);
    let count = || async { Ok::<_, Error>(effects(pool).await) };
    let pay = async |claim: &Claim<DB>| {
        let sql = DB::sql("INSERT INTO ledger VALUES (?, ?)");
        DB::pool_execute(pool, sql, &[claim.payload::<i64>()?, claim.token()]).await?;
        Ok::<_, Error>(())
    };
    let clear = async || {
        lapse(pool).await;
        for claim in queue.claim(10).await.expect("a claim") {
            claim.complete().await.expect("cleared away");
        }
    };

    let extends = |claim: Claim<DB>| async move {
        claim.extend().await?;
        pay(&claim).await?;
        claim.complete().await
    };
    let found = check_fenced(queue, enqueue, extends, count).await.expect_err("two payments");
    assert!(matches!(found, NotFenced::Effects { .. }), "{found}");
    clear().await;

    let looks = |claim: Claim<DB>| async move {
        let held = format!("SELECT COUNT(*) FROM atomically_job WHERE token = {}", claim.token());
        if ask(pool, &held).await == 0 {
            return Err(claim.complete().await.expect_err("somebody else has it"));
        }
        pay(&claim).await?;
        claim.complete().await
    };
    let found = check_fenced(queue, enqueue, looks, count).await.expect_err("two payments");
    assert!(matches!(found, NotFenced::Effects { .. }), "{found}");
    clear().await;

    // Inside of the unit, and not in its transaction.
    if DB::NAME != "SQLite" {
        let beside = |claim: Claim<DB>| async move {
            claim.extend().await?;
            db.run(async |tx| {
                pay(&claim).await?;
                claim.complete_in(tx).await
            })
            .await
        };
        let found = check_fenced(queue, enqueue, beside, count).await.expect_err("two payments");
        assert!(matches!(found, NotFenced::Effects { .. }), "{found}");
        clear().await;
    }

    let right = |claim: Claim<DB>| async move {
        claim.extend().await?;
        work(db, &claim).await
    };
    check_fenced(queue, enqueue, right, count).await.expect("one payment for each job");
}

/// A check that shows nothing is not passed.
pub(crate) async fn handlers_that_do_not_do_their_job_are_not_checked<DB: QueueTest>() {
    let (pool, queue) = queue::<DB>(3).await;
    let db = Pessimistic::default().on(&pool);
    let (db, queue, pool) = (&db, &queue, &pool);
    let enqueue = || db.run(async |tx| queue.enqueue(tx, job(1)).await);
    let count = || async { Ok::<_, Error>(effects(pool).await) };
    let fails = |_: Claim<DB>| async { Err::<(), _>("a typo") };
    let found = check_fenced(queue, enqueue, fails, count).await.expect_err("it never works");
    assert!(matches!(found, NotFenced::CheckFailed(_)), "{found}");
    lapse(pool).await;
    claim_one(queue).await.complete().await.expect("cleared away");

    let forgets = |claim: Claim<DB>| async move { db.run(async |tx| write_ledger(tx, &claim).await).await };
    let found = check_fenced(queue, enqueue, forgets, count).await.expect_err("the job is still there");
    assert!(matches!(found, NotFenced::CheckFailed(_)), "{found}");

    let small = DB::pool(1).await;
    let lone = Queue::new("lone", &small.pool).expect("a name");
    let found = check_fenced(&lone, enqueue, fails, count).await.expect_err("there is one connection");
    assert!(found.to_string().contains("at least two"), "{found}");
}

async fn complete<DB: QueueTest>(
    db: Client<'_, PoolTransactor<DB, Optimistic>>,
    claim: Arc<Claim<DB>>,
) -> Result<(), Error> {
    db.run(async |tx| {
        write_ledger(tx, &claim).await?;
        claim.complete_in(tx).await
    })
    .await
}

/// The zombie and the heir complete in every interleaving of their transactions: one of them is told.
pub(crate) async fn one_of_two_who_complete_is_fenced<DB: QueueTest>() {
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
