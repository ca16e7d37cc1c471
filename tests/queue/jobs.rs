//! The life of a job: claimed, completed, failed, released, dead.

use std::time::{Duration, Instant, SystemTime};

use atomically::queue::{FailOutcome, Priority, Queue, Retry};
use atomically::{Backoff, Error, Pessimistic, TransactorExt as _};

use crate::support::TestBackend;
use crate::{ask, claim_one, enqueue, job, lapse, queue};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) async fn a_job_is_enqueued_only_if_its_transaction_commits<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let error = db
        .run(async |tx| {
            assert!(queue.enqueue(tx, job(1)).await?.id().is_some());
            Err::<(), Error>(sqlx::Error::RowNotFound.into())
        })
        .await;
    error.expect_err("its own error");
    assert!(queue.claim(10).await.expect("a claim").is_empty());

    let id = enqueue(&pool, &queue, job(2)).await;
    let claims = queue.claim(10).await.expect("a claim");
    let found: Vec<_> = claims.iter().map(|claim| (claim.id(), claim.token(), claim.attempt())).collect();
    assert_eq!(found, [(id, 1, 1)]);
    assert_eq!(claims[0].payload::<i64>().expect("the payload"), 2);
    assert!(queue.claim(10).await.expect("a claim").is_empty(), "it is claimed");
    let counts = queue.counts().await.expect("the counts");
    assert_eq!((counts.due, counts.claimed, counts.scheduled, counts.dead), (0, 1, 0, 0));
    claims[0].complete().await.expect("complete");
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job").await, 0);
    let other = Queue::new("other", &pool).expect("a name");
    enqueue(&pool, &queue, job(3)).await;
    assert!(other.claim(10).await.expect("a claim").is_empty(), "queues are apart");
    assert!(queue.claim(0).await.expect("a claim").is_empty(), "no job was requested");
}

pub(crate) async fn jobs_are_claimed_by_priority_and_then_by_due_time<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let now = SystemTime::now();
    let ago = |seconds| now - Duration::from_secs(seconds);
    let mut wanted = Vec::new();
    for (turn, priority, seconds) in [
        (4, Priority::Normal, 10),
        (6, Priority::Low, 99),
        (1, Priority::High, 20),
        (3, Priority::Normal, 30),
        (2, Priority::High, 10),
        (5, Priority::Normal, 5),
    ] {
        let id = enqueue(&pool, &queue, job(turn).priority(priority).run_at(ago(seconds))).await;
        wanted.push((turn, id));
    }
    wanted.sort_unstable();
    let mut got = Vec::new();
    for (limit, total) in [(3, 3), (1, 4), (5, 6)] {
        got.extend(queue.claim(limit).await.expect("a claim").iter().map(|claim| claim.id()));
        assert_eq!(got.len(), total);
    }
    assert_eq!(got, wanted.iter().map(|(_, id)| *id).collect::<Vec<_>>());
}

pub(crate) async fn a_job_is_not_claimed_before_it_is_due<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue(&pool, &queue, job(1).run_after(HOUR)).await;
    enqueue(&pool, &queue, job(2).run_at(SystemTime::now() + HOUR)).await;
    enqueue(&pool, &queue, job(3).run_after(Duration::MAX)).await;
    assert!(queue.claim(10).await.expect("a claim").is_empty());
    assert_eq!(queue.counts().await.expect("the counts").scheduled, 3);
    let later = "UPDATE atomically_job SET due_at = due_at - 3600000000";
    DB::pool_execute(&pool, DB::sql(later), &[]).await.expect("an hour has passed");
    assert_eq!(queue.claim(10).await.expect("a claim").len(), 2);
}

