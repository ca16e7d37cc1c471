//! Commits whose response is lost: the key reveals their outcome.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::idempotency::{IdempotencyExt as _, Outcome};
use atomically::{Error, ErrorKind, Options, Pessimistic, PoolTransactor, Resolve, Tx};
use sqlx::Pool;
use sqlx::pool::PoolOptions;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::keeps::{Keeps, effect, effects, key, ledger, stored_response, work};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{ServerBackend, eventually, with_longer_limits};

/// Longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(60);

async fn through<DB: Keeps>(proxy: &Proxy, url: &str, connections: u32) -> Pool<DB> {
    let pool = PoolOptions::<DB>::new().max_connections(connections).connect(&proxy.url(url)).await;
    pool.expect("a pool through the proxy")
}

/// The unit is stored once whether COMMIT was delivered or not, and the commit hooks run once.
pub(crate) async fn a_commit_whose_response_was_lost_is_found<DB: Keeps>() {
    let direct = ledger::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let db = Pessimistic::default().on(&through::<DB>(&proxy, &direct.url, 2).await).deadline(PATIENCE);
    for (k, fault, attempts) in [(1, Fault::CutAfter, 1), (2, Fault::CutBefore, 2)] {
        proxy.heal();
        proxy.cycle(DB::COMMIT, &[Some(fault), None, None, None, None, None]);
        let (ends, runs) = (Arc::new(Mutex::new(Vec::new())), AtomicU32::new(0));
        let unit = async |tx: &mut Tx<DB>| {
            let note = |end: &'static str| {
                let ends = ends.clone();
                async move { ends.lock().expect("the ends").push(end) }
            };
            let (committed, unknown) = (note("committed"), note("unknown"));
            tx.on_commit(committed);
            tx.on_unknown(unknown);
            runs.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Error>(effect(tx, k).await?)
        };
        // The server may still have to end the session of an attempt that was cut off.
        let outcome = db.once(&key(&k.to_string())).wait(PATIENCE).run(unit).await.expect("an outcome");
        assert_eq!(outcome, Outcome::Fresh(stored_response(&direct, k).await), "{fault:?}");
        assert_eq!(runs.load(Ordering::Relaxed), attempts, "{fault:?}");
        assert_eq!(*ends.lock().expect("the ends"), ["committed"], "{fault:?}");
    }
    assert_eq!(proxy.hits(), 2);
}

pub(crate) async fn a_key_makes_an_operation_row_unnecessary<DB: Keeps>() {
    let direct = ledger::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let db = Pessimistic::default().on(&through::<DB>(&proxy, &direct.url, 2).await);
    db.create_operation_table().await.expect("the table of operations");
    let db = db.options(Options::new().resolve_commits(Resolve::Operation));
    proxy.cycle(DB::COMMIT, &[Some(Fault::CutAfter), None, None, None, None, None]);
    let outcome = db.once(&key("a")).run(work::<DB>).await.expect("an outcome");
    assert_eq!(outcome, Outcome::Fresh(stored_response(&direct, 1).await));
    let operations = DB::sql("SELECT COUNT(*) FROM atomically_operation");
    assert_eq!(DB::pool_fetch(&direct, operations, &[]).await.expect("a count"), 0);
    assert_eq!(proxy.hits(), 1);
}

