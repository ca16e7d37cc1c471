//! Limited jobs: at most so many of a key run at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use atomically::queue::{Claim, NewJob, Queue, Reschedule, Retry, Worker};
use atomically::{Backoff, Pessimistic, TransactorExt as _};
use sqlx::Pool;
use tokio::time::sleep;

use crate::ordered::lapse_claims;
use crate::support::TestBackend;
use crate::worker::LIMIT;
use crate::{ask, claim_one, enqueue, job, queue, until_empty};

const HOUR: Duration = Duration::from_secs(3600);

fn limited(payload: i64, key: &str) -> NewJob {
    job(payload).at_most(key, 2).expect("a key")
}

async fn enqueue_all<DB: TestBackend>(pool: &Pool<DB>, queue: &Queue<DB>, count: i64, key: &str) {
    let jobs: Vec<_> = (0..count).map(|n| limited(n, key)).collect();
    let db = Pessimistic::default().on(pool);
    let added = db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    assert_eq!(added, count.unsigned_abs());
}

async fn make_due<DB: TestBackend>(pool: &Pool<DB>) {
    let sql = "UPDATE atomically_job SET due_at = 1 WHERE due_at IS NOT NULL AND claimed_at IS NULL";
    DB::pool_execute(pool, DB::sql(sql), &[]).await.expect("an update");
}

pub(crate) async fn a_claim_returns_no_more_jobs_of_a_key_than_its_limit<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue_all(&pool, &queue, 5, "tenant").await;
    enqueue(&pool, &queue, job(6)).await;
    let mut done = 0;
    for wanted in [3, 2, 1] {
        let claims = queue.claim(100).await.expect("a claim");
        assert_eq!(claims.len(), wanted);
        assert!(queue.claim(100).await.expect("a claim").is_empty(), "the others wait");
        for claim in claims {
            claim.complete().await.expect("complete");
            done += 1;
        }
    }
    assert_eq!(done, 6);
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job_key").await, 0);
}

/// Unlike an ordered job, a limited one does not delay the others while it waits for its next attempt.
pub(crate) async fn a_job_that_is_retried_later_gives_its_slot_away<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue_all(&pool, &queue, 6, "tenant").await;
    let db = Pessimistic::default().on(&pool);
    let first = queue.claim(10).await.expect("a claim");
    first[0].fail("later", Retry::After(HOUR)).await.expect("failed");
    first[1].snooze(HOUR).await.expect("snoozed");
    let second = queue.claim(10).await.expect("a claim");
    assert_eq!(second.len(), 2);
    db.run(async |tx| second[0].reschedule_in(tx, Reschedule::after(HOUR)).await).await.expect("a commit");
    second[1].fail("broken", Retry::Never).await.expect("dead");
    let third = queue.claim(10).await.expect("a claim");
    assert_eq!(third.len(), 2);
    // The first three are due again, and there is no slot for them.
    make_due(&pool).await;
    assert!(queue.claim(10).await.expect("a claim").is_empty(), "both slots are taken");
    assert_eq!(queue.counts().await.expect("the counts").waiting, 3);
    third[0].complete().await.expect("complete");
    let fourth = claim_one(&queue).await;
    assert_eq!((fourth.id(), fourth.attempt()), (first[0].id(), 2), "a claim without a slot does not count");
    assert_eq!(queue.claim(10).await.expect("a claim").len(), 0);
    fourth.complete().await.expect("complete");
    third[1].complete().await.expect("complete");
    for claim in queue.claim(10).await.expect("a claim") {
        claim.complete().await.expect("complete");
    }
    assert!(queue.requeue(second[1].id()).await.expect("requeued"));
    claim_one(&queue).await.complete().await.expect("complete");
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job_key").await, 0);
}

/// Those of jobs that are due later are given when they are claimed.
pub(crate) async fn scheduled_jobs_respect_the_limit_when_they_are_due<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<_> = (0..5).map(|n| limited(n, "tenant").run_after(HOUR)).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    enqueue(&pool, &queue, limited(6, "tenant")).await;
    let now = claim_one(&queue).await;
    make_due(&pool).await;
    let second = queue.claim(100).await.expect("a claim");
    assert_eq!(second.len(), 1, "one slot is left");
    assert!(queue.claim(100).await.expect("a claim").is_empty());
    now.complete().await.expect("complete");
    second[0].complete().await.expect("complete");
    let mut left = 4;
    while left > 0 {
        let claims = queue.claim(100).await.expect("a claim");
        assert!((1..=2).contains(&claims.len()), "{} at the same time", claims.len());
        for claim in claims {
            claim.complete().await.expect("complete");
            left -= 1;
        }
    }
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job_key").await, 0);
}

pub(crate) async fn a_claim_that_takes_a_job_over_takes_its_slot_over<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue_all(&pool, &queue, 4, "tenant").await;
    let zombies = queue.claim(10).await.expect("a claim");
    lapse_claims(&pool).await;
    let heirs = queue.claim(10).await.expect("a claim");
    let ids = |claims: &[Claim<DB>]| claims.iter().map(Claim::id).collect::<Vec<_>>();
    assert_eq!(ids(&heirs), ids(&zombies));
    for zombie in zombies {
        assert!(zombie.release().await.expect_err("fenced").is_stale_claim());
    }
    assert!(queue.claim(10).await.expect("a claim").is_empty(), "both slots are taken");
}

pub(crate) async fn a_new_limit_applies_to_all_jobs_of_the_key<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue_all(&pool, &queue, 6, "tenant").await;
    let first = queue.claim(10).await.expect("a claim");
    assert_eq!(first.len(), 2);
    enqueue(&pool, &queue, job(7).at_most("tenant", 4).expect("a key")).await;
    assert_eq!(queue.claim(10).await.expect("a claim").len(), 2);
    enqueue(&pool, &queue, job(8).at_most("tenant", 1).expect("a key")).await;
    first[0].complete().await.expect("complete");
    assert!(queue.claim(10).await.expect("a claim").is_empty(), "three run, and one is allowed");
}

pub(crate) async fn workers_run_no_more_jobs_of_a_key_than_its_limit<DB: TestBackend>() {
    const JOBS: i64 = 30;
    let (pool, queue) = queue::<DB>(8).await;
    let queue = queue.backoff(Backoff::none());
    enqueue_all(&pool, &queue, JOBS, "tenant").await;
    let (running, highest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let worker = Worker::new(&queue).handlers(6).poll_every(Duration::from_millis(20));
    let counted = (running.clone(), highest.clone());
    worker
        .run(until_empty(&pool), move |claim: Arc<Claim<DB>>| {
            let (running, highest) = counted.clone();
            async move {
                highest.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                // Until two have run at the same time, each waits for another one.
                let alone = Instant::now();
                while highest.load(SeqCst) < 2 && alone.elapsed() < LIMIT {
                    sleep(Duration::from_millis(5)).await;
                }
                sleep(Duration::from_millis(5)).await;
                running.fetch_sub(1, SeqCst);
                if claim.attempt() == 1 && claim.payload::<i64>()? % 5 == 0 {
                    claim.fail("again", Retry::Backoff).await?;
                }
                Ok(())
            }
        })
        .await;
    assert_eq!(highest.load(SeqCst), 2, "as many as allowed, and no more");
}