pub(crate) async fn a_failing_job_is_retried_until_it_is_dead<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let queue = queue.max_attempts(3).backoff(Backoff::exponential(HOUR, HOUR));
    let id = enqueue(&pool, &queue, job(1)).await;
    let claim = claim_one(&queue).await;
    let outcome = claim.fail("first", Retry::Backoff).await.expect("an outcome");
    assert!(matches!(outcome, FailOutcome::Retried(delay) if delay <= HOUR), "{outcome:?}");
    assert_eq!(queue.counts().await.expect("the counts").scheduled, 1);
    assert!(queue.claim(1).await.expect("a claim").is_empty(), "not yet");
    assert!(claim.complete().await.expect_err("it has failed").is_stale_claim());

    lapse(&pool).await;
    let claim = claim_one(&queue).await;
    assert_eq!((claim.attempt(), claim.last_error()), (2, Some("first")));
    let outcome = claim.fail("second", Retry::After(Duration::ZERO)).await.expect("an outcome");
    assert_eq!(outcome, FailOutcome::Retried(Duration::ZERO));

    let claim = claim_one(&queue).await;
    assert_eq!((claim.attempt(), claim.max_attempts()), (3, 3));
    assert_eq!(claim.fail("third", Retry::After(HOUR)).await.expect("an outcome"), FailOutcome::Dead);
    lapse(&pool).await;
    assert!(queue.claim(1).await.expect("a claim").is_empty());
    let dead = queue.dead(10).await.expect("the dead");
    assert_eq!((dead.len(), dead[0].id, dead[0].attempts), (1, id, 3));
    assert_eq!((dead[0].json.as_str(), dead[0].last_error.as_deref()), ("1", Some("third")));

    assert!(queue.requeue(id).await.expect("requeued"));
    assert!(!queue.requeue(id).await.expect("it lives"));
    let again = claim_one(&queue).await;
    assert_eq!((again.id(), again.attempt()), (id, 1));
    assert!(again.token() > claim.token(), "tokens only ever grow");
    again.complete().await.expect("complete");
}

pub(crate) async fn retry_never_makes_a_job_dead<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue(&pool, &queue, job(1)).await;
    let claim = claim_one(&queue).await;
    let long = "\u{fc}\0".repeat(5_000);
    assert_eq!(claim.fail(&long, Retry::Never).await.expect("an outcome"), FailOutcome::Dead);
    let dead = queue.dead(1).await.expect("the dead");
    let error = dead[0].last_error.as_deref().expect("an error");
    assert!(error.starts_with("\u{fc}\u{fffd}\u{fc}") && error.len() < 10_000, "{error}");
}

pub(crate) async fn a_released_job_is_claimed_again_with_the_same_attempt<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue(&pool, &queue, job(1).max_attempts(1)).await;
    let first = claim_one(&queue).await;
    first.release().await.expect("released");
    assert!(first.complete().await.expect_err("given back").is_stale_claim());
    let second = claim_one(&queue).await;
    assert_eq!((second.attempt(), second.token() > first.token()), (1, true));
    assert!(first.complete().await.expect_err("given back").is_stale_claim());
    second.complete().await.expect("complete");
}

pub(crate) async fn a_job_with_an_expired_lease_is_claimed_again<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let id = enqueue(&pool, &queue, job(1)).await;
    let first = claim_one(&queue).await;
    assert!(queue.claim(1).await.expect("a claim").is_empty());
    lapse(&pool).await;
    let second = claim_one(&queue).await;
    assert_eq!((second.id(), second.attempt(), second.token()), (id, 2, first.token() + 1));
    // The minimum lease is 100 ms.
    let hasty = queue.clone().lease(Duration::ZERO);
    let mut attempt = 3;
    loop {
        lapse(&pool).await;
        let held = claim_one(&hasty).await;
        assert_eq!(held.attempt(), attempt);
        let requested = Instant::now();
        held.extend().await.expect("held");
        let claims = queue.claim(1).await.expect("a claim");
        attempt += 1;
        if requested.elapsed() < Duration::from_millis(100) {
            assert!(claims.is_empty(), "the lease expired immediately");
            break;
        }
        // The machine was too busy to claim the job within the lease.
        attempt += claims.len() as u32;
        assert!(attempt < 100, "the machine was too busy each time");
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(claim_one(&queue).await.attempt(), attempt);
}

