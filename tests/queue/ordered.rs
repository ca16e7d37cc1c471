//! Ordered jobs: those of one key run one at a time, in the order of their commits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::queue::{Claim, NewJob, Queue, Retry, complete_all_in};
use atomically::testing::{Client, explore};
use atomically::{
    Backoff, Error, Isolation, Optimistic, Options, Pessimistic, PoolTransactor, TransactorExt as _, Tx,
};
use sqlx::Pool;

use crate::support::{TestBackend, TestPool};
use crate::{ask, claim_one, effects, enqueue, job, queue, until_empty, write_ledger};

/// The levels at which interleavings are explored: SQLite has one, and exploring takes long on MariaDB.
fn levels<DB: TestBackend>(pool: &TestPool<DB>, mariadb: Isolation) -> Vec<Isolation> {
    match pool.url.split(':').next() {
        Some("sqlite") => vec![Isolation::Serializable],
        Some("mysql") => vec![mariadb],
        _ => vec![Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable],
    }
}

fn ordered(payload: i64, key: &str) -> NewJob {
    job(payload).in_order_of(key).expect("a key")
}

async fn payloads<DB: TestBackend>(queue: &Queue<DB>) -> Vec<(Claim<DB>, i64)> {
    let claims = queue.claim(100).await.expect("a claim");
    claims
        .into_iter()
        .map(|claim| {
            let number = claim.payload().expect("a number");
            (claim, number)
        })
        .collect()
}

async fn numbers<DB: TestBackend>(queue: &Queue<DB>) -> Vec<i64> {
    payloads(queue).await.into_iter().map(|(_, number)| number).collect()
}

/// Makes the leases of all claims expire. Jobs that wait stay as they are.
pub(crate) async fn lapse_claims<DB: TestBackend>(pool: &Pool<DB>) {
    for sql in [
        "UPDATE atomically_job SET due_at = 1 WHERE claimed_at IS NOT NULL",
        "UPDATE atomically_job_lease SET until = 1",
    ] {
        DB::pool_execute(pool, DB::sql(sql), &[]).await.expect("an update");
    }
}

/// Nothing is left, not even the rows of keys.
async fn is_empty<DB: TestBackend>(pool: &Pool<DB>) {
    assert_eq!(ask(pool, "SELECT COUNT(*) FROM atomically_job").await, 0);
    assert_eq!(ask(pool, "SELECT COUNT(*) FROM atomically_job_key").await, 0);
}

pub(crate) async fn jobs_of_a_key_are_claimed_one_after_the_other<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<_> =
        [(1, "a"), (2, "b"), (3, "a"), (4, "a"), (5, "b")].map(|(n, key)| ordered(n, key)).into();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    enqueue(&pool, &queue, job(6)).await;
    let counts = queue.counts().await.expect("the counts");
    assert_eq!((counts.due, counts.waiting), (3, 3));
    let mut order = Vec::new();
    loop {
        let claims = payloads(&queue).await;
        let Some(_) = claims.first() else { break };
        order.push(claims.iter().map(|(_, number)| *number).collect::<Vec<_>>());
        assert_eq!(numbers(&queue).await, [0; 0], "the others wait");
        for (n, (claim, _)) in claims.iter().enumerate() {
            if n % 2 == 0 {
                claim.complete().await.expect("complete");
            } else {
                db.run(async |tx| claim.complete_in(tx).await).await.expect("complete");
            }
        }
    }
    assert_eq!(order.concat().len(), 6);
    assert_eq!(order[1..], [vec![3, 5], vec![4]]);
    is_empty(&pool).await;
}

pub(crate) async fn completing_several_jobs_makes_their_successors_due<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<_> = (0..12).map(|n| ordered(n, ["a", "b", "c"][n as usize % 3])).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    for round in 0..4 {
        let claims = queue.claim(100).await.expect("a claim");
        assert_eq!(claims.len(), 3, "round {round}");
        db.run(async |tx| complete_all_in(tx, &claims).await).await.expect("complete");
    }
    is_empty(&pool).await;
}

