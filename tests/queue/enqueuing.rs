//! What is stored of a job that is enqueued.

use std::time::{Duration, SystemTime};

use atomically::queue::{Enqueued, NewJob, Priority, Queue, Retry};
use atomically::{ErrorKind, Pessimistic, TransactorExt as _};

use crate::support::TestBackend;
use crate::{ask, claim_one, enqueue, job, queue};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) async fn unique_keys_are_unique_among_jobs_that_are_not_dead<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let other = Queue::new("other", &pool).expect("a name");
    let keyed = |key: &str| job(1).unique(key).expect("a key");
    let add = async |queue: &Queue<DB>, key: &str| {
        let job = keyed(key);
        db.run(async |tx| queue.enqueue(tx, job).await).await.expect("a commit")
    };
    assert!(matches!(add(&queue, "a").await, Enqueued::Added(_)));
    assert_eq!(add(&queue, "a").await, Enqueued::Duplicate);
    // Keys that a collation might treat as equal, and the same key in another queue.
    for (queue, key) in [(&queue, "A"), (&queue, "a "), (&queue, "ä"), (&queue, ""), (&other, "a")] {
        assert!(matches!(add(queue, key).await, Enqueued::Added(_)), "{key:?}");
    }
    let claim = claim_one(&queue).await;
    assert_eq!(add(&queue, "a").await, Enqueued::Duplicate, "the job is still running");
    claim.complete().await.expect("complete");
    let Enqueued::Added(id) = add(&queue, "a").await else { panic!("the key is free again") };

    let claims = queue.claim(10).await.expect("a claim");
    let claim = claims.iter().find(|claim| claim.id() == id).expect("it is due");
    claim.fail("no", Retry::Never).await.expect("dead");
    assert!(matches!(add(&queue, "a").await, Enqueued::Added(_)), "the dead have no keys");
    let error = queue.requeue(id).await.expect_err("the key is another's now");
    assert_eq!(error.kind(), ErrorKind::Constraint, "{error}");
}

pub(crate) async fn enqueue_many_skips_duplicates<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let mut jobs: Vec<NewJob> = (0..2_500).map(job).collect();
    for (at, key) in [(0, "k"), (1, "k"), (2_400, "k"), (7, "l")] {
        jobs[at] = job(0).unique(key).expect("a key");
    }
    let added = db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    assert_eq!(added, 2_498);
    assert_eq!(db.run(async |tx| queue.enqueue_many(tx, &[]).await).await.expect("a commit"), 0);
    let mut claimed = 0;
    loop {
        let claims = queue.claim(1_000).await.expect("a claim");
        if claims.is_empty() {
            break;
        }
        claimed += claims.len();
    }
    assert_eq!(claimed, 2_498);
}

pub(crate) async fn bad_input_is_refused<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    for name in ["", "it's", "a b", "\u{fc}", &"n".repeat(101)] {
        let error = Queue::<DB>::new(name, &pool).expect_err("a bad name");
        assert!(error.to_string().contains("queue name"), "{error}");
    }
    enqueue(&pool, &queue, NewJob::new("text").expect("a payload")).await;
    let claim = claim_one(&queue).await;
    let error = claim.payload::<i64>().expect_err("it is a text");
    assert!(error.to_string().contains("the JSON does not fit the type"), "{error}");
    assert!(!error.to_string().contains("text"), "the payload is quoted: {error}");
    assert_eq!(error.kind(), ErrorKind::Decode);
    let map = std::collections::BTreeMap::from([((1, 2), 3)]);
    let error = NewJob::new(&map).expect_err("JSON has no such keys");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

pub(crate) async fn payloads_are_returned_unchanged<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let texts =
        ["", "'; DROP TABLE atomically_job; --", "\u{1f980}\0\u{fffd}\\\n", "$1 ? {}", &"x".repeat(300_000)];
    for text in texts {
        enqueue(&pool, &queue, NewJob::new(text).expect("a payload")).await;
        let claim = claim_one(&queue).await;
        assert_eq!(claim.payload::<String>().expect("the payload"), text);
        claim.complete().await.expect("complete");
    }
    // `enqueue_many` and `enqueue_alone` may use other statements.
    let jobs: Vec<_> = texts.iter().map(|text| NewJob::new(text).expect("a payload")).collect();
    let db = Pessimistic::default().on(&pool);
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    for job in jobs {
        let _ = queue.enqueue_alone(job).await.expect("a commit");
    }
    let claims = queue.claim(100).await.expect("a claim");
    let back: Vec<_> = claims.iter().map(|claim| claim.payload::<String>().expect("the payload")).collect();
    assert_eq!(back, texts.repeat(2));
}

/// The same holds for `enqueue_many` and `enqueue_alone`, which may use other statements.
pub(crate) async fn all_settings_of_a_job_are_stored<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let keys = ["plain", "'", "\\", "\"", "{}", "NULL", ",", "\u{fc}"];
    let jobs = |alone: bool| -> Vec<NewJob> {
        let mark = if alone { "alone" } else { "many" };
        let job = |key: &&str| job(1).unique(format!("{mark}{key}")).expect("a key");
        let mut jobs: Vec<_> = keys.iter().map(job).collect();
        let early = self::job(1).unique_until_claimed(mark).expect("a key");
        jobs.push(early.max_attempts(7).priority(Priority::High).run_after(HOUR));
        jobs.push(job(&"past").run_at(SystemTime::UNIX_EPOCH + HOUR));
        jobs
    };
    let many = jobs(false);
    let added = db.run(async |tx| queue.enqueue_many(tx, &many).await).await.expect("a commit");
    assert_eq!(added, 10);
    for job in jobs(true) {
        assert!(matches!(queue.enqueue_alone(job).await.expect("a commit"), Enqueued::Added(_)));
    }
    for job in jobs(true).into_iter().chain(jobs(false)) {
        assert_eq!(queue.enqueue_alone(job).await.expect("a commit"), Enqueued::Duplicate);
    }
    let kept = |which: &str| format!("SELECT COUNT(*) FROM atomically_job WHERE {which}");
    for (which, wanted) in [
        ("priority = 0 AND max_attempts = 7 AND due_at = enqueued_at + 3600000000", 2),
        ("due_at = 3600000000 AND priority = 1 AND max_attempts = 25", 2),
        ("due_at = enqueued_at AND priority = 1 AND max_attempts = 25", 16),
        ("unique_until_claimed AND priority = 0", 2),
        ("unique_until_claimed", 2),
    ] {
        assert_eq!(ask(&pool, &kept(which)).await, wanted, "{which}");
    }
    let found: std::collections::BTreeSet<_> =
        [claim_one(&queue).await.id(), claim_one(&queue).await.id()].into();
    assert_eq!(found.len(), 2);
}
