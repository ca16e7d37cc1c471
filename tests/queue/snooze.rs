//! Snoozed jobs: they are due later, and the attempt does not count.

use std::time::Duration;

use sqlx::pool::PoolOptions;

use crate::resend::RELEASE;
use crate::support::proxy::{Fault, Proxy};
use crate::support::{TestBackend, eventually};
use crate::worker::{jobs_left, noted, start, stopped, worker};
use crate::{ask, claim_one, enqueue, job, lapse, queue};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) async fn a_snoozed_job_is_claimed_later_with_the_same_attempt<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let id = enqueue(&pool, &queue, job(1).max_attempts(1)).await;
    let claim = claim_one(&queue).await;
    claim.snooze(HOUR).await.expect("put off");
    assert!(queue.claim(1).await.expect("a claim").is_empty(), "it is not due");
    assert_eq!(queue.counts().await.expect("the counts").scheduled, 1);
    let later = "UPDATE atomically_job SET due_at = due_at - 3600000000";
    DB::pool_execute(&pool, DB::sql(later), &[]).await.expect("an hour has passed");
    let again = claim_one(&queue).await;
    assert_eq!((again.id(), again.attempt()), (id, 1));
    lapse(&pool).await;
    let error = claim.snooze(HOUR).await.expect_err("it is not held any more");
    assert!(error.is_stale_claim(), "{error}");
    again.complete().await.expect("untouched");
}

pub(crate) async fn a_worker_does_not_complete_a_snoozed_job<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let id = enqueue(&pool, &queue, job(1).max_attempts(1)).await;
    let (worker, events) = worker(&queue);
    let (stop, running) = start(worker, |claim| async move {
        if claim.token() == 1 { claim.snooze(Duration::from_secs(1)).await } else { Ok(()) }
    });
    eventually(0, async || jobs_left(&pool).await).await;
    stopped(stop, running).await;
    assert_eq!(noted(&events), [format!("released {id}"), format!("completed {id}")]);
}

pub(crate) async fn a_lost_snooze_is_sent_again<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let proxy = Proxy::to(&pool.url).await;
    let distant = PoolOptions::<DB>::new().max_connections(3).connect(&proxy.url(&pool.url)).await;
    let distant = atomically::queue::Queue::new("jobs", &distant.expect("a pool")).expect("a name");
    enqueue(&pool, &queue, job(1)).await;
    let claim = claim_one(&distant).await;
    let mut fates = vec![None; 50];
    fates[0] = Some(Fault::CutAfter);
    proxy.cycle(RELEASE, &fates);
    claim.snooze(HOUR).await.expect("put off");
    assert_eq!(proxy.hits(), 1, "no answer was lost");
    assert_eq!(ask(&pool, "SELECT token * 10 + attempts FROM atomically_job").await, 20);
}
