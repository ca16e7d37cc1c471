//! Requests that are sent to all nodes at the same time with the same key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, IdempotencyKey, Outcome};
use atomically::{Error, Pessimistic, PoolTransactor};
use sqlx::{MySql, MySqlConnection, Pool};
use tokio::sync::Barrier;

use crate::support::eventually;
use crate::{Database, all};

const KEYS: i64 = 300;
/// Keys in progress at a time.
const STREAMS: i64 = 6;
const REQUESTS_OF_A_NODE: usize = 3;
/// The maximum delay of a request, in round trips.
const MOMENTS: u32 = 12;
/// Longer than the cluster needs to evict a dead node.
const DEADLINE: Duration = Duration::from_secs(6);
const TABLE: &str = "CREATE TABLE payment (
    n BIGINT AUTO_INCREMENT PRIMARY KEY, request BIGINT NOT NULL, amount BIGINT NOT NULL
)";

/// The responses to the requests of one key.
#[derive(Debug, Default)]
struct KeyResponses {
    fresh: Vec<i64>,
    replayed: Vec<i64>,
    errors: Vec<String>,
    unknown: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_to_all_nodes_have_one_effect_and_one_response() {
    requests_have_one_effect(None).await;
}

/// The requests of the clients of the dead node may fail. Their twins on the other nodes get the response.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_have_one_effect_and_one_response_when_a_node_is_killed() {
    requests_have_one_effect(Some(2)).await;
}

async fn requests_have_one_effect(killed: Option<usize>) {
    let mut database = Database::with(&[TABLE]).await;
    Pessimistic::default().on(&database.pools[0]).create_key_table().await.expect("the table of keys");
    database.catch_up().await;
    let pools: Arc<[Pool<MySql>]> = database.pools.clone().into();
    let progress = Arc::new(Progress::default());
    let streams: Vec<_> =
        (0..STREAMS).map(|stream| requests(pools.clone(), stream, progress.clone())).collect();
    let streams = tokio::spawn(all(streams));
    if let Some(node) = killed {
        eventually(true, async || progress.keys.load(SeqCst) > KEYS / 4).await;
        progress.node_is_dead.store(true, SeqCst);
        database.kill(node);
    }
    let responses = streams.await.expect("no client dies");
    let responses: BTreeMap<i64, KeyResponses> = responses.into_iter().flatten().collect();
    let stored = database.audited(read).await;

    let amounts = |key: &i64| stored.get(key).map(Vec::as_slice).unwrap_or_default();
    let unpaid = responses.keys().filter(|key| amounts(key).is_empty()).count();
    let twice = responses.keys().filter(|key| amounts(key).len() > 1).count();
    let wrong = responses.iter().filter(|(key, responses)| {
        let returned: BTreeSet<i64> = responses.fresh.iter().chain(&responses.replayed).copied().collect();
        let is_wrong = |amount| !amounts(key).contains(amount);
        returned.len() > 1 || returned.iter().any(is_wrong) || responses.fresh.len() > 1
    });
    let wrong: Vec<_> =
        wrong.map(|(key, responses)| format!("{responses:?}, stored {:?}", amounts(key))).collect();
    let errors: Vec<_> = responses.values().flat_map(|responses| &responses.errors).collect();
    let unknown: usize = responses.values().map(|responses| responses.unknown).sum();
    let report = format!(
        "of {KEYS} keys {unpaid} have no payment, {twice} have several, {} have wrong responses; {} definite \
         errors, {unknown} unknown: {:?} {:?}",
        wrong.len(),
        errors.len(),
        wrong.first(),
        errors.first(),
    );
    println!("{report}");
    let replayed: usize = responses.values().map(|responses| responses.replayed.len()).sum();
    assert!(replayed > 0, "no request met another one: {report}");
    assert!(unpaid + twice + wrong.len() == 0, "{report}");
    assert!(killed.is_some() || errors.len() + unknown == 0, "{report}");
}

#[derive(Debug, Default)]
struct Progress {
    keys: AtomicI64,
    node_is_dead: AtomicBool,
}

/// Sends all requests of every key of this stream, those of one key at about the same time.
async fn requests(
    pools: Arc<[Pool<MySql>]>,
    stream: i64,
    progress: Arc<Progress>,
) -> Vec<(i64, KeyResponses)> {
    let mut responses = Vec::new();
    for key in (0..KEYS).filter(|key| key % STREAMS == stream) {
        let pools = if progress.node_is_dead.load(SeqCst) { &pools[..2] } else { &pools[..] };
        let barrier = Arc::new(Barrier::new(pools.len() * REQUESTS_OF_A_NODE));
        let clients = pools.iter().flat_map(|pool| std::iter::repeat_n(pool, REQUESTS_OF_A_NODE));
        let clients = clients.map(|pool| request(pool.clone(), barrier.clone(), key));
        responses.push((key, gathered(all(clients).await)));
        progress.keys.fetch_add(1, SeqCst);
    }
    responses
}

fn gathered(outcomes: Vec<Result<Outcome<i64>, Error>>) -> KeyResponses {
    let mut responses = KeyResponses::default();
    for outcome in outcomes {
        match outcome {
            Ok(Outcome::Fresh(amount)) => responses.fresh.push(amount),
            Ok(Outcome::Replayed(amount)) => responses.replayed.push(amount),
            Ok(other) => responses.errors.push(format!("{other:?}")),
            Err(error) if error.is_commit_unknown() => responses.unknown += 1,
            Err(error) => responses.errors.push(error.to_string()),
        }
    }
    responses
}

/// Sends one request, and repeats it while the outcome is `InProgress`.
async fn request(pool: Pool<MySql>, barrier: Arc<Barrier>, request: i64) -> Result<Outcome<i64>, Error> {
    static AMOUNT: AtomicI64 = AtomicI64::new(1);
    let db: PoolTransactor<MySql, Pessimistic> = Pessimistic::default().on(&pool).deadline(DEADLINE);
    let key = IdempotencyKey::new("payments", request.to_string()).expect("a key");
    barrier.wait().await;
    // A random delay, so that the first commit meets later requests at any point of their work.
    for _ in 0..rand::random_range(0..MOMENTS) {
        sqlx::query("SELECT 1").execute(&pool).await?;
    }
    let once = db.once(&key);
    for _ in 0..10 {
        let outcome = once
            .run(async |tx| {
                let amount = AMOUNT.fetch_add(1, SeqCst);
                let payment = sqlx::query("INSERT INTO payment (request, amount) VALUES (?, ?)");
                payment.bind(request).bind(amount).execute(&mut *tx).await?;
                Ok::<_, Error>(amount)
            })
            .await?;
        if outcome != Outcome::InProgress {
            return Ok(outcome);
        }
    }
    Ok(Outcome::InProgress)
}

/// The amounts paid for each request.
async fn read(mut node: MySqlConnection) -> BTreeMap<i64, Vec<i64>> {
    let rows = sqlx::query_as("SELECT request, amount FROM payment ORDER BY n").fetch_all(&mut node);
    let rows: Vec<(i64, i64)> = rows.await.expect("the payments");
    let mut payments = BTreeMap::<i64, Vec<i64>>::new();
    for (request, amount) in rows {
        payments.entry(request).or_default().push(amount);
    }
    payments
}
