//! Jobs that are cancelled in a transaction with an older snapshot.

use atomically::{Error, Isolation, Optimistic, Options, TransactorExt as _};

use crate::support::TestBackend;
use crate::{ask, enqueue, job, queue};

/// A transaction of MySQL or MariaDB may have read the id of a job with a lock, although its snapshot is
/// older than the job. PostgreSQL refuses such a read, and finds no job that is not in the snapshot.
pub(crate) async fn a_job_is_cancelled_although_the_snapshot_is_older<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    for (level, is_ordered) in [
        (Isolation::ReadCommitted, false),
        (Isolation::ReadCommitted, true),
        (Isolation::RepeatableRead, false),
        (Isolation::RepeatableRead, true),
    ] {
        let is_found = level == Isolation::ReadCommitted || DB::NAME == "MySQL";
        let db = Optimistic::default().on(&pool).options(Options::new().isolation(level));
        let cancelled = db.run(async |tx| {
            DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM ledger"), &[]).await?;
            let new = if is_ordered { job(1).in_order_of("a").expect("a key") } else { job(1) };
            let (pool, other) = (pool.pool.clone(), queue.clone());
            let id = tokio::spawn(async move { enqueue(&pool, &other, new).await }).await.expect("enqueued");
            Ok::<_, Error>((id, queue.cancel_in(tx, id).await?))
        });
        let (id, is_cancelled) = cancelled.await.expect("a commit");
        assert_eq!(is_cancelled, is_found, "{level}, ordered: {is_ordered}");
        assert_eq!(queue.cancel(id).await.expect("an answer"), !is_found);
        assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job_key").await, 0);
    }
}