pub(crate) async fn the_next_job_waits_through_failures_and_snoozes<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let queue = queue.backoff(Backoff::none());
    for n in [1, 2] {
        enqueue(&pool, &queue, ordered(n, "a")).await;
    }
    let first = claim_one(&queue).await;
    first.fail("not yet", Retry::After(Duration::from_secs(3600))).await.expect("failed");
    assert_eq!(numbers(&queue).await, [0; 0], "the first waits for its next attempt");
    lapse_scheduled(&pool).await;
    claim_one(&queue).await.snooze(Duration::from_secs(3600)).await.expect("snoozed");
    assert_eq!(numbers(&queue).await, [0; 0], "the first is snoozed");
    lapse_scheduled(&pool).await;
    let zombie = claim_one(&queue).await;
    lapse_claims(&pool).await;
    let heir = claim_one(&queue).await;
    assert_eq!(heir.id(), zombie.id(), "the job of the dead worker is first");
    assert!(zombie.complete().await.expect_err("fenced").is_stale_claim());
    assert_eq!(numbers(&queue).await, [0; 0], "a stale completion makes nothing due");
    heir.complete().await.expect("complete");
    assert_eq!(numbers(&queue).await, [2]);
}

async fn lapse_scheduled<DB: TestBackend>(pool: &Pool<DB>) {
    let sql = "UPDATE atomically_job SET due_at = 1 WHERE due_at IS NOT NULL AND claimed_at IS NULL";
    DB::pool_execute(pool, DB::sql(sql), &[]).await.expect("an update");
}

pub(crate) async fn a_dead_job_blocks_its_key_until_it_is_requeued_or_discarded<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    for n in [1, 2, 3] {
        enqueue(&pool, &queue, ordered(n, "a")).await;
    }
    let first = claim_one(&queue).await;
    first.fail("broken", Retry::Never).await.expect("dead");
    assert_eq!(numbers(&queue).await, [0; 0], "the dead job blocks its key");
    assert!(queue.requeue(first.id()).await.expect("requeued"));
    let again = claim_one(&queue).await;
    assert_eq!(again.id(), first.id());
    again.fail("still broken", Retry::Never).await.expect("dead");
    assert!(queue.discard(first.id()).await.expect("discarded"));
    assert!(!queue.discard(first.id()).await.expect("an answer"), "there is no such job");
    let second = claim_one(&queue).await;
    assert_eq!(second.payload::<i64>().expect("a number"), 2);
    assert!(!queue.discard(second.id()).await.expect("an answer"), "it is not dead");
    second.fail("broken", Retry::Never).await.expect("dead");
    assert_eq!(queue.purge(Duration::ZERO).await.expect("purged"), 1);
    assert_eq!(numbers(&queue).await, [3]);
}

pub(crate) async fn a_queue_that_skips_dead_jobs_continues_with_the_next<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let queue = queue.skip_dead();
    for n in [1, 2, 3] {
        enqueue(&pool, &queue, ordered(n, "a").max_attempts(1)).await;
    }
    let first = claim_one(&queue).await;
    first.fail("broken", Retry::Never).await.expect("dead");
    let second = claim_one(&queue).await;
    assert_eq!(second.payload::<i64>().expect("a number"), 2);
    // The requeued job is the next, although it was enqueued first.
    assert_eq!(queue.requeue_many(&[first.id(), second.id()]).await.expect("requeued"), 1);
    assert_eq!(numbers(&queue).await, [0; 0], "the second one runs");
    // The lease of the second one expires in its last attempt: it is dead.
    lapse_claims(&pool).await;
    assert_eq!(numbers(&queue).await, [0; 0], "the claim finds the spent job");
    assert_eq!(queue.dead(10).await.expect("the dead jobs").len(), 1);
    claim_one(&queue).await.complete().await.expect("complete");
    assert_eq!(numbers(&queue).await, [3]);
}

