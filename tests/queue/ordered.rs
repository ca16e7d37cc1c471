//! Ordered jobs: those of one key run one at a time, in the order of their commits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::queue::{Claim, NewJob, Queue, Retry, complete_all_in};
use atomically::{Backoff, Pessimistic, TransactorExt as _};
use sqlx::Pool;

use crate::support::TestBackend;
use crate::{ask, claim_one, enqueue, job, queue, until_empty};

pub(crate) fn ordered(payload: i64, key: &str) -> NewJob {
    job(payload).in_order_of(key).expect("a key")
}

async fn payloads<DB: TestBackend>(queue: &Queue<DB>) -> Vec<(Claim<DB>, i64)> {
    let claims = queue.claim(100).await.expect("a claim");
    claims
        .into_iter()
        .map(|claim| {
            let number = claim.payload().expect("a number");
            (claim, number)
        })
        .collect()
}

async fn numbers<DB: TestBackend>(queue: &Queue<DB>) -> Vec<i64> {
    payloads(queue).await.into_iter().map(|(_, number)| number).collect()
}

/// Makes the leases of all claims expire. Jobs that wait stay as they are.
pub(crate) async fn lapse_claims<DB: TestBackend>(pool: &Pool<DB>) {
    for sql in [
        "UPDATE atomically_job SET due_at = 1 WHERE claimed_at IS NOT NULL",
        "UPDATE atomically_job_lease SET until = 1",
    ] {
        DB::pool_execute(pool, DB::sql(sql), &[]).await.expect("an update");
    }
}

/// Nothing is left, not even the rows of keys.
async fn is_empty<DB: TestBackend>(pool: &Pool<DB>) {
    assert_eq!(ask(pool, "SELECT COUNT(*) FROM atomically_job").await, 0);
    assert_eq!(ask(pool, "SELECT COUNT(*) FROM atomically_job_key").await, 0);
}

pub(crate) async fn jobs_of_a_key_are_claimed_one_after_the_other<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<_> =
        [(1, "a"), (2, "b"), (3, "a"), (4, "a"), (5, "b")].map(|(n, key)| ordered(n, key)).into();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    enqueue(&pool, &queue, job(6)).await;
    let counts = queue.counts().await.expect("the counts");
    assert_eq!((counts.due, counts.waiting), (3, 3));
    let mut order = Vec::new();
    loop {
        let claims = payloads(&queue).await;
        let Some(_) = claims.first() else { break };
        order.push(claims.iter().map(|(_, number)| *number).collect::<Vec<_>>());
        assert_eq!(numbers(&queue).await, [0; 0], "the others wait");
        for (n, (claim, _)) in claims.iter().enumerate() {
            if n % 2 == 0 {
                claim.complete().await.expect("complete");
            } else {
                db.run(async |tx| claim.complete_in(tx).await).await.expect("complete");
            }
        }
    }
    assert_eq!(order.concat().len(), 6);
    assert_eq!(order[1..], [vec![3, 5], vec![4]]);
    is_empty(&pool).await;
}

pub(crate) async fn completing_several_jobs_makes_their_successors_due<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<_> = (0..12).map(|n| ordered(n, ["a", "b", "c"][n as usize % 3])).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    for round in 0..4 {
        let claims = queue.claim(100).await.expect("a claim");
        assert_eq!(claims.len(), 3, "round {round}");
        db.run(async |tx| complete_all_in(tx, &claims).await).await.expect("complete");
    }
    is_empty(&pool).await;
}