/// A job that kills its worker at each attempt must not be claimed again.
pub(crate) async fn a_job_whose_last_lease_expired_is_dead<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let poison = enqueue(&pool, &queue, job(1).max_attempts(2)).await;
    let sound = enqueue(&pool, &queue, job(2)).await;
    for _ in 0..2 {
        lapse(&pool).await;
        assert_eq!(queue.claim(10).await.expect("a claim").len(), 2);
    }
    lapse(&pool).await;
    let claims = queue.claim(10).await.expect("a claim");
    assert_eq!(claims.iter().map(|claim| claim.id()).collect::<Vec<_>>(), [sound]);
    let dead = queue.dead(10).await.expect("the dead");
    assert_eq!((dead.len(), dead[0].id, dead[0].attempts), (1, poison, 2));
    assert!(dead[0].last_error.as_deref().is_some_and(|error| error.contains("expired")), "{dead:?}");
}

pub(crate) async fn an_extended_lease_keeps_its_job<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let id = enqueue(&pool, &queue, job(1)).await;
    let claim = claim_one(&queue).await;
    claim.extend().await.expect("held");
    claim.extend().await.expect("held");
    let lapsed = "UPDATE atomically_job SET due_at = 1";
    DB::pool_execute(&pool, DB::sql(lapsed), &[]).await.expect("the first lease lapses");
    assert!(queue.claim(1).await.expect("a claim").is_empty());
    let counts = queue.counts().await.expect("the counts");
    assert_eq!((counts.claimed, counts.due), (1, 0));
    lapse(&pool).await;
    let taken = claim_one(&queue).await;
    assert_eq!((taken.id(), taken.attempt()), (id, 2));
    // The extended lease belongs to the first claim and does not protect later ones.
    let sql = "UPDATE atomically_job_lease SET until = until + 4000000000000000000";
    DB::pool_execute(&pool, DB::sql(sql), &[]).await.expect("an update");
    DB::pool_execute(&pool, DB::sql(lapsed), &[]).await.expect("an update");
    assert_eq!(claim_one(&queue).await.attempt(), 3);
}

/// Otherwise a claim of a completed job would be a claim of the next job with the same id.
pub(crate) async fn ids_are_never_reused<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let first = enqueue(&pool, &queue, job(1)).await;
    let done = claim_one(&queue).await;
    done.complete().await.expect("complete");
    let second = enqueue(&pool, &queue, job(2)).await;
    assert!(second > first);
    let claim = claim_one(&queue).await;
    assert!(done.complete().await.expect_err("it is done").is_stale_claim());
    claim.complete().await.expect("complete");
}

/// A claim starts where the last one ended, and scans everything if it finds nothing.
pub(crate) async fn a_job_before_the_cursor_is_claimed<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue(&pool, &queue, job(1)).await;
    let claim = claim_one(&queue).await;
    let behind = enqueue(&pool, &queue, job(2).run_at(SystemTime::now() - HOUR)).await;
    assert_eq!(claim_one(&queue).await.id(), behind);
    lapse(&pool).await;
    let ids: Vec<_> = queue.claim(5).await.expect("a claim").iter().map(|claim| claim.id()).collect();
    assert_eq!(ids, [claim.id(), behind]);
}

pub(crate) async fn dead_jobs_are_purged<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<_> = (0..1_500).map(job).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    let kill =
        "UPDATE atomically_job SET due_at = NULL, died_at = enqueued_at - 7200000000 WHERE id % 10 <> 0";
    DB::pool_execute(&pool, DB::sql(kill), &[]).await.expect("most die");
    let claim = claim_one(&queue).await;
    claim.extend().await.expect("held");
    claim.complete().await.expect("complete");
    let held = claim_one(&queue).await;
    held.extend().await.expect("held");
    let old = "UPDATE atomically_job_lease SET until = until - 9000000000";
    DB::pool_execute(&pool, DB::sql(old), &[]).await.expect("time passes");
    assert_eq!(queue.purge(HOUR * 3).await.expect("a purge"), 0, "not yet");
    assert_eq!(queue.purge(HOUR).await.expect("a purge"), 1_350);
    let counts = queue.counts().await.expect("the counts");
    assert_eq!((counts.due, counts.claimed, counts.dead), (148, 1, 0));
    assert!(counts.lag > Duration::ZERO);
    assert_eq!(
        ask(&pool, "SELECT COUNT(*) FROM atomically_job_lease").await,
        1,
        "that of the job that is held"
    );
}
