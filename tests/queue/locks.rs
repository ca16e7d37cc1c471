//! Claims beside transactions that hold locks.

use std::time::Duration;

use atomically::queue::Queue;
use atomically::{Error, Pessimistic, TransactorExt as _};

use crate::support::TestBackend;
use crate::{ask, claim_one, enqueue, job, lapse, queue};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) async fn claims_do_not_wait_for_locked_jobs<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    for n in 0..4 {
        enqueue(&pool, &queue, job(n)).await;
    }
    let first = claim_one(&queue).await;
    lapse(&pool).await;
    let others = Queue::new("jobs", &DB::another(&pool.url).await).expect("a name");
    let db = Pessimistic::default().on(&pool).deadline(HOUR);
    let ids = db
        .run(async |tx| {
            first.complete_in(tx).await?;
            let claims = others.claim(10).await?;
            Ok::<_, Error>(claims.iter().map(|claim| claim.id()).collect::<Vec<_>>())
        })
        .await;
    // SQLite has one writer at a time, and it is the transaction that completes the job.
    if pool.url.starts_with("sqlite") {
        assert!(ids.expect_err("the wait has a limit").is_conflict());
        return;
    }
    let ids = ids.expect("a commit");
    assert_eq!((ids.len(), ids.contains(&first.id())), (3, false));
}

/// Blocks a claim after it has locked its job and before it has updated it, and claims others meanwhile.
async fn claim_beside_a_blocked_claim<DB: TestBackend>(
    hold: &[&'static str],
    held: &str,
    let_go: &'static str,
) {
    let (pool, queue) = queue::<DB>(4).await;
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<_> = (0..400).map(job).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    let mut holder = pool.acquire().await.expect("a connection");
    for sql in hold {
        DB::raw(&mut holder, sql).await.expect("blocked");
    }
    let first = queue.clone();
    let first = tokio::spawn(async move { claim_one(&first).await.id() });
    crate::support::eventually(1, async || ask(&pool, held).await).await;
    let claims = Queue::new("jobs", &pool).expect("a name").claim(300).await.expect("a claim");
    assert_eq!(claims.len(), 300, "the blocked claim locks more jobs than it returns");
    let _ = db
        .run(async |tx| queue.enqueue(tx, job(0)).await)
        .await
        .expect("the blocked claim does not block inserts");
    assert!(!first.is_finished(), "the claim was not blocked");
    DB::raw(&mut holder, let_go).await.expect("unblocked");
    let first = first.await.expect("the claim returns");
    assert!(claims.iter().all(|claim| claim.id() != first), "claimed twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_claims_lock_only_the_jobs_that_they_return() {
    claim_beside_a_blocked_claim::<sqlx::Postgres>(
        &[
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NEW; END'",
            "CREATE TRIGGER hold BEFORE UPDATE ON atomically_job FOR EACH ROW WHEN (NEW.id = 1)
                 EXECUTE FUNCTION hold()",
            "SELECT pg_advisory_lock(7)",
        ],
        "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        "SELECT pg_advisory_unlock(7)",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_claims_lock_only_the_jobs_that_they_return() {
    claim_beside_a_blocked_claim::<sqlx::MySql>(
        &[
            "CREATE TRIGGER hold BEFORE UPDATE ON atomically_job FOR EACH ROW
                 SET @held = IF(NEW.id = 1, GET_LOCK(DATABASE(), 60), 0)",
            "DO GET_LOCK(DATABASE(), 60)",
        ],
        "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE() AND state = 'User lock'",
        "DO RELEASE_LOCK(DATABASE())",
    )
    .await;
}