pub(crate) async fn the_next_job_waits_through_failures_and_snoozes<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let queue = queue.backoff(Backoff::none());
    for n in [1, 2] {
        enqueue(&pool, &queue, ordered(n, "a")).await;
    }
    let first = claim_one(&queue).await;
    first.fail("not yet", Retry::After(Duration::from_secs(3600))).await.expect("failed");
    assert_eq!(numbers(&queue).await, [0; 0], "the first waits for its next attempt");
    lapse_scheduled(&pool).await;
    claim_one(&queue).await.snooze(Duration::from_secs(3600)).await.expect("snoozed");
    assert_eq!(numbers(&queue).await, [0; 0], "the first is snoozed");
    lapse_scheduled(&pool).await;
    let zombie = claim_one(&queue).await;
    lapse_claims(&pool).await;
    let heir = claim_one(&queue).await;
    assert_eq!(heir.id(), zombie.id(), "the job of the dead worker is first");
    assert!(zombie.complete().await.expect_err("fenced").is_stale_claim());
    assert_eq!(numbers(&queue).await, [0; 0], "a stale completion makes nothing due");
    heir.complete().await.expect("complete");
    assert_eq!(numbers(&queue).await, [2]);
}

async fn lapse_scheduled<DB: TestBackend>(pool: &Pool<DB>) {
    let sql = "UPDATE atomically_job SET due_at = 1 WHERE due_at IS NOT NULL AND claimed_at IS NULL";
    DB::pool_execute(pool, DB::sql(sql), &[]).await.expect("an update");
}

pub(crate) async fn a_dead_job_blocks_its_key_until_it_is_requeued_or_discarded<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    for n in [1, 2, 3] {
        enqueue(&pool, &queue, ordered(n, "a")).await;
    }
    let first = claim_one(&queue).await;
    first.fail("broken", Retry::Never).await.expect("dead");
    assert_eq!(numbers(&queue).await, [0; 0], "the dead job blocks its key");
    assert!(queue.requeue(first.id()).await.expect("requeued"));
    let again = claim_one(&queue).await;
    assert_eq!(again.id(), first.id());
    again.fail("still broken", Retry::Never).await.expect("dead");
    assert!(queue.discard(first.id()).await.expect("discarded"));
    assert!(!queue.discard(first.id()).await.expect("an answer"), "there is no such job");
    let second = claim_one(&queue).await;
    assert_eq!(second.payload::<i64>().expect("a number"), 2);
    assert!(!queue.discard(second.id()).await.expect("an answer"), "it is not dead");
    second.fail("broken", Retry::Never).await.expect("dead");
    assert_eq!(queue.purge(Duration::ZERO).await.expect("purged"), 1);
    assert_eq!(numbers(&queue).await, [3]);
}

pub(crate) async fn a_queue_that_skips_dead_jobs_continues_with_the_next<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let queue = queue.skip_dead();
    for n in [1, 2, 3] {
        enqueue(&pool, &queue, ordered(n, "a").max_attempts(1)).await;
    }
    let first = claim_one(&queue).await;
    first.fail("broken", Retry::Never).await.expect("dead");
    let second = claim_one(&queue).await;
    assert_eq!(second.payload::<i64>().expect("a number"), 2);
    // The requeued job is the next, although it was enqueued first.
    assert_eq!(queue.requeue_many(&[first.id(), second.id()]).await.expect("requeued"), 1);
    assert_eq!(numbers(&queue).await, [0; 0], "the second one runs");
    // The lease of the second one expires in its last attempt: it is dead.
    lapse_claims(&pool).await;
    assert_eq!(numbers(&queue).await, [0; 0], "the claim finds the spent job");
    assert_eq!(queue.dead(10).await.expect("the dead jobs").len(), 1);
    claim_one(&queue).await.complete().await.expect("complete");
    assert_eq!(numbers(&queue).await, [3]);
}

pub(crate) async fn a_spent_job_blocks_its_key<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    for n in [1, 2] {
        enqueue(&pool, &queue, ordered(n, "a").max_attempts(1)).await;
    }
    let first = claim_one(&queue).await;
    lapse_claims(&pool).await;
    assert_eq!(numbers(&queue).await, [0; 0]);
    let dead = queue.dead(10).await.expect("the dead jobs");
    assert_eq!(dead.iter().map(|job| job.id).collect::<Vec<_>>(), [first.id()]);
    assert!(queue.discard(first.id()).await.expect("discarded"));
    assert_eq!(numbers(&queue).await, [2]);
}

