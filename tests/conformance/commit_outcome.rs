//! Commits whose response is lost.

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
use crate::support::{TestBackend, TestPool, with_longer_limits};

async fn connect_through<DB: TestBackend>(proxy: &Proxy, url: &str, connections: u32) -> Pool<DB> {
    let pool = PoolOptions::<DB>::new().max_connections(connections).connect(&proxy.url(url)).await;
    pool.expect("a pool through the proxy")
}

async fn resolving<DB: TestBackend>(direct: &Pool<DB>, pool: &Pool<DB>) -> PoolTransactor<DB, Pessimistic> {
    Pessimistic::default().on(direct).create_operation_table().await.expect("the table of operations");
    Pessimistic::default().on(pool).options(Options::new().resolve_commits(Resolve::Operation))
}

/// Whether or not the commit was delivered, its outcome is resolved and the unit is stored once. The commit
/// hook runs once.
pub(crate) async fn resolves_a_commit_without_a_response<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = connect_through::<DB>(&proxy, &direct.url, 2).await;
    let db = resolving(&direct, &pool).await;
    for (round, (fault, attempts)) in [(Fault::CutAfter, 1), (Fault::CutBefore, 2)].into_iter().enumerate() {
        proxy.heal();
        proxy.cycle(DB::COMMIT, &[Some(fault), None, None, None, None, None]);
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let run = db.run(async |tx: &mut Tx<DB>| {
            let record = |outcome: &'static str| {
                let outcomes = outcomes.clone();
                async move { outcomes.lock().expect("the outcomes").push(outcome) }
            };
            let (committed, unknown) = (record("committed"), record("unknown"));
            tx.on_commit(committed);
            tx.on_unknown(unknown);
            increment(tx).await?;
            Ok::<_, Error>(tx.attempt())
        });
        assert_eq!(run.await.expect("resolved"), attempts, "{fault:?}");
        assert_eq!(*outcomes.lock().expect("the outcomes"), ["committed"], "{fault:?}");
        assert_eq!(value(&direct).await, round as i64 + 1, "{fault:?}");
    }
    let operations = DB::sql("SELECT COUNT(*) FROM atomically_operation");
    assert_eq!(DB::pool_fetch(&direct, operations, &[]).await.expect("a count"), 2);
    let db = Pessimistic::default().on(&direct);
    assert_eq!(db.purge_operations(Duration::from_secs(3600)).await.expect("none"), 0);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(db.purge_operations(Duration::ZERO).await.expect("all"), 2);
}

/// The deadline passes before the outcome can be resolved.
pub(crate) async fn a_commit_stays_unknown_if_the_deadline_passes<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = connect_through::<DB>(&proxy, &direct.url, 2).await;
    let db = resolving(&direct, &pool).await;
    proxy.on(DB::COMMIT, Fault::SilenceAfter);
    let error = with_longer_limits(Duration::from_secs(2), async |deadline| {
        let error = db.clone().deadline(deadline).run(increment::<DB>).await.expect_err("no response");
        if proxy.hits() > 0 { Ok(error) } else { Err(error) }
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::CommitUnknown, "{error:?}");
}

