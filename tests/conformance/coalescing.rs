//! Additions that share a commit return what they would return if they ran one after another.

pub(crate) mod callers;
pub(crate) mod calls;
pub(crate) mod contended_rows;
pub(crate) mod lost_connections;
pub(crate) mod stored_sums;

use std::time::Duration;

use atomically::{DeltaOutcome, Deltas, Error, Key, Options};
use futures_util::FutureExt as _;
use futures_util::future::{join, join_all};
use sqlx::Pool;
use tokio::task::JoinHandle;

use crate::support::{TestBackend, eventually};

type CallResult = Result<DeltaOutcome, Error>;

/// Long limits, for slow machines: the tests check results, not times.
fn patient() -> Options {
    Options::new().attempts(10_000).deadline(Duration::from_secs(240))
}

/// Makes each batch lock its rows and send COMMIT, even if a single statement would be enough.
fn several_statements() -> Options {
    Options::new().lock_timeout(Duration::from_secs(240))
}

fn deltas<DB: TestBackend>(pool: &Pool<DB>) -> Deltas<DB, i64>
where
    i64: Key<DB>,
{
    Deltas::on(pool, "counter", "id", "value").options(patient())
}

async fn add_rows<DB: TestBackend>(pool: &Pool<DB>, ids: std::ops::RangeInclusive<i64>) {
    for id in ids {
        let insert = DB::sql("INSERT INTO counter VALUES (?, 0, 0)");
        DB::pool_execute(pool, insert, &[id]).await.expect("a row");
    }
}

async fn set<DB: TestBackend>(pool: &Pool<DB>, value: i64) {
    DB::pool_execute(pool, DB::sql("UPDATE counter SET value = ?"), &[value]).await.expect("a value");
}

async fn values<DB: TestBackend>(pool: &Pool<DB>, ids: &[i64]) -> Vec<i64> {
    let mut values = Vec::new();
    for id in ids {
        let select = DB::sql("SELECT value FROM counter WHERE id = ?");
        values.push(DB::pool_fetch(pool, select, &[*id]).await.expect("a row"));
    }
    values
}

fn expect_all(results: Vec<CallResult>) -> Vec<DeltaOutcome> {
    results.into_iter().map(|result| result.expect("a commit")).collect()
}

/// A batch of one call, which adds 0 and waits for a row that another session has locked. Later calls wait
/// for the next batch and share it.
struct BlockedBatch<DB: TestBackend> {
    blocker: DB::Connection,
    first: JoinHandle<CallResult>,
}

impl<DB: TestBackend> BlockedBatch<DB>
where
    i64: Key<DB>,
{
    /// The pool has one connection.
    async fn new(url: &str, pool: &Pool<DB>, deltas: &Deltas<DB, i64>) -> Self {
        Self::held_by(DB::blocker(url).await, pool, deltas).await
    }

    /// Locks the row without changing its value, for columns that may reject another value.
    async fn without_a_change(url: &str, pool: &Pool<DB>, deltas: &Deltas<DB, i64>) -> Self {
        let blocker = DB::another(url).await.acquire().await.expect("a connection");
        let mut blocker = blocker.detach();
        let hold = "BEGIN; UPDATE counter SET value = value WHERE id = 1";
        DB::raw(&mut blocker, hold).await.expect("the lock");
        Self::held_by(blocker, pool, deltas).await
    }

    async fn held_by(blocker: DB::Connection, pool: &Pool<DB>, deltas: &Deltas<DB, i64>) -> Self {
        eventually(1, async || pool.num_idle()).await;
        let deltas = deltas.clone();
        let first = tokio::spawn(async move { deltas.add(1, 0).await });
        // The batch has taken its call before it acquires the connection.
        eventually(0, async || pool.num_idle()).await;
        Self { blocker, first }
    }

    async fn end(mut self) -> CallResult {
        DB::raw(&mut self.blocker, "ROLLBACK").await.expect("a rollback");
        self.first.await.expect("no panic")
    }
}

/// Polls all calls once, so that they arrive in this order, and then releases the blocked batch.
async fn run_behind<DB: TestBackend>(
    blocked: BlockedBatch<DB>,
    calls: impl IntoIterator<Item = impl Future<Output = CallResult>>,
) -> (CallResult, Vec<CallResult>)
where
    i64: Key<DB>,
{
    let mut calls = join_all(calls);
    assert!((&mut calls).now_or_never().is_none(), "no call can have returned");
    join(blocked.end(), calls).await
}