pub(crate) async fn a_spent_job_blocks_its_key<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    for n in [1, 2] {
        enqueue(&pool, &queue, ordered(n, "a").max_attempts(1)).await;
    }
    let first = claim_one(&queue).await;
    lapse_claims(&pool).await;
    assert_eq!(numbers(&queue).await, [0; 0]);
    let dead = queue.dead(10).await.expect("the dead jobs");
    assert_eq!(dead.iter().map(|job| job.id).collect::<Vec<_>>(), [first.id()]);
    assert!(queue.discard(first.id()).await.expect("discarded"));
    assert_eq!(numbers(&queue).await, [2]);
}

pub(crate) async fn a_scheduled_job_delays_only_its_key<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    enqueue(&pool, &queue, ordered(1, "a").run_after(Duration::from_secs(3600))).await;
    enqueue(&pool, &queue, ordered(2, "a")).await;
    enqueue(&pool, &queue, ordered(3, "b")).await;
    assert_eq!(numbers(&queue).await, [3]);
    lapse_scheduled(&pool).await;
    assert_eq!(numbers(&queue).await, [1]);
}

pub(crate) async fn a_duplicate_does_not_take_the_turn_of_another_job<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let db = Pessimistic::default().on(&pool);
    let unique = |n, key| job(n).unique("once").and_then(|job| job.in_order_of(key)).expect("the keys");
    let first = unique(1, "a");
    assert!(queue.enqueue_alone(first).await.expect("enqueued").id().is_some());
    let jobs = [unique(2, "b"), ordered(3, "b"), unique(4, "c"), ordered(5, "b")];
    let added = db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    assert_eq!(added, 2, "two are duplicates");
    assert_eq!(ask(&pool, "SELECT COUNT(*) FROM atomically_job_key").await, 2, "no job has the key c");
    assert_eq!(numbers(&queue).await, [1, 3]);
}

pub(crate) async fn a_cancelled_job_makes_the_next_one_due<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(2).await;
    let mut ids = Vec::new();
    for n in [1, 2, 3] {
        ids.push(enqueue(&pool, &queue, ordered(n, "a")).await);
    }
    let first = claim_one(&queue).await;
    assert!(queue.cancel(ids[1]).await.expect("cancelled"), "it was waiting");
    assert_eq!(numbers(&queue).await, [0; 0]);
    assert!(queue.cancel(ids[0]).await.expect("cancelled"), "it is claimed");
    assert!(first.complete().await.expect_err("fenced").is_stale_claim());
    assert_eq!(numbers(&queue).await, [3]);
    assert!(queue.cancel(ids[2]).await.expect("cancelled"));
    is_empty(&pool).await;
}

/// Enqueues a job, and notes its number once its transaction has committed.
async fn produce<DB: TestBackend>(
    db: Client<'_, PoolTransactor<DB, Optimistic>>,
    queue: &Queue<DB>,
    committed: Arc<Mutex<Vec<i64>>>,
    number: i64,
) -> Result<(), Error> {
    db.run(async |tx: &mut Tx<DB>| {
        assert!(queue.enqueue(tx, ordered(number, "a")).await?.id().is_some());
        // The transaction does more before it commits.
        DB::execute(tx, DB::sql("INSERT INTO ledger VALUES (?, 0)"), &[number]).await?;
        let committed = committed.clone();
        tx.on_commit(async move { committed.lock().expect("no panic").push(number) });
        Ok(())
    })
    .await
}

