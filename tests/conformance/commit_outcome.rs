//! What became of a commit whose answer never came.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atomically::{Error, ErrorKind, Options, Pessimistic, PoolTransactor, Resolve, TransactorExt as _, Tx};
use sqlx::Pool;
use sqlx::pool::PoolOptions;
use tokio::task::JoinSet;

use super::increments::{counter, increment, value};
use crate::support::proxy::{Fault, Proxy};
use crate::support::{TestBackend, TestPool};

async fn through<DB: TestBackend>(proxy: &Proxy, url: &str, connections: u32) -> Pool<DB> {
    let pool = PoolOptions::<DB>::new().max_connections(connections).connect(&proxy.url(url)).await;
    pool.expect("a pool through the proxy")
}

async fn resolving<DB: TestBackend>(direct: &Pool<DB>, pool: &Pool<DB>) -> PoolTransactor<DB, Pessimistic> {
    Pessimistic::default().on(direct).create_operation_table().await.expect("the table of operations");
    Pessimistic::default().on(pool).options(Options::new().resolve_commits(Resolve::Operation))
}

/// Delivered or not, the answer is found out, and the unit is stored once. Hooks are told of one commit.
pub(crate) async fn an_unanswered_commit_is_resolved<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = through::<DB>(&proxy, &direct.url, 2).await;
    let db = resolving(&direct, &pool).await;
    for (round, (fault, attempts)) in [(Fault::CutAfter, 1), (Fault::CutBefore, 2)].into_iter().enumerate() {
        proxy.heal();
        proxy.cycle(DB::COMMIT, &[Some(fault), None, None, None, None, None]);
        let ends = Arc::new(Mutex::new(Vec::new()));
        let answered = db.run(async |tx: &mut Tx<DB>| {
            let note = |end: &'static str| {
                let ends = ends.clone();
                async move { ends.lock().expect("the ends").push(end) }
            };
            let (committed, unknown) = (note("committed"), note("unknown"));
            tx.on_commit(committed);
            tx.on_unknown(unknown);
            increment(tx).await?;
            Ok::<_, Error>(tx.attempt())
        });
        assert_eq!(answered.await.expect("resolved"), attempts, "{fault:?}");
        assert_eq!(*ends.lock().expect("the ends"), ["committed"], "{fault:?}");
        assert_eq!(value(&direct).await, round as i64 + 1, "{fault:?}");
    }
    let operations = DB::sql("SELECT COUNT(*) FROM atomically_operation");
    assert_eq!(DB::pool_fetch(&direct, operations, &[]).await.expect("a count"), 2);
    let db = Pessimistic::default().on(&direct);
    assert_eq!(db.purge_operations(Duration::from_secs(3600)).await.expect("none"), 0);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(db.purge_operations(Duration::ZERO).await.expect("all"), 2);
}

/// With no time left to find out, it stays unknown; the hooks are told so.
pub(crate) async fn without_time_it_stays_unknown<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = through::<DB>(&proxy, &direct.url, 2).await;
    let db = resolving(&direct, &pool).await.deadline(Duration::from_millis(300));
    proxy.on(DB::COMMIT, Fault::SilenceAfter);
    let error = db.run(increment::<DB>).await.expect_err("no answer in time");
    assert_eq!(error.kind(), ErrorKind::CommitUnknown, "{error:?}");
}

/// One who only read has stored nothing, and lost nothing: it runs again.
pub(crate) async fn an_unanswered_commit_of_a_reader_is_run_again<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = through::<DB>(&proxy, &direct.url, 2).await;
    let db = Pessimistic::default().on(&pool).options(Options::new().read_only());
    proxy.cycle(DB::COMMIT, &[Some(Fault::CutAfter), None, None]);
    let read = db.run(async |tx: &mut Tx<DB>| {
        DB::fetch(tx, DB::sql("SELECT value FROM counter WHERE id = 1"), &[]).await?;
        Ok::<_, Error>(tx.attempt())
    });
    assert_eq!(read.await.expect("the second attempt"), 2);
}

const TRANSFERS: i64 = 200;
const ACCOUNTS: i64 = 10;

async fn bank<DB: TestBackend>() -> TestPool<DB> {
    let direct = DB::pool(2).await;
    for sql in [
        "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)",
        "CREATE TABLE ledger (k BIGINT NOT NULL)",
    ] {
        DB::pool_execute(&direct, DB::sql(sql), &[]).await.expect("create a table");
    }
    for id in 0..ACCOUNTS {
        DB::pool_execute(&direct, DB::sql("INSERT INTO account VALUES (?, 1000)"), &[id])
            .await
            .expect("an account");
    }
    direct
}

async fn transfer<DB: TestBackend>(tx: &mut Tx<DB>, k: i64) -> Result<(), Error> {
    let (from, to) = (k % ACCOUNTS, (k * 3 + 1) % ACCOUNTS);
    DB::lock_accounts(tx, &[from, to]).await?;
    DB::execute(tx, DB::sql("UPDATE account SET balance = balance - 1 WHERE id = ?"), &[from]).await?;
    DB::execute(tx, DB::sql("UPDATE account SET balance = balance + 1 WHERE id = ?"), &[to]).await?;
    DB::execute(tx, DB::sql("INSERT INTO ledger VALUES (?)"), &[k]).await?;
    Ok(())
}

