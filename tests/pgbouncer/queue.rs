//! Queues, idempotency keys and batched additions.

use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey};
use atomically::queue::{Claim, NewJob, Queue, Retry};
use atomically::{DeltaOutcome, Deltas, Error, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::Postgres;
use tokio::task::JoinSet;

use crate::support::servers::Server;
use crate::support::{TestBackend as _, eventually};
use crate::{Pooled, ROUNDS, TASKS, no_setting_is_left_behind};

/// Uses all statements of queues and idempotency keys. Each client has prepared its statements on one server
/// connection, and then gets another one.
async fn queue_works(prepared_statements: bool) {
    const JOBS: i64 = 240;
    let pooled = Pooled::start(prepared_statements).await;
    let direct = pooled.direct().await;
    let ledger = "CREATE TABLE ledger (job BIGINT NOT NULL, attempt BIGINT NOT NULL)";
    sqlx::raw_sql(ledger).execute(&direct).await.expect("a table");
    let pool = pooled.clients(TASKS).await;
    let db = Pessimistic::default().on(&pool).deadline(Duration::from_secs(60));
    let queue = Queue::new("jobs", &pool).expect("a name");
    queue.create_tables().await.expect("the tables");
    db.create_key_table().await.expect("the table of keys");
    let job = |n: i64| NewJob::new(&n).expect("a payload");
    let jobs: Vec<_> = (0..JOBS / 2).map(job).collect();
    let added = db.run(async |tx| queue.enqueue_many(tx, &jobs).await).await.expect("a commit");
    assert_eq!(added, jobs.len() as u64);
    for n in JOBS / 2..JOBS {
        let _ = queue.enqueue_alone(job(n)).await.expect("a commit");
    }
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let (db, queue) = (db.clone(), queue.clone());
        tasks.spawn(async move {
            loop {
                let claims = queue.claim(3).await.expect("a claim");
                if claims.is_empty() && queue.counts().await.expect("the counts").due == 0 {
                    return;
                }
                for claim in claims {
                    work(&db, &claim).await;
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("a worker");
    }
    for (count, expected) in [
        ("SELECT count(*) FROM atomically_job", 0),
        ("SELECT count(*) FROM ledger", JOBS),
        ("SELECT count(DISTINCT job) FROM ledger", JOBS),
        ("SELECT count(*) FROM ledger WHERE attempt = 2", JOBS / 4),
    ] {
        let counted: i64 = sqlx::query_scalar(count).fetch_one(&direct).await.expect(count);
        assert_eq!(counted, expected, "{count}");
    }
    requests_have_one_effect(&db).await;
    let counted: i64 =
        sqlx::query_scalar("SELECT count(*) FROM tried").fetch_one(&direct).await.expect("a count");
    assert_eq!(counted, i64::from(TASKS));
    eventually(0, async || Postgres::open_transactions(&direct).await).await;
    no_setting_is_left_behind(&pooled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_and_keys_work() {
    queue_works(false).await;
    if Server::pgbouncer_prepares() {
        queue_works(true).await;
    }
}

/// One job in four fails at first, one is released, and one extends its lease.
async fn work(db: &PoolTransactor<Postgres, Pessimistic>, claim: &Claim<Postgres>) {
    let number: i64 = claim.payload().expect("the payload");
    match number % 4 {
        0 if claim.attempt() == 1 => {
            claim.fail("not yet", Retry::After(Duration::ZERO)).await.expect("given back");
            return;
        }
        1 if claim.token() == 1 => return claim.release().await.expect("given back"),
        2 => claim.extend().await.expect("prolonged"),
        _ => {}
    }
    let attempt = i64::from(claim.attempt());
    let done = db.run(async |tx: &mut Tx<Postgres>| {
        let effect = sqlx::query("INSERT INTO ledger VALUES ($1, $2)").bind(number).bind(attempt);
        effect.persistent(false).execute(&mut *tx).await?;
        claim.complete_in(tx).await
    });
    done.await.expect("done once");
    assert!(claim.complete().await.expect_err("it is done").is_stale_claim());
}

/// Each request is sent by four clients at the same time.
async fn requests_have_one_effect(db: &PoolTransactor<Postgres, Pessimistic>) {
    let mut tasks = JoinSet::new();
    for request in (0..TASKS).flat_map(|request| [request; 4]) {
        let db = db.clone();
        tasks.spawn(async move {
            let key = IdempotencyKey::new("a client", format!("request {request}"))
                .expect("a key")
                .request("a body");
            let effect = async |tx: &mut Tx<Postgres>| {
                let insert = sqlx::query("INSERT INTO tried VALUES ($1)").bind(i64::from(request));
                insert.persistent(false).execute(&mut *tx).await?;
                Ok::<_, Error>(request)
            };
            let once = db.once(&key).wait(Duration::from_secs(60));
            let outcome = once.run(effect).await.expect("an outcome");
            assert_eq!(outcome.response(), Some(request));
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("a client");
    }
}

/// Calls that share a round trip. Each session prepares their statement once, on whichever server connection
/// it gets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coalesced_calls_are_counted_once() {
    for prepared_statements in [false, true] {
        if prepared_statements && !Server::pgbouncer_prepares() {
            continue;
        }
        let pooled = Pooled::start(prepared_statements).await;
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS / 4 {
            // The instances share nothing, like separate processes.
            let pool = pooled.clients(2).await;
            let counters = Deltas::on(&pool, "counter", "id", "value").persistent(false);
            for caller in 0..4_i64 {
                let counters = counters.clone();
                tasks.spawn(async move {
                    for _ in 0..ROUNDS {
                        let outcome = counters.add(1 + caller % 2, 1).await.expect("a commit");
                        assert!(matches!(outcome, DeltaOutcome::Applied { .. }), "{outcome:?}");
                    }
                });
            }
        }
        while let Some(task) = tasks.join_next().await {
            task.expect("a caller");
        }
        assert_eq!(pooled.sum().await, i64::from(TASKS) * ROUNDS);
        no_setting_is_left_behind(&pooled).await;
    }
}
