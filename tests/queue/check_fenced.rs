//! `check_fenced`: it finds handlers that are not fenced.

use atomically::queue::{Claim, Queue};
use atomically::testing::{NotFenced, assert_fenced, check_fenced};
use atomically::{Error, Pessimistic, TransactorExt as _};

use crate::fence::work;
use crate::support::TestBackend;
use crate::{ask, claim_one, effects, job, lapse, queue, write_ledger};

pub(crate) async fn handlers_that_complete_in_their_transaction_are_fenced<DB: TestBackend>() {
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

/// Checking a claim before the effect is not enough: by then another worker may have taken the job over.
pub(crate) async fn handlers_that_check_and_then_act_are_not_fenced<DB: TestBackend>() {
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
            return Err(claim.complete().await.expect_err("another worker has the job"));
        }
        pay(&claim).await?;
        claim.complete().await
    };
    let found = check_fenced(queue, enqueue, looks, count).await.expect_err("two payments");
    assert!(matches!(found, NotFenced::Effects { .. }), "{found}");
    clear().await;

    // The effect is inside the unit, but not in its transaction.
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

/// A handler whose check proves nothing does not pass.
pub(crate) async fn handlers_that_do_not_do_their_job_are_not_checked<DB: TestBackend>() {
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
