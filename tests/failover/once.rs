//! Twins, two requests at the same time with the same key, while the primary is replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome};
use atomically::{Error, Pessimistic};
use sqlx::postgres::PgPool;
use tokio::time::{Instant, timeout};

use crate::support::eventually;
use crate::{Cluster, DEADLINE, all, lazy_pool};

const STREAMS: usize = 4;
const TABLE: &str = "CREATE TABLE payment (request BIGINT NOT NULL, amount BIGINT NOT NULL)";

#[derive(Debug, Default)]
struct Load {
    next: AtomicI64,
    answered: AtomicU64,
    stopped: AtomicBool,
}

/// What the twins with one key were told.
type Told = (i64, [Result<Outcome<i64>, Error>; 2]);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twins_have_one_effect_across_a_failover() {
    let mut cluster = Cluster::with(&[TABLE]).await;
    let direct = lazy_pool(cluster.servers[0].url());
    Pessimistic::default().on(&direct).create_key_table().await.expect("the table of keys");
    direct.close().await;
    let (load, pool) = (Arc::new(Load::default()), cluster.clients());
    let streams: Vec<_> = (0..STREAMS).map(|_| twins(pool.clone(), load.clone())).collect();
    let streams = tokio::spawn(all(streams));
    let more = async |keys: u64| {
        let wanted = load.answered.load(SeqCst) + keys;
        eventually(true, async || load.answered.load(SeqCst) >= wanted).await;
    };
    more(100).await;
    cluster.kill_primary();
    cluster.promote().await;
    cluster.lead_to_primary();
    more(200).await;
    load.stopped.store(true, SeqCst);
    let told: Vec<Told> = streams.await.expect("no client dies").into_iter().flatten().collect();

    let sums =
        cluster.pairs("SELECT request, CAST(SUM(amount) AS BIGINT) FROM payment GROUP BY request").await;
    let (mut replayed, mut wrong) = (0, Vec::new());
    for (key, twins) in &told {
        let answers: Vec<_> = twins.iter().flatten().collect();
        let fresh = answers.iter().filter(|answer| matches!(answer, Outcome::Fresh(_))).count();
        replayed += answers.iter().filter(|answer| matches!(answer, Outcome::Replayed(_))).count();
        let is_stored = |answer: &&Outcome<i64>| match answer {
            Outcome::Fresh(amount) | Outcome::Replayed(amount) => sums.get(key) == Some(amount),
            _ => false,
        };
        if answers.len() != 2 || fresh > 1 || !answers.iter().all(is_stored) {
            wrong.push(format!("{key}: {twins:?}, stored {:?}", sums.get(key)));
        }
    }
    println!("{} keys, {replayed} replayed, {} wrong", told.len(), wrong.len());
    assert!(replayed > 0, "no request met its twin");
    assert!(wrong.is_empty(), "{} of {} keys: {:?}", wrong.len(), told.len(), wrong.first());
}

async fn twins(pool: PgPool, load: Arc<Load>) -> Vec<Told> {
    let mut told = Vec::new();
    while !load.stopped.load(SeqCst) {
        let key = load.next.fetch_add(1, SeqCst);
        let (one, other) = tokio::join!(request(&pool, key), request(&pool, key));
        load.answered.fetch_add(1, SeqCst);
        told.push((key, [one, other]));
    }
    told
}

/// Sends a request, and repeats it while its twin is in progress.
async fn request(pool: &PgPool, request: i64) -> Result<Outcome<i64>, Error> {
    static AMOUNT: AtomicI64 = AtomicI64::new(1);
    let db = Pessimistic::default().on(pool).deadline(DEADLINE).attempts(10_000);
    let key = IdempotencyKey::new("payments", request.to_string()).expect("a key");
    let (once, start) = (db.once(&key), Instant::now());
    loop {
        let outcome = once.run(async |tx| {
            let amount = AMOUNT.fetch_add(1, SeqCst);
            let payment = sqlx::query("INSERT INTO payment VALUES ($1, $2)").bind(request).bind(amount);
            payment.persistent(false).execute(&mut *tx).await?;
            Ok::<_, Error>(amount)
        });
        let outcome = timeout(2 * DEADLINE, outcome).await.expect("it ends by its deadline")?;
        if outcome != Outcome::InProgress || start.elapsed() > DEADLINE {
            return Ok(outcome);
        }
    }
}
