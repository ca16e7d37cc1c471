//! Unique keys, and rescheduled jobs, which keep theirs.

use std::time::{Duration, SystemTime};

use atomically::queue::{Enqueued, NewJob, Queue, Reschedule, Retry};
use atomically::{Error, Pessimistic, TransactorExt as _, Tx};
use sqlx::Pool;

use crate::support::{TestBackend, eventually};
use crate::worker::{noted, start, stopped, worker};
use crate::{ask, claim_one, effects, job, lapse, queue, write_ledger};

const HOUR: Duration = Duration::from_secs(3600);

fn until_done() -> NewJob {
    job(1).unique("a").expect("a key")
}

fn until_claimed() -> NewJob {
    job(1).unique_until_claimed("a").expect("a key")
}

async fn add<DB: TestBackend>(pool: &Pool<DB>, queue: &Queue<DB>, job: NewJob) -> Enqueued {
    let db = Pessimistic::default().on(pool);
    db.run(async |tx| queue.enqueue(tx, job).await).await.expect("a commit")
}

pub(crate) async fn a_unique_key_is_taken_while_its_job_runs<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    assert!(add(&pool, &queue, until_done()).await.id().is_some());
    assert_eq!(add(&pool, &queue, until_done()).await, Enqueued::Duplicate, "it waits");
    let claim = claim_one(&queue).await;
    assert_eq!(add(&pool, &queue, until_done()).await, Enqueued::Duplicate, "it runs");
    claim.complete().await.expect("complete");
    assert!(add(&pool, &queue, until_done()).await.id().is_some(), "it is done");
}

pub(crate) async fn a_key_unique_until_claimed_is_free_while_its_job_runs<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let first = add(&pool, &queue, until_claimed()).await.id().expect("added");
    assert_eq!(add(&pool, &queue, until_claimed()).await, Enqueued::Duplicate, "it waits");
    let claim = claim_one(&queue).await;
    let second = add(&pool, &queue, until_claimed()).await.id().expect("a change while it runs");
    assert_eq!(add(&pool, &queue, until_claimed()).await, Enqueued::Duplicate, "the second waits");
    claim.complete().await.expect("complete");
    let claim = claim_one(&queue).await;
    assert_eq!((claim.id(), first < second), (second, true));
}

/// Otherwise a failed attempt would conflict with the job that has the key by now.
pub(crate) async fn a_key_unique_until_claimed_is_not_restored<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    add(&pool, &queue, until_claimed().max_attempts(3)).await.id().expect("added");
    let failed = claim_one(&queue).await;
    add(&pool, &queue, until_claimed().run_after(HOUR)).await.id().expect("added");
    let _ = failed.fail("no", Retry::After(Duration::ZERO)).await.expect("back");
    claim_one(&queue).await.release().await.expect("back");
    lapse(&pool).await;
    assert_eq!(queue.claim(5).await.expect("a claim").len(), 2);
    let _ = lapse(&pool).await;
    let dying = queue.claim(5).await.expect("a claim");
    let dead = dying[0].id();
    let _ = dying[0].fail("no", Retry::Never).await.expect("dead");
    add(&pool, &queue, until_claimed()).await.id().expect("added");
    assert!(queue.requeue(dead).await.expect("no key is in the way"));
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job WHERE unique_key IS NOT NULL").await, 1);
}

pub(crate) async fn both_kinds_of_uniqueness_share_their_keys<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    add(&pool, &queue, until_claimed()).await.id().expect("added");
    assert_eq!(add(&pool, &queue, until_done()).await, Enqueued::Duplicate);
    let claim = claim_one(&queue).await;
    add(&pool, &queue, until_done()).await.id().expect("added");
    assert_eq!(add(&pool, &queue, until_claimed()).await, Enqueued::Duplicate);
    claim.complete().await.expect("complete");
    let _claim = claim_one(&queue).await;
    assert_eq!(add(&pool, &queue, until_claimed()).await, Enqueued::Duplicate, "the other one is not done");
    // The last call determines the kind of uniqueness.
    let job = until_claimed().unique("b").expect("a key");
    add(&pool, &queue, job.clone()).await.id().expect("added");
    let _claim = claim_one(&queue).await;
    assert_eq!(add(&pool, &queue, job).await, Enqueued::Duplicate);
}

/// If the job completed last, its successor would be a duplicate of it.
pub(crate) async fn a_successor_gets_the_key_of_a_completed_job<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    add(&pool, &queue, until_done()).await.id().expect("added");
    let claim = claim_one(&queue).await;
    let db = Pessimistic::default().on(&pool);
    let successor = db
        .run(async |tx: &mut Tx<DB>| {
            assert_eq!(queue.enqueue(tx, until_done()).await?, Enqueued::Duplicate);
            claim.complete_in(tx).await?;
            queue.enqueue(tx, until_done()).await
        })
        .await;
    assert!(successor.expect("a commit").id().is_some());
}