/// The network loses a COMMIT, so that its transaction stays open on the server: no other run gets the key
/// before it has ended.
pub(crate) async fn an_open_transaction_of_an_earlier_attempt_is_fenced<DB: Keeps + ServerBackend>() {
    let direct = ledger::<DB>(2).await;
    let proxy = Proxy::to(&direct.url).await;
    let lost = Pessimistic::default().on(&through::<DB>(&proxy, &direct.url, 2).await);
    proxy.on(DB::COMMIT, Fault::SilenceBefore);
    let error = with_longer_limits(Duration::from_secs(2), async |deadline| {
        let short = lost.clone().deadline(deadline);
        let error = short.once(&key("a")).run(work::<DB>).await.expect_err("no response in time");
        if proxy.hits() > 0 { Ok(error) } else { Err(error) }
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::CommitUnknown, "{error:?}");

    let db = Pessimistic::default().on(&direct).deadline(Duration::from_secs(60));
    let once = db.once(&key("a")).wait(Duration::from_millis(50));
    assert_eq!(once.run(work::<DB>).await.expect("an outcome"), Outcome::InProgress);
    DB::kill_sessions(&direct.url).await;
    eventually(0, async || DB::open_transactions(&direct).await).await;
    let outcome = once.run(work::<DB>).await.expect("an outcome");
    assert_eq!(outcome, Outcome::Fresh(stored_response(&direct, 1).await));
}

/// The transaction of the first attempt stays open on the server. While the second one waits for the key, the
/// server ends its statement.
pub(crate) async fn a_timeout_of_the_next_attempt_does_not_hide_an_unknown_commit<DB>()
where
    DB: Keeps + ServerBackend,
{
    let direct = ledger::<DB>(2).await;
    let proxy = Proxy::to(&direct.url).await;
    let options = Options::new().statement_timeout(Duration::from_secs(1)).deadline(Duration::from_secs(60));
    let db = Pessimistic::default().on(&through::<DB>(&proxy, &direct.url, 2).await).options(options);
    proxy.on(DB::COMMIT, Fault::Hold);
    let key = key("a");
    let once = db.once(&key).wait(Duration::from_secs(30));
    let cut = async {
        eventually(1, async || proxy.hits()).await;
        proxy.cut_held();
    };
    let (outcome, ()) = tokio::join!(once.run(work::<DB>), cut);
    let error = outcome.expect_err("the key is in use");
    assert_eq!(error.kind(), ErrorKind::CommitUnknown, "{error:?}");
}

const REQUESTS: i64 = 500;
const SENDERS: usize = 3;
const LANES: usize = 4;

/// Sends a request until there is a response. Returns the response, and how often the request was sent.
async fn sends<DB: Keeps>(db: &PoolTransactor<DB, Pessimistic>, k: i64) -> (Outcome<i64>, u32) {
    for sent in 1..=100 {
        let unit = async |tx: &mut Tx<DB>| effect(tx, k).await.map_err(Error::from);
        match db.once(&key(&k.to_string())).run(unit).await {
            Ok(Outcome::InProgress) => {}
            Ok(outcome) => return (outcome, sent),
            Err(error) if error.is_exhausted() || error.is_commit_unknown() => {}
            Err(error) => panic!("request {k}: {error:?}"),
        }
    }
    panic!("request {k} was never answered");
}

/// 500 requests, each sent by three clients at the same time, over a network that cuts connections at every
/// step, including between a COMMIT and its response.
pub(crate) async fn requests_over_an_unreliable_network_have_one_effect_and_one_response<DB: Keeps>() {
    let direct = ledger::<DB>(2).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = through::<DB>(&proxy, &direct.url, (LANES * SENDERS) as u32).await;
    let (before, after) = (Some(Fault::CutBefore), Some(Fault::CutAfter));
    proxy.cycle("ISOLATION LEVEL", &[None, None, None, None, None, None, before, None, None, None, after]);
    proxy.cycle(DB::COMMIT, &[None, None, after, None, None, None, before]);
    proxy.cycle("INTO atomically_key", &[None, None, None, before, None, None, None, None, after]);
    proxy.cycle("INTO ledger", &[None, None, None, None, before, None, None, after]);

    let outcomes = Arc::new(Mutex::new(vec![Vec::new(); REQUESTS as usize]));
    let sent_again = Arc::new(AtomicI64::new(0));
    let mut clients = JoinSet::new();
    for lane in 0..LANES as i64 {
        let together = Arc::new(Barrier::new(SENDERS));
        for _ in 0..SENDERS {
            let db = Pessimistic::default().on(&pool).deadline(PATIENCE);
            let (outcomes, sent_again, together) = (outcomes.clone(), sent_again.clone(), together.clone());
            clients.spawn(async move {
                for k in (lane..REQUESTS).step_by(LANES) {
                    together.wait().await;
                    let (outcome, sent) = sends(&db, k).await;
                    sent_again.fetch_add(i64::from(sent - 1), Ordering::Relaxed);
                    outcomes.lock().expect("the outcomes")[k as usize].push(outcome);
                }
            });
        }
    }
    while let Some(client) = clients.join_next().await {
        client.expect("no client dies");
    }
    assert!(proxy.hits() > 200, "the network was almost well: {} cuts", proxy.hits());

    let (mut fresh, mut without) = (0, 0);
    let outcomes = outcomes.lock().expect("the outcomes").clone();
    for (k, outcomes) in (0..).zip(outcomes) {
        assert_eq!(effects(&direct, k).await, 1, "request {k}: {outcomes:?}");
        let response = stored_response(&direct, k).await;
        let responses: Vec<_> = outcomes.iter().map(|outcome| outcome.response()).collect();
        assert_eq!(responses, [Some(response); SENDERS], "request {k}: {outcomes:?}");
        match outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Fresh(_))).count() {
            1 => fresh += 1,
            // The run ended without a response, and the client sent the request again.
            0 => without += 1,
            more => panic!("request {k}: {more} outcomes are fresh: {outcomes:?}"),
        }
    }
    let sent_again = sent_again.load(Ordering::Relaxed);
    println!(
        "{}: {} cuts, {sent_again} sent again, {without} requests without a fresh outcome",
        DB::NAME,
        proxy.hits()
    );
    assert!(fresh > REQUESTS * 9 / 10, "only {fresh} requests have a fresh outcome");
}
