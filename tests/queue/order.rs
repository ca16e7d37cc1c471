//! The order of claims does not depend on the order of commits.

use std::time::{Duration, Instant, SystemTime};

use atomically::queue::{NewJob, Priority};
use atomically::{Pessimistic, TransactorExt as _};
use tokio::time::sleep;

use crate::support::TestBackend;
use crate::{job, queue};

const OVERDUE: i64 = 60;
const FRESH: i64 = 3_000;
const MINUTE: Duration = Duration::from_secs(60);

/// Jobs that a slow transaction commits late are before the cursor. One worker with one handler claims them
/// although there are always newer jobs.
pub(crate) async fn jobs_before_the_cursor_are_claimed_in_their_order<DB: TestBackend>() {
    late_jobs_are_claimed_one_after_the_other::<DB>(|job| job.run_at(SystemTime::now() - MINUTE)).await;
}

/// The same for jobs that are due later and have a higher priority.
pub(crate) async fn high_priority_jobs_of_a_late_commit_are_claimed_first<DB: TestBackend>() {
    late_jobs_are_claimed_one_after_the_other::<DB>(|job| {
        job.priority(Priority::High).run_at(SystemTime::now() - MINUTE)
    })
    .await;
}

async fn late_jobs_are_claimed_one_after_the_other<DB: TestBackend>(late: fn(NewJob) -> NewJob) {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let fresh: Vec<_> = (0..FRESH).map(|_| job(0)).collect();
    db.run(async |tx| queue.enqueue_many(tx, &fresh).await).await.expect("a commit");
    let urgent = db.run(async |tx| queue.enqueue(tx, job(0).priority(Priority::High)).await).await;
    assert!(urgent.expect("a commit").id().is_some());
    let is_late = async || {
        let claims = queue.claim(1).await.expect("a claim");
        claims.first().expect("there is one").payload::<i64>().expect("a number") == 1
    };
    for _ in 0..5 {
        assert!(!is_late().await, "nothing is late yet");
    }
    let jobs: Vec<_> = (0..OVERDUE).map(|_| late(job(1))).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");

    let started = Instant::now();
    while !is_late().await {
        assert!(started.elapsed() < MINUTE, "the late jobs are not claimed");
        sleep(Duration::from_millis(5)).await;
    }
    for n in 1..OVERDUE {
        assert!(is_late().await, "a fresh job was claimed before the late one with the number {n}");
    }
}
