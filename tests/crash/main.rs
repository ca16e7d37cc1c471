//! Transfers while their server is killed and restarted.

mod load;
mod mortal;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atomically::{Error, ErrorKind, Pessimistic, TransactorExt as _, Tx};
use futures_util::TryStreamExt as _;
use load::{ACCOUNTS, Client, DEADLINE, Load, TransferOutcome};
use mortal::Mortal;
use sqlx::pool::PoolOptions;
use sqlx::{MySql, Postgres};
use tokio::task::{JoinSet, spawn_blocking, yield_now};
use tokio::time::timeout;

const CLIENTS: u32 = 4;
const KILLS: u32 = 8;
/// Every other kill happens while a commit is held.
const HELD: u32 = KILLS / 2;

/// Kills the server under load, again and again. Returns how often each transfer was applied and the outcome
/// that its client saw.
async fn transfers<DB: Mortal>(client: Client) -> Vec<(usize, TransferOutcome)> {
    let mut server = spawn_blocking(DB::server).await.expect("a server");
    let url = server.url().to_owned();
    let direct = DB::another(&url).await;
    for sql in [
        "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)",
        "CREATE TABLE ledger (k BIGINT NOT NULL)",
    ] {
        DB::pool_execute(&direct, DB::sql(sql), &[]).await.expect("create a table");
    }
    for id in 0..ACCOUNTS {
        let account = DB::sql("INSERT INTO account VALUES (?, 1000)");
        DB::pool_execute(&direct, account, &[id]).await.expect("an account");
    }
    Pessimistic::default().on(&direct).create_operation_table().await.expect("the table of operations");

    let pool = PoolOptions::<DB>::new().max_connections(CLIENTS).connect(&url).await.expect("a pool");
    let load = Arc::new(Load::new(pool, client));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let load = load.clone();
        clients.spawn(async move { load.run().await });
    }
    for kill in 0..KILLS {
        let enough = load.done() + 10 + 7 * kill as usize;
        let at_work = async {
            while load.done() < enough {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(DEADLINE, at_work).await.expect("the load goes on after a restart");
        let held = if kill % 2 == 1 { Some(DB::hold_a_commit(&url).await) } else { None };
        for _ in 0..kill {
            yield_now().await;
        }
        assert!(load.in_flight() > 0, "kill {kill} came when no transfer was in flight");
        let restart = move || {
            server.kill();
            server.restart();
            server
        };
        server = spawn_blocking(restart).await.expect("a server that starts again");
        drop(held);
    }
    load.stop();
    while let Some(client) = clients.join_next().await {
        client.expect("no client panics");
    }

    let direct = DB::another(&url).await;
    let total = DB::pool_fetch(&direct, DB::sql(DB::TOTAL), &[]).await.expect("the total");
    assert_eq!(total, ACCOUNTS * 1000, "the total has changed");
    let db = Pessimistic::default().on(&direct);
    let ledger = db.run(async |tx: &mut Tx<DB>| {
        let rows = DB::stream(tx, DB::sql("SELECT k FROM ledger"));
        Ok::<Vec<i64>, Error>(rows.try_collect().await?)
    });
    let mut applied = BTreeMap::<i64, usize>::new();
    for k in ledger.await.expect("the ledger") {
        *applied.entry(k).or_default() += 1;
    }
    let seen = load.take_outcomes();
    let disturbed = seen.values().filter(|seen| seen.attempts > 1 || seen.outcome.is_err()).count();
    assert!(disturbed >= KILLS as usize, "{KILLS} kills were noticed by {disturbed} transfers only");
    let outcomes = seen.into_iter().map(|(k, seen)| (applied.remove(&k).unwrap_or(0), seen)).collect();
    assert!(applied.is_empty(), "applied without an outcome: {applied:?}");
    outcomes
}

/// Numbers of commits that got no response.
#[derive(Debug, Default)]
struct LostResponses {
    not_stored: u32,
    stored: u32,
}

impl LostResponses {
    fn count(&mut self, is_stored: bool) {
        if is_stored {
            self.stored += 1;
        } else {
            self.not_stored += 1;
        }
    }
}

/// Counts the commits that were reported as unknown.
async fn careful<DB: Mortal>() -> LostResponses {
    let mut unknown = LostResponses::default();
    for (applied, seen) in transfers::<DB>(Client::Careful).await {
        match (applied, &seen.outcome) {
            (1, Ok(_)) => {}
            (0 | 1, Err(ErrorKind::CommitUnknown)) => unknown.count(applied == 1),
            _ => panic!("applied {applied} times: {seen:?}"),
        }
    }
    unknown
}

/// Counts the commits whose outcome the crate has resolved.
async fn resolving<DB: Mortal>() -> LostResponses {
    let mut resolved = LostResponses::default();
    for (applied, seen) in transfers::<DB>(Client::Resolving).await {
        match (applied, &seen.outcome) {
            (1, Ok(stored)) if seen.attempts > seen.failures + 1 => {
                resolved.count(*stored < seen.attempts);
            }
            (1, Ok(_)) => {}
            (0 | 1, Err(ErrorKind::CommitUnknown)) if seen.took >= DEADLINE => {}
            _ => panic!("applied {applied} times: {seen:?}"),
        }
    }
    resolved
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_applies_once_or_reports_an_unknown_commit() {
    let LostResponses { stored, .. } = careful::<Postgres>().await;
    assert!(stored >= HELD, "{stored} commits were stored without a response");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_resolves_unknown_commits_and_applies_once() {
    let LostResponses { stored, .. } = resolving::<Postgres>().await;
    assert!(stored >= HELD, "{stored} commits were stored without a response");
}

/// The retry loop that is often written by hand, on the same server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_naive_retry_loop_applies_some_transfers_twice() {
    let outcomes = transfers::<Postgres>(Client::Naive).await;
    let twice = outcomes.iter().filter(|(applied, _)| *applied > 1).count();
    assert!(twice >= HELD as usize, "only {twice} transfers were applied twice, too few to prove anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_applies_once_or_reports_an_unknown_commit() {
    let LostResponses { not_stored, .. } = careful::<MySql>().await;
    assert!(not_stored >= HELD, "{not_stored} commits were not stored and got no response");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_resolves_unknown_commits_and_applies_once() {
    let LostResponses { not_stored, .. } = resolving::<MySql>().await;
    assert!(not_stored >= HELD, "{not_stored} commits were not stored and got no response");
}