/// Two transactions that enqueue jobs of a key, in every interleaving: the jobs run in the order of the commits.
pub(crate) async fn jobs_of_a_key_run_in_the_order_of_their_commits<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    for level in levels(&pool, Isolation::ReadCommitted) {
        let db = at(level, &pool);
        let committed: Arc<Mutex<Vec<i64>>> = Arc::default();
        let report = explore(&pool)
            .set_up(|_| async {
                empty(&pool).await;
                committed.lock().expect("no panic").clear();
                Ok::<_, Error>(())
            })
            .client("first", &db, |db| produce(db, &queue, committed.clone(), 1))
            .client("second", &db, |db| produce(db, &queue, committed.clone(), 2))
            .expect("the order of the commits", true, |_| async {
                let mut order = Vec::new();
                while let Some(claim) = queue.claim(10).await?.pop() {
                    order.push(claim.payload::<i64>()?);
                    claim.complete().await?;
                }
                Ok::<_, Error>(order.len() == 2 && order == *committed.lock().expect("no panic"))
            })
            .run()
            .await
            .expect("explored");
        assert!(report.passes(), "{level}: {report}");
        assert!(report.complete);
    }
}

async fn empty<DB: TestBackend>(pool: &Pool<DB>) {
    for table in ["ledger", "atomically_job", "atomically_job_key"] {
        DB::pool_execute(pool, DB::sql(&format!("DELETE FROM {table}")), &[]).await.expect("empty");
    }
}

fn at<DB: TestBackend>(level: Isolation, pool: &Pool<DB>) -> PoolTransactor<DB, Optimistic> {
    Optimistic::default().on(pool).options(Options::new().isolation(level))
}

async fn complete<DB: TestBackend>(
    db: Client<'_, PoolTransactor<DB, Optimistic>>,
    claim: Arc<Claim<DB>>,
) -> Result<(), Error> {
    db.run(async |tx| {
        write_ledger(tx, &claim).await?;
        claim.complete_in(tx).await
    })
    .await
}

/// The completion of a job and the enqueuing of its successor, in every interleaving: the successor is due once
/// the job is complete.
pub(crate) async fn no_successor_is_forgotten<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    for level in levels(&pool, Isolation::RepeatableRead) {
        let db = at(level, &pool);
        let claims: Mutex<Option<Arc<Claim<DB>>>> = Mutex::default();
        let set_up = |_| async {
            empty(&pool).await;
            enqueue(&pool, &queue, ordered(1, "a")).await;
            *claims.lock().expect("no panic") = Some(Arc::new(claim_one(&queue).await));
            Ok::<_, Error>(())
        };
        let report = explore(&pool)
            .set_up(set_up)
            .client("worker", &db, |db| {
                complete(db, claims.lock().expect("no panic").clone().expect("a claim"))
            })
            .client("producer", &db, |db| {
                let queue = queue.clone();
                async move {
                    db.run(async |tx: &mut Tx<DB>| {
                        // The snapshot of the transaction, where it has one, is older than the completion.
                        DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM ledger"), &[]).await?;
                        queue.enqueue(tx, ordered(2, "a")).await
                    })
                    .await
                    .map(drop)
                }
            })
            .expect("the successor is due", 1_i64, |_| async {
                let due = "SELECT COUNT(*) FROM atomically_job WHERE due_at IS NOT NULL AND has_slot = 1";
                Ok::<_, Error>(ask(&pool, due).await)
            })
            .expect("slots taken", 1_i64, |_| async {
                Ok::<_, Error>(ask(&pool, "SELECT COUNT(*) FROM atomically_job_key WHERE taken = 1").await)
            })
            .run()
            .await
            .expect("explored");
        assert!(report.passes(), "{level}: {report}");
        assert!(report.complete);
    }
}