/// How a client takes an error.
#[derive(Clone, Copy, PartialEq)]
enum Client {
    /// Lets the crate find out.
    Resolving,
    /// Lets the crate find out, by asking for the state of the transaction.
    Asking,
    /// Takes it as it is.
    Careful,
    /// Runs everything again, as hand-written loops do.
    Naive,
}

/// 200 transfers through a network that cuts connections at every step. Answers how often each was applied,
/// and what its client was told.
async fn transfers<DB: TestBackend>(client: Client) -> Vec<(i64, Result<(), ErrorKind>)> {
    let direct = bank::<DB>().await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = through::<DB>(&proxy, &direct.url, 4).await;
    let db = match client {
        Client::Resolving => resolving(&direct, &pool).await,
        Client::Asking => Pessimistic::default()
            .on(&pool)
            .options(Options::new().resolve_commits(Resolve::TransactionStatus)),
        Client::Careful | Client::Naive => Pessimistic::default().on(&pool),
    };
    let (before, after) = (Some(Fault::CutBefore), Some(Fault::CutAfter));
    proxy.cycle("ISOLATION LEVEL", &[None, None, None, None, None, None, before, None, None, None, after]);
    proxy.cycle(DB::COMMIT, &[None, None, after, None, None, None, before]);
    proxy.cycle("ledger", &[None, None, None, None, before, None, None, after]);

    let told = Arc::new(Mutex::new(BTreeMap::new()));
    let next = Arc::new(AtomicI64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (db, told, next) = (db.clone(), told.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let k = next.fetch_add(1, Ordering::Relaxed);
                if k >= TRANSFERS {
                    return;
                }
                let mut outcome = db.run(async |tx: &mut Tx<DB>| transfer(tx, k).await).await;
                while client == Client::Naive && outcome.is_err() {
                    outcome = db.run(async |tx: &mut Tx<DB>| transfer(tx, k).await).await;
                }
                told.lock().expect("the answers").insert(k, outcome.map_err(|error| error.kind()));
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no client dies");
    }
    assert!(proxy.hits() > 40, "the network was almost well: {} cuts", proxy.hits());

    let total = DB::pool_fetch(&direct, DB::sql(DB::TOTAL), &[]).await.expect("the total");
    assert_eq!(total, ACCOUNTS * 1000, "money was made or lost");
    let told = told.lock().expect("the answers").clone();
    let mut outcomes = Vec::new();
    for (k, outcome) in told {
        let count = DB::sql("SELECT COUNT(*) FROM ledger WHERE k = ?");
        outcomes.push((DB::pool_fetch(&direct, count, &[k]).await.expect("a count"), outcome));
    }
    outcomes
}

pub(crate) async fn random_cuts_apply_every_transfer_exactly_once<DB: TestBackend>() {
    let outcomes = transfers::<DB>(Client::Resolving).await;
    assert_eq!(outcomes.len() as i64, TRANSFERS);
    for (k, outcome) in outcomes.iter().enumerate() {
        assert_eq!(*outcome, (1, Ok(())), "transfer {k}");
    }
}

/// The server writes a checkpoint now and then, and does not answer for what began before it.
pub(crate) async fn asked_for_by_status_they_are_applied_once<DB: TestBackend>() {
    let outcomes = transfers::<DB>(Client::Asking).await;
    let mut found_out = 0;
    for (k, outcome) in outcomes.iter().enumerate() {
        match outcome {
            (1, Ok(())) => found_out += 1,
            (0 | 1, Err(ErrorKind::CommitUnknown)) => {}
            wrong => panic!("transfer {k}: {wrong:?}"),
        }
    }
    assert!(found_out > TRANSFERS - 10, "only {found_out} were told");
}

pub(crate) async fn random_cuts_are_applied_once_or_reported_unknown<DB: TestBackend>() {
    let outcomes = transfers::<DB>(Client::Careful).await;
    let mut unknown = [0, 0];
    for (k, outcome) in outcomes.iter().enumerate() {
        match outcome {
            (1, Ok(())) => {}
            (applied @ (0 | 1), Err(ErrorKind::CommitUnknown)) => unknown[*applied as usize] += 1,
            wrong => panic!("transfer {k}: {wrong:?}"),
        }
    }
    assert!(unknown[0] > 0 && unknown[1] > 0, "both kinds of unknown are what this is about: {unknown:?}");
}

/// What this is all for: the loop that people write applies some transfers twice.
pub(crate) async fn a_naive_retry_applies_some_twice<DB: TestBackend>() {
    let outcomes = transfers::<DB>(Client::Naive).await;
    assert!(outcomes.iter().all(|(applied, _)| *applied >= 1));
    let twice = outcomes.iter().filter(|(applied, _)| *applied > 1).count();
    assert!(twice > 0, "the test cannot tell right from wrong");
}
