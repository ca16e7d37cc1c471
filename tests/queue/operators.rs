//! What operators read and change.

use std::time::{Duration, SystemTime};

use atomically::queue::{JobState, NewJob, Priority, Queue, Retry, Worker};
use atomically::{Error, ErrorKind, Pessimistic, TransactorExt as _};

use crate::support::TestBackend;
use crate::{ask, claim_one, enqueue, job, queue, until_empty, write_ledger};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) async fn a_job_is_read_by_its_id<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let new = job(7).priority(Priority::High).max_attempts(3).in_order_of("é 'key'").expect("a key");
    let id = enqueue(&pool, &queue, new).await;
    let found = queue.get(id).await.expect("an answer").expect("a job");
    assert_eq!((found.id, found.state, found.priority), (id, JobState::Due, Priority::High));
    assert_eq!((found.attempts, found.max_attempts, found.key.as_deref()), (0, 3, Some("é 'key'")));
    assert_eq!(found.payload::<i64>().expect("a number"), 7);
    let age = SystemTime::now().duration_since(found.enqueued_at).unwrap_or_default();
    assert!(age < HOUR, "{age:?}");
    assert_eq!((found.claimed_at, found.died_at, found.last_error), (None, None, None));
    let claim = claim_one(&queue).await;
    let found = queue.get(id).await.expect("an answer").expect("a job");
    assert_eq!((found.state, found.attempts), (JobState::Claimed, 1));
    assert!(found.claimed_at.is_some() && found.due_at > found.claimed_at);
    claim.complete().await.expect("complete");
    assert_eq!(queue.get(id).await.expect("an answer"), None);
    let other = Queue::new("other", &pool).expect("a name");
    let id = enqueue(&pool, &other, job(1)).await;
    assert_eq!(queue.get(id).await.expect("an answer"), None, "it is in another queue");
}

pub(crate) async fn jobs_are_listed_by_state_page_after_page<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    for n in 0..3 {
        enqueue(&pool, &queue, job(n).max_attempts(1)).await;
    }
    let claims = queue.claim(10).await.expect("a claim");
    claims[0].fail("broken", Retry::Never).await.expect("dead");
    claims[1].extend().await.expect("extended");
    for n in 0..5 {
        enqueue(&pool, &queue, job(n).in_order_of("a").expect("a key")).await;
        enqueue(&pool, &queue, job(n).run_after(HOUR)).await;
    }
    for (state, wanted) in [
        (JobState::Dead, 1),
        (JobState::Claimed, 2),
        (JobState::Due, 1),
        (JobState::Waiting, 4),
        (JobState::Scheduled, 5),
    ] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = queue.list(state, after, 2).await.expect("a page");
            assert!(page.len() <= 2 && page.iter().all(|job| job.state == state), "{state:?}: {page:?}");
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            found.extend(page.into_iter().map(|job| job.id));
        }
        assert!(found.is_sorted() && found.len() == wanted, "{state:?}: {found:?}");
    }
}

pub(crate) async fn a_dead_job_has_its_payload_and_its_time_of_death<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let new = NewJob::new(&("ann@example.org", 3)).expect("a payload");
    enqueue(&pool, &queue, new).await;
    claim_one(&queue).await.fail("broken", Retry::Never).await.expect("dead");
    let dead = queue.dead(10).await.expect("the dead jobs").remove(0);
    assert_eq!(dead.payload::<(String, i64)>().expect("a payload"), ("ann@example.org".to_owned(), 3));
    assert_eq!(dead.payload::<i64>().expect_err("another type").kind(), ErrorKind::Decode);
    let ago = SystemTime::now().duration_since(dead.died_at).unwrap_or_default();
    assert!(ago < HOUR && dead.died_at > SystemTime::now() - HOUR, "{ago:?}");
    assert_eq!(dead.last_error.as_deref(), Some("broken"));
}

pub(crate) async fn a_cancelled_job_is_fenced_off<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let id = enqueue(&pool, &queue, job(1)).await;
    let claim = claim_one(&queue).await;
    claim.extend().await.expect("extended");
    let refused = db
        .run(async |tx| {
            assert!(queue.cancel_in(tx, id).await?);
            Err::<(), Error>(sqlx::Error::RowNotFound.into())
        })
        .await;
    refused.expect_err("its own error");
    assert!(queue.get(id).await.expect("an answer").is_some(), "the transaction was rolled back");
    assert!(queue.cancel(id).await.expect("cancelled"));
    assert!(!queue.cancel(id).await.expect("an answer"), "there is no such job");
    let error = db
        .run(async |tx| {
            write_ledger(tx, &claim).await?;
            claim.complete_in(tx).await
        })
        .await;
    assert!(error.expect_err("cancelled").is_stale_claim());
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM ledger").await, 0);
    let other = Queue::new("other", &pool).expect("a name");
    let id = enqueue(&pool, &other, job(1)).await;
    assert!(!queue.cancel(id).await.expect("an answer"), "it is in another queue");
}

pub(crate) async fn many_dead_jobs_are_requeued<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let unique = || job(9).unique("once").expect("a key");
    for n in 0..4 {
        enqueue(&pool, &queue, job(n)).await;
    }
    enqueue(&pool, &queue, unique()).await;
    let mut ids = Vec::new();
    for claim in queue.claim(10).await.expect("a claim") {
        ids.push(claim.id());
        claim.fail("broken", Retry::Never).await.expect("dead");
    }
    // Another job has taken the key of the dead one.
    enqueue(&pool, &queue, unique()).await;
    ids.push(1 << 40);
    assert_eq!(queue.requeue_many(&ids).await.expect("requeued"), 4);
    let counts = queue.counts().await.expect("the counts");
    assert_eq!((counts.due, counts.dead), (5, 1));
    assert_eq!(queue.requeue_many(&ids).await.expect("an answer"), 0);
    assert_eq!(queue.requeue_many(&[]).await.expect("an answer"), 0);
    let claims = queue.claim(10).await.expect("a claim");
    assert!(claims.iter().all(|claim| claim.attempt() == 1), "they have all their attempts again");
}

pub(crate) async fn a_paused_queue_is_not_claimed_by_any_process<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(3).await;
    let other_process = Queue::new("jobs", &DB::another(&pool.url).await).expect("a name");
    let other_queue = Queue::new("other", &pool).expect("a name");
    enqueue(&pool, &queue, job(1)).await;
    enqueue(&pool, &other_queue, job(2)).await;
    assert!(!queue.is_paused().await.expect("an answer"));
    assert!(queue.pause().await.expect("paused"));
    assert!(!queue.pause().await.expect("an answer"), "it is paused already");
    assert!(other_process.is_paused().await.expect("an answer"));
    for queue in [&queue, &other_process] {
        assert!(queue.claim(10).await.expect("a claim").is_empty(), "it is paused");
    }
    claim_one(&other_queue).await.complete().await.expect("other queues run");
    enqueue(&pool, &queue, job(3)).await;
    assert!(other_process.resume().await.expect("resumed"));
    assert!(!queue.resume().await.expect("an answer"), "it runs already");
    assert_eq!(queue.claim(10).await.expect("a claim").len(), 2);
}

pub(crate) async fn a_worker_continues_once_its_queue_is_resumed<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    assert!(queue.pause().await.expect("paused"));
    enqueue(&pool, &queue, job(1)).await;
    let worker = Worker::new(&queue).poll_every(Duration::from_millis(20));
    let operator = async {
        assert!(queue.resume().await.expect("resumed"));
        until_empty(&pool).await;
    };
    worker.run(operator, |_| async { Ok(()) }).await;
}