/// A read-only unit stores nothing, so it can be retried.
pub(crate) async fn retries_a_read_only_commit_without_a_response<DB: TestBackend>() {
    let direct = counter::<DB>(1).await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = connect_through::<DB>(&proxy, &direct.url, 2).await;
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

/// How a client handles errors.
#[derive(Clone, Copy, PartialEq)]
enum Client {
    /// Lets the crate resolve unknown commits by operation rows.
    Resolving,
    /// Lets the crate resolve unknown commits by the status of the transaction.
    StatusResolving,
    /// Reports every error.
    Careful,
    /// Retries after every error, as hand-written loops do.
    Naive,
}

/// A transfer: how often it was applied, and the result that its client received.
type TransferOutcome = (i64, Result<(), ErrorKind>);

/// Makes 200 transfers through a network that cuts connections at every step.
async fn transfers<DB: TestBackend>(client: Client) -> Vec<TransferOutcome> {
    let direct = bank::<DB>().await;
    let proxy = Proxy::to(&direct.url).await;
    let pool = connect_through::<DB>(&proxy, &direct.url, 4).await;
    let db = match client {
        Client::Resolving => resolving(&direct, &pool).await,
        Client::StatusResolving => Pessimistic::default()
            .on(&pool)
            .options(Options::new().resolve_commits(Resolve::TransactionStatus)),
        Client::Careful | Client::Naive => Pessimistic::default().on(&pool),
    };
    let db = db.deadline(Duration::from_secs(240));
    let (before, after) = (Some(Fault::CutBefore), Some(Fault::CutAfter));
    proxy.cycle("ISOLATION LEVEL", &[None, None, None, None, None, None, before, None, None, None, after]);
    proxy.cycle(DB::COMMIT, &[None, None, after, None, None, None, before]);
    proxy.cycle("ledger", &[None, None, None, None, before, None, None, after]);

    let results = Arc::new(Mutex::new(BTreeMap::new()));
    let next = Arc::new(AtomicI64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let (db, results, next) = (db.clone(), results.clone(), next.clone());
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
                results.lock().expect("the results").insert(k, outcome.map_err(|error| error.kind()));
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no client panics");
    }
    assert!(proxy.hits() > 40, "the network made only {} cuts", proxy.hits());

    let total = DB::pool_fetch(&direct, DB::sql(DB::TOTAL), &[]).await.expect("the total");
    assert_eq!(total, ACCOUNTS * 1000, "the total has changed");
    let results = results.lock().expect("the results").clone();
    let mut outcomes = Vec::new();
    for (k, outcome) in results {
        let count = DB::sql("SELECT COUNT(*) FROM ledger WHERE k = ?");
        outcomes.push((DB::pool_fetch(&direct, count, &[k]).await.expect("a count"), outcome));
    }
    outcomes
}

pub(crate) async fn applies_every_transfer_exactly_once_with_operation_rows<DB: TestBackend>() {
    let outcomes = transfers::<DB>(Client::Resolving).await;
    assert_eq!(outcomes.len() as i64, TRANSFERS);
    for (k, outcome) in outcomes.iter().enumerate() {
        assert_eq!(*outcome, (1, Ok(())), "transfer {k}");
    }
}

/// After a checkpoint the server does not report the status of older transactions, so some outcomes may stay
/// unknown.
pub(crate) async fn applies_no_transfer_twice_with_transaction_status<DB: TestBackend>() {
    let outcomes = transfers::<DB>(Client::StatusResolving).await;
    let mut resolved = 0;
    for (k, outcome) in outcomes.iter().enumerate() {
        match outcome {
            (1, Ok(())) => resolved += 1,
            (0 | 1, Err(ErrorKind::CommitUnknown)) => {}
            wrong => panic!("transfer {k}: {wrong:?}"),
        }
    }
    assert!(resolved > TRANSFERS - 10, "only {resolved} were resolved");
}

pub(crate) async fn applies_every_transfer_once_or_reports_it_unknown<DB: TestBackend>() {
    let outcomes = transfers::<DB>(Client::Careful).await;
    let (mut not_stored, mut stored) = (0, 0);
    for (k, outcome) in outcomes.iter().enumerate() {
        match outcome {
            (1, Ok(())) => {}
            (0, Err(ErrorKind::CommitUnknown)) => not_stored += 1,
            (1, Err(ErrorKind::CommitUnknown)) => stored += 1,
            wrong => panic!("transfer {k}: {wrong:?}"),
        }
    }
    assert!(
        not_stored > 0 && stored > 0,
        "of the unknown commits, {stored} were stored and {not_stored} were not: the test needs both"
    );
}

/// Shows that the test detects double transfers: a hand-written retry loop makes some.
pub(crate) async fn a_naive_retry_loop_applies_some_transfers_twice<DB: TestBackend>() {
    let outcomes = transfers::<DB>(Client::Naive).await;
    assert!(outcomes.iter().all(|(applied, _)| *applied >= 1));
    let twice = outcomes.iter().filter(|(applied, _)| *applied > 1).count();
    assert!(twice > 0, "no transfer was applied twice, so the test proves nothing");
}