/// A zombie and its heir complete the first job of a key, and a worker then claims and completes the second, in
/// every interleaving of their transactions: each has its effect once, and the first before the second.
pub(crate) async fn two_jobs_of_a_key_and_a_zombie_stay_in_order<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(6).await;
    let others = Queue::new("jobs", &DB::another(&pool.url).await).expect("a name");
    for level in levels(&pool, Isolation::ReadCommitted) {
        let db = at(level, &pool);
        let claims: Mutex<Vec<Arc<Claim<DB>>>> = Mutex::default();
        let set_up = |_| async {
            empty(&pool).await;
            for n in [1, 2] {
                enqueue(&pool, &queue, ordered(n, "a")).await;
            }
            let zombie = claim_one(&queue).await;
            lapse_claims(&pool).await;
            let heir = claim_one(&queue).await;
            *claims.lock().expect("no panic") = vec![Arc::new(zombie), Arc::new(heir)];
            Ok::<_, Error>(())
        };
        let claimed = |which: usize| claims.lock().expect("no panic")[which].clone();
        let report = explore(&pool)
            .set_up(set_up)
            .client("zombie", &db, |db| {
                let completed = complete(db, claimed(0));
                async move {
                    match completed.await {
                        Err(error) if error.is_stale_claim() => Ok(()),
                        Err(error) => Err(error.to_string()),
                        Ok(()) => Err(String::from("it was taken over")),
                    }
                }
            })
            .client("heir", &db, |db| {
                let (heir, others) = (claimed(1), others.clone());
                async move {
                    assert!(others.claim(1).await?.is_empty(), "the second job ran beside the first");
                    complete(db, heir).await
                }
            })
            .expect("the second job is due", vec![2_i64], |_| async {
                let claims = others.claim(10).await?;
                let numbers = claims.iter().map(|claim| claim.payload()).collect::<Result<Vec<i64>, _>>()?;
                for claim in &claims {
                    claim.complete().await?;
                }
                Ok::<_, Error>(numbers)
            })
            .expect("effects of the heir", (1_i64, 1_i64), |_| async {
                let heirs = ask(&pool, "SELECT COUNT(*) FROM ledger WHERE token = 2 AND job = 1").await;
                Ok::<_, Error>((heirs, effects(&pool).await))
            })
            .run()
            .await
            .expect("explored");
        assert!(report.passes(), "{level}: {report}");
        assert!(report.complete);
    }
}

/// Workers of several processes on the same queue run jobs of one key one at a time and in order.
pub(crate) async fn workers_run_the_jobs_of_a_key_in_order<DB: TestBackend>() {
    const KEYS: i64 = 4;
    const JOBS: i64 = 40;
    let (pool, queue) = queue::<DB>(8).await;
    let db = Pessimistic::default().on(&pool);
    let jobs: Vec<_> = (0..JOBS).map(|n| ordered(n, &format!("key {}", n % KEYS))).collect();
    db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    let seen: Arc<Mutex<Vec<i64>>> = Arc::default();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let workers = (0..2).map(|_| {
        let (queue, seen, mut stopped) = (queue.clone(), seen.clone(), stopped.clone());
        tokio::spawn(async move {
            let worker =
                atomically::queue::Worker::new(&queue).handlers(3).poll_every(Duration::from_millis(20));
            let shutdown = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
            worker
                .run(shutdown, move |claim: Arc<Claim<DB>>| {
                    let seen = seen.clone();
                    async move {
                        let number: i64 = claim.payload()?;
                        if claim.attempt() == 1 && number % 7 == 0 {
                            claim.fail("again", Retry::After(Duration::from_millis(5))).await?;
                            return Ok(());
                        }
                        seen.lock().expect("no panic").push(number);
                        Ok(())
                    }
                })
                .await;
        })
    });
    let workers: Vec<_> = workers.collect();
    until_empty(&pool).await;
    stop.send_replace(true);
    for worker in workers {
        worker.await.expect("no panic");
    }
    let seen = seen.lock().expect("no panic").clone();
    for key in 0..KEYS {
        let of_key: Vec<_> = seen.iter().copied().filter(|number| number % KEYS == key).collect();
        assert!(of_key.is_sorted() && of_key.len() as i64 == JOBS / KEYS, "key {key}: {of_key:?}");
    }
    is_empty(&pool).await;
}
