//! Claims whose connection is lost while the completion is in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use atomically::queue::{Claim, FailOutcome, Queue, Reschedule, Retry};
use atomically::{Error, Pessimistic, TransactorExt as _};
use sqlx::pool::PoolOptions;

use crate::support::proxy::{Fault, Proxy};
use crate::support::{TestBackend, eventually};
use crate::worker::{jobs_left, noted, start, stopped, worker};
use crate::{ask, claim_one, enqueue, job, lapse, queue};

const HOUR: Duration = Duration::from_secs(3600);

/// The statement that completes a job.
pub(crate) const COMPLETION: &str = "DELETE FROM atomically_job WHERE";

/// Occurs in the statement that extends a lease.
const EXTENSION: &str = "INSERT INTO atomically_job_lease";

/// Occurs in the statement that releases a job.
pub(crate) const RELEASE: &str = "attempts - 1";

/// Returns the same queue behind a proxy.
pub(crate) async fn through<DB: TestBackend>(proxy: &Proxy, url: &str) -> Queue<DB> {
    let pool = PoolOptions::<DB>::new().max_connections(3).connect(&proxy.url(url)).await;
    Queue::new("jobs", &pool.expect("a pool through the proxy")).expect("a name")
}

/// Applies the fault to one request; later ones pass.
pub(crate) fn once(proxy: &Proxy, trigger: &str, fault: Fault) {
    proxy.heal();
    let mut fates = vec![None; 50];
    fates[0] = Some(fault);
    proxy.cycle(trigger, &fates);
}

pub(crate) async fn a_finished_handler_is_not_run_again<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let proxy = Proxy::to(&pool.url).await;
    // A request without a response is given up after half of that.
    let distant = through::<DB>(&proxy, &pool.url).await.lease(Duration::from_secs(12));
    for fault in [Fault::CutBefore, Fault::CutAfter, Fault::SilenceBefore, Fault::SilenceAfter] {
        once(&proxy, COMPLETION, fault);
        let id = enqueue(&pool, &queue, job(1)).await;
        let (worker, events) = worker(&distant);
        let mails = Arc::new(AtomicU32::new(0));
        let sent = mails.clone();
        let (stop, running) = start(worker.handlers(1), move |_| {
            let sent = sent.clone();
            async move {
                sent.fetch_add(1, SeqCst);
                Ok(())
            }
        });
        eventually(true, async || {
            jobs_left(&pool).await == 0 && noted(&events).contains(&format!("completed {id}"))
        })
        .await;
        stopped(stop, running).await;
        assert_eq!(mails.load(SeqCst), 1, "{fault:?}: the mail was sent again");
        assert_eq!(noted(&events), [format!("completed {id}")], "{fault:?}");
    }
    assert_eq!(proxy.hits(), 4);
}

pub(crate) async fn a_lost_commit_is_sent_again_while_the_lease_lasts<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let proxy = Proxy::to(&pool.url).await;
    let distant = through::<DB>(&proxy, &pool.url).await;
    let state = "SELECT token * 100 + attempts * 10 + CASE WHEN claimed_at IS NULL THEN 0 ELSE 1 END \
                 FROM atomically_job";
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        enqueue(&pool, &queue, job(1)).await;
        let claim = claim_one(&distant).await;
        once(&proxy, EXTENSION, fault);
        claim.extend().await.expect("extended");
        assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job_lease").await, 1, "{fault:?}");
        once(&proxy, RELEASE, fault);
        claim.release().await.expect("released");
        assert_eq!(ask(&pool, state).await, 200, "{fault:?}");

        proxy.heal();
        let claim = claim_one(&distant).await;
        // The text of a prepared statement is not sent again; its values are.
        once(&proxy, "out of paper", fault);
        let fate = claim.fail("out of paper", Retry::After(HOUR)).await.expect("failed");
        assert_eq!(fate, FailOutcome::Retried(HOUR), "{fault:?}");
        assert_eq!(ask(&pool, state).await, 410, "{fault:?}");

        lapse(&pool).await;
        proxy.heal();
        claim_one(&distant).await.complete().await.expect("cleared away");
        DB::pool_execute(&pool, DB::sql("DELETE FROM atomically_job_lease"), &[]).await.expect("empty");
    }
    assert_eq!(proxy.hits(), 6);
}

/// After the lease has expired, another worker may have taken the job over and completed it.
pub(crate) async fn a_completion_stays_unknown_after_the_lease<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let proxy = Proxy::to(&pool.url).await;
    let distant = through::<DB>(&proxy, &pool.url).await.lease(Duration::from_secs(2));
    let mut fates = [Some(Fault::CutBefore); 1000];
    fates[0] = Some(Fault::CutAfter);
    for _ in 0..20 {
        enqueue(&pool, &queue, job(1)).await;
        proxy.heal();
        let claim = claim_one(&distant).await;
        proxy.cycle(COMPLETION, &fates);
        let before = proxy.hits();
        let error = claim.complete().await.expect_err("no answer");
        assert!(error.is_commit_unknown(), "{error:?}");
        assert_eq!(jobs_left(&pool).await, 0, "the first one was executed");
        if proxy.hits() - before > 2 {
            return;
        }
    }
    panic!("the machine was too busy each time to send it three times within the lease");
}

pub(crate) async fn a_completion_that_finds_another_holder_is_stale<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let proxy = Proxy::to(&pool.url).await;
    let distant = through::<DB>(&proxy, &pool.url).await;
    enqueue(&pool, &queue, job(1)).await;
    let claim: Claim<DB> = claim_one(&distant).await;
    proxy.on(COMPLETION, Fault::CutBefore);
    let completing = tokio::spawn(async move { claim.complete().await });
    eventually(true, async || proxy.hits() > 0).await;
    lapse(&pool).await;
    let heir = claim_one(&queue).await;
    proxy.heal();
    let error = completing.await.expect("no panic").expect_err("it was taken over");
    assert!(error.is_stale_claim(), "{error:?}");
    heir.complete().await.expect("it is the heir's");
}

/// The handler reports an unknown outcome; the worker finds the job gone while the lease lasts.
pub(crate) async fn a_completion_with_a_lost_response_is_not_a_lost_lease<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let proxy = Arc::new(Proxy::to(&pool.url).await);
    let distant = PoolOptions::<DB>::new().max_connections(1).connect(&proxy.url(&pool.url)).await;
    let db = Pessimistic::default().on(&distant.expect("a pool through the proxy"));
    for reschedules in [false, true] {
        let id = enqueue(&pool, &queue, job(1)).await;
        let (worker, events) = worker(&queue);
        let (db, cut) = (db.clone(), proxy.clone());
        let (stop, running) = start(worker.handlers(1), move |claim: Arc<Claim<DB>>| {
            let (db, cut) = (db.clone(), cut.clone());
            async move {
                let ended = db
                    .run(async |tx| {
                        if reschedules {
                            claim.reschedule_in(tx, Reschedule::after(HOUR)).await?;
                        } else {
                            claim.complete_in(tx).await?;
                        }
                        once(&cut, DB::COMMIT, Fault::CutAfter);
                        Ok::<_, Error>(())
                    })
                    .await;
                assert!(ended.as_ref().is_err_and(Error::is_commit_unknown), "{ended:?}");
                ended
            }
        });
        eventually(1, async || noted(&events).len()).await;
        stopped(stop, running).await;
        assert_eq!(noted(&events), [format!("completed {id}")], "rescheduled: {reschedules}");
        assert_eq!(jobs_left(&pool).await, i64::from(reschedules));
    }
}
