//! Ordered jobs in every interleaving of the transactions that enqueue, complete and claim them.

use std::sync::{Arc, Mutex};

use atomically::queue::{Claim, Priority, Queue};
use atomically::testing::{Client, explore};
use atomically::{Begin, Error, Isolation, Optimistic, Options, PoolTransactor, TransactorExt as _, Tx};
use sqlx::Pool;

use crate::ordered::{lapse_claims, ordered};
use crate::support::{TestBackend, TestPool};
use crate::{ask, claim_one, effects, enqueue, queue, write_ledger};

/// The levels at which interleavings are explored: SQLite has one, and exploring takes long on MariaDB.
fn levels<DB: TestBackend>(pool: &TestPool<DB>, mariadb: Isolation) -> Vec<Isolation> {
    match pool.url.split(':').next() {
        Some("sqlite") => vec![Isolation::Serializable],
        Some("mysql") => vec![mariadb],
        _ => vec![Isolation::ReadCommitted, Isolation::RepeatableRead, Isolation::Serializable],
    }
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

/// Two transactions that enqueue jobs of a key, in every interleaving: the jobs run in the order of the
/// commits.
pub(crate) async fn jobs_of_a_key_run_in_the_order_of_their_commits<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    for level in levels(&pool, Isolation::ReadCommitted) {
        let db = at(level, &pool);
        let committed: Arc<Mutex<Vec<i64>>> = Arc::default();
        let report = explore(&pool)
            .set_up(|_| async {
                empty(&pool).await;
                *committed.lock().expect("no panic") = vec![0];
                // The key exists already, so its row is locked, and not inserted.
                enqueue(&pool, &queue, ordered(0, "a")).await;
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
                Ok::<_, Error>(order.len() == 3 && order == *committed.lock().expect("no panic"))
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

/// The completion of a job and the enqueuing of its successor, in every interleaving: the successor is due
/// once the job is complete.
pub(crate) async fn no_successor_is_forgotten<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(4).await;
    let has_snapshots = !pool.url.starts_with("sqlite");
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
                        // SQLite refuses to write on such a snapshot, so there is no more to explore.
                        if has_snapshots {
                            DB::fetch(tx, DB::sql("SELECT COUNT(*) FROM ledger"), &[]).await?;
                        }
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

/// The columns of jobs that can be copied.
const COLUMNS: &str = "id, queue, priority, token, attempts, max_attempts, enqueued_at, claimed_at, died_at, \
                       unique_key, unique_until_claimed, key_name, key_id, key_limit, has_slot, waiting_key, \
                       wanted_at, payload, last_error";

/// Saves the jobs and their keys, so that each of many schedules begins with the same rows. Leases do not
/// expire until all of them were run.
async fn save<DB: TestBackend>(pool: &Pool<DB>) {
    let day = 86_400_000_000_i64;
    for sql in [
        format!("CREATE TABLE saved_job AS SELECT {COLUMNS}, due_at + {day} AS due_at FROM atomically_job"),
        String::from("CREATE TABLE saved_key AS SELECT id, slots, taken, next_id FROM atomically_job_key"),
    ] {
        DB::pool_execute(pool, DB::sql(&sql), &[]).await.expect("a copy");
    }
}

async fn restore<DB: TestBackend>(pool: &Pool<DB>) {
    empty(pool).await;
    for sql in [
        format!("INSERT INTO atomically_job ({COLUMNS}, due_at) SELECT {COLUMNS}, due_at FROM saved_job"),
        String::from(
            "INSERT INTO atomically_job_key (id, slots, taken, next_id) \
             SELECT id, slots, taken, next_id FROM saved_key",
        ),
    ] {
        DB::pool_execute(pool, DB::sql(&sql), &[]).await.expect("the rows");
    }
}

/// Two jobs of a key, of which the first was claimed, and claimed again after its lease had expired: both
/// claims.
async fn zombie_and_heir<DB: TestBackend>(pool: &TestPool<DB>, queue: &Queue<DB>) -> Vec<Arc<Claim<DB>>> {
    empty(pool).await;
    for n in [1, 2] {
        // A claim finds jobs of this priority with its first query.
        enqueue(pool, queue, ordered(n, "a").priority(Priority::High)).await;
    }
    let zombie = claim_one(queue).await;
    lapse_claims(pool).await;
    vec![Arc::new(zombie), Arc::new(claim_one(queue).await)]
}

/// Whether the completion of the zombie was refused as it has to be.
fn refused(completed: Result<(), Error>) -> Result<(), String> {
    match completed {
        Err(error) if error.is_stale_claim() => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(()) => Err(String::from("it was taken over")),
    }
}

/// A zombie and its heir complete the first job of a key, and a worker then claims and completes the second,
/// in every interleaving of their transactions: each has its effect once, and the first before the second.
pub(crate) async fn two_jobs_of_a_key_and_a_zombie_stay_in_order<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(6).await;
    let others = Queue::new("jobs", &DB::another(&pool.url).await).expect("a name");
    for level in levels(&pool, Isolation::ReadCommitted) {
        let db = at(level, &pool);
        let claims: Mutex<Vec<Arc<Claim<DB>>>> = Mutex::default();
        let set_up = |_| async {
            *claims.lock().expect("no panic") = zombie_and_heir(&pool, &queue).await;
            Ok::<_, Error>(())
        };
        let claimed = |which: usize| claims.lock().expect("no panic")[which].clone();
        let report = explore(&pool)
            .set_up(set_up)
            .client("zombie", &db, |db| {
                let completed = complete(db, claimed(0));
                async move { refused(completed.await) }
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

/// A zombie and its heir complete the first job of a key while a worker claims the second and completes it,
/// at READ COMMITTED in every interleaving of their transactions: the worker claims nothing before the heir
/// has committed, and the second job has its effect once, after the first.
pub(crate) async fn a_worker_beside_a_zombie_claims_no_successor_early<DB: TestBackend>() {
    let (pool, queue) = queue::<DB>(6).await;
    let level = *levels(&pool, Isolation::ReadCommitted).first().expect("a level");
    let options = Options::new().isolation(level);
    // On SQLite the transactions wait for each other at BEGIN, as those of a worker do.
    let options = if DB::NAME == "SQLite" { options.begin(Begin::Immediate) } else { options };
    let db = Optimistic::default().on(&pool).options(options);
    let claims = zombie_and_heir(&pool, &queue).await;
    save(&pool).await;
    let claimed = |which: usize| claims[which].clone();
    let report = explore(&pool)
        .set_up(|_| async {
            restore(&pool).await;
            Ok::<_, Error>(())
        })
        .client("zombie", &db, |db| {
            let completed = complete(db, claimed(0));
            async move { refused(completed.await) }
        })
        .client("heir", &db, |db| complete(db, claimed(1)))
        .client("worker", &db, |db| {
            let (queue, pool) = (queue.clone(), &pool);
            async move {
                let Some(claim) = queue.claim_through(&db, 1).await?.pop() else { return Ok(()) };
                assert_eq!(claim.payload::<i64>()?, 2, "the heir has the first job");
                assert_eq!(
                    effects(pool).await,
                    1,
                    "the second job was claimed before the first had its effect"
                );
                complete(db, Arc::new(claim)).await
            }
        })
        .expect("the second job was done, or is due", 1_i64, |_| async {
            let done = ask(&pool, "SELECT COUNT(*) FROM ledger WHERE job = 2").await;
            let left = "SELECT COUNT(*) FROM atomically_job WHERE has_slot = 1 AND due_at IS NOT NULL";
            Ok::<_, Error>(done + ask(&pool, left).await)
        })
        .expect("effects of the heir", 1_i64, |_| async {
            Ok::<_, Error>(ask(&pool, "SELECT COUNT(*) FROM ledger WHERE token = 2 AND job = 1").await)
        })
        .expect("effects of the zombie", 0_i64, |_| async {
            Ok::<_, Error>(ask(&pool, "SELECT COUNT(*) FROM ledger WHERE token = 1 AND job = 1").await)
        })
        .skip_equivalent()
        .max_schedules(100_000)
        .run()
        .await
        .expect("explored");
    println!("{}: {} schedules in {:?}", DB::NAME, report.schedules, report.elapsed);
    assert!(report.passes() && report.complete, "{report}");
}