pub(crate) async fn a_scheduled_job_delays_only_its_key<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue(&pool, &queue, ordered(1, "a").run_after(Duration::from_secs(3600))).await;
    enqueue(&pool, &queue, ordered(2, "a")).await;
    enqueue(&pool, &queue, ordered(3, "b")).await;
    assert_eq!(numbers(&queue).await, [3]);
    lapse_scheduled(&pool).await;
    assert_eq!(numbers(&queue).await, [1]);
}

pub(crate) async fn a_duplicate_does_not_take_the_turn_of_another_job<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let unique = |n, key| job(n).unique("once").and_then(|job| job.in_order_of(key)).expect("the keys");
    let first = unique(1, "a");
    assert!(queue.enqueue_alone(first).await.expect("enqueued").id().is_some());
    let jobs = [unique(2, "b"), ordered(3, "b"), unique(4, "c"), ordered(5, "b")];
    let added = db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    assert_eq!(added, 2, "two are duplicates");
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job_key").await, 2, "no job has the key c");
    assert_eq!(numbers(&queue).await, [1, 3]);
}

pub(crate) async fn a_cancelled_job_makes_the_next_one_due<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let mut ids = Vec::new();
    for n in [1, 2, 3] {
        ids.push(enqueue(&pool, &queue, ordered(n, "a")).await);
    }
    let first = claim_one(&queue).await;
    assert!(queue.cancel(ids[1]).await.expect("cancelled"), "it was waiting");
    assert_eq!(numbers(&queue).await, [0; 0]);
    assert!(queue.cancel(ids[0]).await.expect("cancelled"), "it is claimed");
    assert!(first.complete().await.expect_err("fenced").is_stale_claim());
    assert_eq!(numbers(&queue).await, [3]);
    assert!(queue.cancel(ids[2]).await.expect("cancelled"));
    is_empty(&pool).await;
}

/// Workers of several processes on the same queue run jobs of one key one at a time and in order.
pub(crate) async fn workers_run_the_jobs_of_a_key_in_order<DB: TestBackend>() {
    const KEYS: i64 = 4;
    const JOBS: i64 = 40;
    let (pool, queue) = queue::<DB>(8).await;
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<_> = (0..JOBS).map(|n| ordered(n, &format!("key {}", n % KEYS))).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    let seen: Arc<Mutex<Vec<i64>>> = Arc::default();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let workers = (0..2).map(|_| {
        let (queue, seen, mut stopped) = (queue.clone(), seen.clone(), stopped.clone());
        tokio::spawn(async move {
            let worker =
                atomically::queue::Worker::new(&queue).handlers(3).poll_every(Duration::from_millis(20));
            let shutdown = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
            worker
                .run(shutdown, move |claim: Arc<Claim<DB>>| {
                    let seen = seen.clone();
                    async move {
                        let number: i64 = claim.payload()?;
                        if claim.attempt() == 1 && number % 7 == 0 {
                            claim.fail("again", Retry::After(Duration::from_millis(5))).await?;
                            return Ok(());
                        }
                        seen.lock().expect("no panic").push(number);
                        Ok(())
                    }
                })
                .await;
        })
    });
    let workers: Vec<_> = workers.collect();
    until_empty(&pool).await;
    stop.send_replace(true);
    for worker in workers {
        worker.await.expect("no panic");
    }
    let seen = seen.lock().expect("no panic").clone();
    for key in 0..KEYS {
        let of_key: Vec<_> = seen.iter().copied().filter(|number| number % KEYS == key).collect();
        assert!(of_key.is_sorted() && of_key.len() as i64 == JOBS / KEYS, "key {key}: {of_key:?}");
    }
    is_empty(&pool).await;
}