pub(crate) async fn a_rescheduled_job_keeps_its_key<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let id = add(&pool, &queue, until_done()).await.id().expect("added");
    let claim = claim_one(&queue).await;
    let db = Pessimistic::default().on(&pool);
    let next = Reschedule::after(HOUR).payload("next").expect("a payload");
    db.run(async |tx| claim.reschedule_in(tx, next).await).await.expect("a commit");
    assert_eq!(add(&pool, &queue, until_done()).await, Enqueued::Duplicate);
    assert!(queue.claim(5).await.expect("a claim").is_empty(), "not yet");
    assert_eq!(queue.counts().await.expect("the counts").scheduled, 1);
    lapse(&pool).await;
    let again = claim_one(&queue).await;
    assert_eq!((again.id(), again.payload::<String>().expect("the new payload")), (id, "next".to_owned()));
    let past = Reschedule::at(SystemTime::UNIX_EPOCH);
    db.run(async |tx| again.reschedule_in(tx, past).await).await.expect("a commit");
    let again = claim_one(&queue).await;
    assert_eq!(again.payload::<String>().expect("the same payload"), "next");
    again.complete().await.expect("complete");
    assert!(add(&pool, &queue, until_done()).await.id().is_some());
}

pub(crate) async fn a_job_is_rescheduled_only_if_its_transaction_commits<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    add(&pool, &queue, until_done()).await.id().expect("added");
    let claim = claim_one(&queue).await;
    let db = Pessimistic::default().on(&pool);
    let refused = db.run(async |tx: &mut Tx<DB>| {
        write_ledger(tx, &claim).await?;
        claim.reschedule_in(tx, Reschedule::after(HOUR)).await?;
        Err::<(), Error>(sqlx::Error::RowNotFound.into())
    });
    refused.await.expect_err("its own error");
    assert_eq!((effects(&pool).await, queue.counts().await.expect("the counts").claimed), (0, 1));
    db.run(async |tx: &mut Tx<DB>| {
        write_ledger(tx, &claim).await?;
        claim.reschedule_in(tx, Reschedule::after(HOUR)).await
    })
    .await
    .expect("it is held still");
    assert_eq!((effects(&pool).await, queue.counts().await.expect("the counts").scheduled), (1, 1));
}

pub(crate) async fn a_rescheduled_job_has_all_its_attempts<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    add(&pool, &queue, until_done().max_attempts(2)).await.id().expect("added");
    let db = Pessimistic::default().on(&pool);
    for _ in 0..3 {
        let first = claim_one(&queue).await;
        assert_eq!((first.attempt(), first.last_error()), (1, None));
        let _ = first.fail("no", Retry::After(Duration::ZERO)).await.expect("back");
        let second = claim_one(&queue).await;
        assert_eq!(second.attempt(), 2);
        db.run(async |tx| second.reschedule_in(tx, Reschedule::after(Duration::ZERO)).await)
            .await
            .expect("a commit");
    }
}

pub(crate) async fn rescheduling_is_fenced<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    add(&pool, &queue, until_done()).await.id().expect("added");
    let zombie = claim_one(&queue).await;
    lapse(&pool).await;
    let heir = claim_one(&queue).await;
    let db = Pessimistic::default().on(&pool);
    let again = async |claim: &atomically::queue::Claim<DB>| {
        db.run(async |tx: &mut Tx<DB>| {
            write_ledger(tx, claim).await?;
            claim.reschedule_in(tx, Reschedule::after(Duration::ZERO)).await
        })
        .await
    };
    assert!(again(&zombie).await.expect_err("it was taken over").is_stale_claim());
    assert_eq!(effects(&pool).await, 0);
    again(&heir).await.expect("it is the heir's");
    assert!(again(&heir).await.expect_err("it was given back").is_stale_claim());
    assert!(heir.complete().await.expect_err("it was given back").is_stale_claim());
    assert_eq!(effects(&pool).await, 1);
}

pub(crate) async fn a_worker_does_not_complete_a_rescheduled_job<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let id = add(&pool, &queue, until_done()).await.id().expect("added");
    let (worker, events) = worker(&queue);
    let db = Pessimistic::default().on(&pool);
    let (stop, running) = start(worker, move |claim| {
        let db = db.clone();
        async move { db.run(async |tx| claim.reschedule_in(tx, Reschedule::after(HOUR)).await).await }
    });
    eventually(vec![format!("completed {id}")], async || noted(&events)).await;
    stopped(stop, running).await;
    assert_eq!(noted(&events).len(), 1);
    assert_eq!(queue.counts().await.expect("the counts").scheduled, 1);
}
