//! Claims and completions of jobs whose futures are dropped.

use atomically::queue::{Claim, NewJob, Queue};
use atomically::{Error, ErrorKind, Pessimistic, TransactorExt as _, Tx};

use super::{Ledger, write_twice};
use crate::support::{TestBackend, eventually};

async fn queue_of<DB: TestBackend>(ledger: &Ledger<DB>) -> Queue<DB> {
    let queue = Queue::new("jobs", &ledger.pool).expect("a name");
    queue.create_tables().await.expect("the tables");
    queue
}

async fn enqueued<DB: TestBackend>(queue: &Queue<DB>, k: i64) {
    let job = NewJob::new(&k).expect("a payload");
    assert!(queue.enqueue_alone(job).await.expect("a commit").id().is_some());
}

/// Expires the lease of the only job until the job can be claimed: a dropped claim may still acquire it in
/// the meantime.
async fn claimed<DB: TestBackend>(ledger: &Ledger<DB>, queue: &Queue<DB>) -> Claim<DB> {
    let mut claims = Vec::new();
    eventually(1, async || {
        for sql in [
            "UPDATE atomically_job SET due_at = 1 WHERE died_at IS NULL",
            "UPDATE atomically_job_lease SET until = 1",
        ] {
            DB::pool_execute(&ledger.watcher, DB::sql(sql), &[]).await.expect("an update");
        }
        claims.extend(queue.claim(2).await.expect("a claim"));
        claims.len()
    })
    .await;
    claims.remove(0)
}

/// Whether or not the dropped claim acquired the job, another claim acquires it once the lease has expired.
pub(crate) async fn dropped_claims_lose_no_job<DB: TestBackend>() {
    let ledger = Ledger::<DB>::new().await;
    let queue = queue_of(&ledger).await;
    let prepare = async |k: i64| enqueued(&queue, k).await;
    let run = async |_: i64, (): &()| queue.claim(1).await;
    let check = async |k: i64, (): (), outcome: Option<Result<Vec<Claim<DB>>, Error>>| {
        let claim = match outcome {
            Some(claims) => claims.expect("a claim").pop().expect("the job"),
            None => claimed(&ledger, &queue).await,
        };
        assert_eq!(claim.payload::<i64>().expect("a payload"), k);
        claim.complete().await.expect("the claim holds the job");
        assert_eq!(ledger.count("atomically_job").await, 0);
    };
    ledger.at_every_poll("claim", prepare, run, check).await;
}

/// A dropped completion can be repeated, and the job is deleted once.
pub(crate) async fn dropped_completions_can_be_repeated<DB: TestBackend>() {
    let ledger = Ledger::<DB>::new().await;
    let queue = queue_of(&ledger).await;
    let prepare = async |k: i64| {
        enqueued(&queue, k).await;
        claimed(&ledger, &queue).await
    };
    let run = async |_: i64, claim: &Claim<DB>| claim.complete().await;
    let check = async |_: i64, claim: Claim<DB>, outcome: Option<Result<(), Error>>| {
        match outcome {
            Some(done) => done.expect("the claim holds the job"),
            None => match claim.complete().await {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::StaleClaim, "{error:?}"),
            },
        }
        assert_eq!(ledger.count("atomically_job").await, 0);
    };
    ledger.at_every_poll("complete", prepare, run, check).await;
}

/// The job is deleted if, and only if, the effects of the unit that completes it are stored.
pub(crate) async fn dropped_units_store_effects_and_completion_together<DB: TestBackend>() {
    let ledger = Ledger::<DB>::new().await;
    let queue = queue_of(&ledger).await;
    let db = Pessimistic::default().on(&ledger.pool);
    let prepare = async |k: i64| {
        enqueued(&queue, k).await;
        claimed(&ledger, &queue).await
    };
    let run = async |k: i64, claim: &Claim<DB>| {
        let unit = async |tx: &mut Tx<DB>| {
            write_twice(tx, k).await?;
            claim.complete_in(tx).await
        };
        db.run(unit).await
    };
    let check = async |k: i64, claim: Claim<DB>, outcome: Option<Result<(), Error>>| {
        let (rows, jobs) = (ledger.rows(k).await, ledger.count("atomically_job").await);
        if let Some(done) = outcome {
            done.expect("the claim holds the job");
            assert_eq!((rows, jobs), (2, 0));
        }
        match (rows, jobs) {
            (0, 1) => claim.complete().await.expect("the claim still holds the job"),
            (2, 0) => assert!(claim.complete().await.expect_err("the job is completed").is_stale_claim()),
            _ => panic!("{rows} rows are stored, and {jobs} jobs are left"),
        }
    };
    ledger.at_every_poll("complete_in", prepare, run, check).await;
}
