//! Purging deletes dead jobs, and no others.

use std::time::Duration;

use atomically::queue::Retry;

use crate::support::{TestBackend, eventually};
use crate::{ask, claim_one, enqueue, job, queue};

/// Returns how many sessions of this database wait for a row.
async fn waiting<DB: TestBackend>(pool: &sqlx::Pool<DB>) -> i64 {
    // InnoDB refreshes its list only if it was not read for a tenth of a second.
    tokio::time::sleep(Duration::from_millis(150)).await;
    ask(
        pool,
        if DB::NAME == "PostgreSQL" {
            "SELECT COUNT(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'"
        } else {
            "SELECT COUNT(*) FROM information_schema.innodb_trx JOIN information_schema.processlist
             ON id = trx_mysql_thread_id WHERE db = database() AND trx_state = 'LOCK WAIT'"
        },
    )
    .await
}

/// A session that requeues the job has locked its row when `purge` reaches it, and commits afterwards.
pub(crate) async fn a_job_that_is_requeued_concurrently_is_not_purged<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let (kept, gone) = (enqueue(&pool, &queue, job(1)).await, enqueue(&pool, &queue, job(2)).await);
    for _ in 0..2 {
        claim_one(&queue).await.fail("no", Retry::Never).await.expect("dead");
    }
    let mut operator = pool.acquire().await.expect("a connection");
    // The statement of `requeue`, in a transaction that is still open.
    for sql in [
        "BEGIN",
        "UPDATE atomically_job SET died_at = NULL, due_at = 1, attempts = 0, token = token + 1 WHERE id = 1",
    ] {
        DB::raw(&mut operator, sql).await.expect("a statement");
    }
    assert_eq!(kept, 1);
    let purging = tokio::spawn({
        let queue = queue.clone();
        async move { queue.purge(Duration::ZERO).await }
    });
    // The purge has reached the row: it waits for it, or has skipped it.
    eventually(true, async || purging.is_finished() || waiting(&pool).await > 0).await;
    DB::raw(&mut operator, "COMMIT").await.expect("requeued");
    let purged = purging.await.expect("no panic").expect("a purge");
    assert_eq!(purged, 1, "the job {gone} was dead");
    assert_eq!(ask(&pool, "SELECT id FROM atomically_job").await, kept);
    assert_eq!(claim_one(&queue).await.id(), kept);
}
