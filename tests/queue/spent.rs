//! Spent jobs: their last attempt began and did not end.

use std::time::Duration;

use atomically::Backoff;
use atomically::queue::{Priority, Queue};

use crate::support::{TestBackend, eventually};
use crate::worker::{LONG, jobs_left, noted, start, stopped, worker};
use crate::{ask, enqueue, job, lapse, queue};

const SPENT: i64 = 40;

/// Enqueues spent jobs that are due before the others of the same priority.
async fn spend<DB: TestBackend>(pool: &sqlx::Pool<DB>, queue: &Queue<DB>) {
    for n in 0..SPENT {
        enqueue(pool, queue, job(n).max_attempts(1)).await;
    }
    let claims = queue.claim(SPENT as usize).await.expect("a claim");
    assert_eq!(claims.len(), SPENT as usize);
    lapse(pool).await;
}

pub(crate) async fn spent_jobs_do_not_count_towards_the_limit_of_a_claim<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    spend(&pool, &queue).await;
    let mut good = Vec::new();
    for n in 0..12 {
        good.push(enqueue(&pool, &queue, job(n)).await);
    }
    let high = enqueue(&pool, &queue, job(0).priority(Priority::High)).await;
    // Another process, which starts at the front of the index.
    let other = Queue::new("jobs", &pool).expect("a name");
    let claims = other.claim(10).await.expect("a claim");
    let ids: Vec<_> = claims.iter().map(|claim| claim.id()).collect();
    assert_eq!(ids, [&[high], &good[..9]].concat(), "as many claimable jobs as requested, in their order");
    assert_eq!(queue.counts().await.expect("the counts").dead, SPENT as u64);
    let errors =
        "SELECT COUNT(*) FROM atomically_job WHERE died_at IS NOT NULL AND last_error LIKE 'the lease of%'";
    assert_eq!(ask(&pool, errors).await, SPENT);
    assert_eq!(queue.claim(10).await.expect("a claim").len(), 3, "none was lost");
}

/// With one handler, each spent job would otherwise take a poll.
pub(crate) async fn the_death_of_spent_jobs_is_reported<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let queue = queue.backoff(Backoff::none());
    spend(&pool, &queue).await;
    enqueue(&pool, &queue, job(7)).await;
    let (worker, events) = worker(&queue);
    // The first claim has to find the job.
    let (stop, running) = start(worker.handlers(1).poll_every(LONG), |_| async { Ok(()) });
    eventually(SPENT, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
    let noted = noted(&events);
    let dead = noted.iter().filter(|event| event.starts_with("dead ") && event.contains("the lease of"));
    assert_eq!(dead.count(), SPENT as usize, "{noted:?}");
    assert_eq!(noted.iter().filter(|event| event.starts_with("completed")).count(), 1, "{noted:?}");
}

/// A single statement claims at most a thousand jobs.
pub(crate) async fn a_claim_returns_as_many_jobs_as_requested<DB: TestBackend>() {
    use atomically::{Pessimistic, TransactorExt as _};

    let (pool, queue) = queue::<DB>(2).await;
    let queue = queue.lease(Duration::from_secs(600));
    let jobs: Vec<_> = (0..2_300).map(job).collect();
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    let claims = queue.claim(2_200).await.expect("a claim");
    assert_eq!(claims.len(), 2_200);
    let payloads: Vec<i64> = claims.iter().map(|claim| claim.payload().expect("a payload")).collect();
    assert!(payloads.iter().copied().eq(0..2_200), "in their order");
    assert_eq!(queue.claim(usize::MAX).await.expect("a claim").len(), 100);
}
