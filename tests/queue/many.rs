//! Calls that enqueue many or large jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use atomically::queue::{NewJob, Reschedule};
use atomically::{Error, ErrorKind, Options, Pessimistic, TransactorExt as _};
use sqlx::{MySql, Pool};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::{TestBackend, eventually};
use crate::worker::{LIMIT, LONG};
use crate::{ask, claim_one, enqueue, queue};

const JOBS: i64 = 1_000;

fn keyed(n: i64) -> NewJob {
    NewJob::new(&n).expect("a payload").unique(format!("key {n:04}")).expect("a key")
}

/// Returns how many transactions of this database wait for a lock.
async fn waiting<DB: TestBackend>(pool: &Pool<DB>) -> i64 {
    let sql = match DB::NAME {
        "PostgreSQL" => {
            "SELECT COUNT(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'"
        }
        // `innodb_trx` is not refreshed while it is read often. Only a lock delays an insert for so long.
        _ => {
            "SELECT COUNT(*) FROM information_schema.processlist \
             WHERE db = DATABASE() AND info LIKE 'INSERT IGNORE%' AND time_ms > 500"
        }
    };
    ask(pool, sql).await
}

/// A key that a third transaction holds blocks both callers half-way. If they inserted the jobs in the given
/// order, each would then hold the key that the other one needs next.
pub(crate) async fn keys_in_different_orders_do_not_deadlock<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(5).await;
    // The callers wait until the test has seen both of them wait.
    let patient = Options::new().deadline(LONG).lock_timeout(LONG);
    let db = Pessimistic::default().on(&pool).options(patient);
    let (holds, give_up) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let holder = tokio::spawn({
        let (db, queue, holds, give_up) = (db.clone(), queue.clone(), holds.clone(), give_up.clone());
        async move {
            let error = db.run(async |tx| {
                assert!(queue.enqueue(tx, keyed(JOBS / 2)).await?.id().is_some());
                holds.notify_one();
                give_up.notified().await;
                Err::<(), Error>(sqlx::Error::RowNotFound.into())
            });
            error.await.expect_err("its own error");
        }
    });
    timeout(LIMIT, holds.notified()).await.expect("it holds the key");
    let attempts = Arc::new(AtomicU32::new(0));
    let caller = |jobs: Vec<NewJob>| {
        let (db, queue, attempts) = (db.clone(), queue.clone(), attempts.clone());
        tokio::spawn(async move {
            db.run(async |tx| {
                attempts.fetch_add(1, SeqCst);
                queue.enqueue_many(tx, &jobs).await
            })
            .await
        })
    };
    let one = caller((0..JOBS).map(keyed).collect());
    let other = caller((0..JOBS).rev().map(keyed).collect());
    eventually(2, async || waiting(&pool).await).await;
    give_up.notify_one();
    holder.await.expect("no panic");
    let added =
        one.await.expect("no panic").expect("a commit") + other.await.expect("no panic").expect("a commit");
    assert_eq!(added, JOBS as u64);
    assert_eq!(attempts.load(SeqCst), 2, "one of them was given up");
}

/// The order of the inserts does not matter.
pub(crate) async fn of_two_jobs_with_one_key_the_first_is_enqueued<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let job = |n: i64, key: &str| NewJob::new(&n).expect("a payload").unique(key).expect("a key");
    let jobs = [job(1, "z"), job(2, "a"), job(3, "z"), job(4, "a"), NewJob::new(&5).expect("a payload")];
    assert_eq!(db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit"), 3);
    let claims = queue.claim(10).await.expect("a claim");
    let mut payloads: Vec<i64> = claims.iter().map(|claim| claim.payload().expect("a payload")).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, [1, 2, 5]);
}

/// The payloads exceed what MariaDB accepts in one statement by default.
pub(crate) async fn large_payloads_are_sent_in_several_statements<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let payload = "x".repeat(17 * 1024);
    let jobs: Vec<_> = (0..1_000).map(|_| NewJob::new(&payload).expect("a payload")).collect();
    let attempts = AtomicU32::new(0);
    let added = db.run(async |tx| {
        attempts.fetch_add(1, SeqCst);
        queue.enqueue_many(tx, &jobs).await
    });
    assert_eq!(added.await.expect("a commit"), 1_000);
    assert_eq!(attempts.load(SeqCst), 1);
}

/// The server closes the connection on a statement that is too large, which looks like a lost connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_is_not_sent_a_payload_that_is_too_large() {
    let (pool, queue) = queue::<MySql>(2).await;
    let limit = ask(&pool, "SELECT CAST(@@max_allowed_packet AS SIGNED)").await;
    let large = "x".repeat(usize::try_from(limit).expect("a size"));
    let job = NewJob::new(&large).expect("a payload");
    let db = Pessimistic::default().on(&pool);
    let attempts = AtomicU32::new(0);
    let enqueued = db.run(async |tx| {
        attempts.fetch_add(1, SeqCst);
        queue.enqueue(tx, job.clone()).await
    });
    let error = enqueued.await.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    let error = error.to_string();
    assert!(error.contains(&limit.to_string()) && error.contains("max_allowed_packet"), "{error}");
    assert_eq!(attempts.load(SeqCst), 1, "it was sent again");
    // After a lost connection, it would be sent until the deadline, which is another kind of error.
    let error = queue.enqueue_alone(job).await.expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    assert!(error.to_string().contains("max_allowed_packet"), "{error}");

    enqueue(&pool, &queue, NewJob::new(&1).expect("a payload")).await;
    let claim = claim_one(&queue).await;
    let next = Reschedule::after(Duration::ZERO).payload(&large).expect("a payload");
    let attempts = AtomicU32::new(0);
    let rescheduled = db.run(async |tx| {
        attempts.fetch_add(1, SeqCst);
        claim.reschedule_in(tx, next.clone()).await
    });
    let error = rescheduled.await.expect_err("too large");
    assert!(error.to_string().contains("max_allowed_packet"), "{error}");
    assert_eq!(attempts.load(SeqCst), 1, "it was sent again");
}
