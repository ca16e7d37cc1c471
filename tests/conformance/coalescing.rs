//! Additions that share a commit return what they would return if they ran one after another.

pub(crate) mod answers;
pub(crate) mod callers;
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

type Answer = Result<DeltaOutcome, Error>;

/// Long limits, for slow machines: the tests check results, not times.
fn patient() -> Options {
    Options::new().attempts(10_000).deadline(Duration::from_secs(240))
}

/// Makes each batch lock its rows and send COMMIT, even if a single statement would be enough.
fn step_by_step() -> Options {
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

fn ok(answers: Vec<Answer>) -> Vec<DeltaOutcome> {
    answers.into_iter().map(|answer| answer.expect("a commit")).collect()
}

/// A batch of one call, which adds 0 and waits for a row that another session has locked. Later calls wait
/// for the next batch, and share it.
struct Jam<DB: TestBackend> {
    blocker: DB::Connection,
    first: JoinHandle<Answer>,
}

impl<DB: TestBackend> Jam<DB>
where
    i64: Key<DB>,
{
    /// The pool has one connection.
    async fn new(url: &str, pool: &Pool<DB>, deltas: &Deltas<DB, i64>) -> Self {
        Self::held_by(DB::blocker(url).await, pool, deltas).await
    }

    /// Locks the row without changing it, for rows that have no room for another value.
    async fn unchanged(url: &str, pool: &Pool<DB>, deltas: &Deltas<DB, i64>) -> Self {
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

    async fn end(mut self) -> Answer {
        DB::raw(&mut self.blocker, "ROLLBACK").await.expect("the lock is released");
        self.first.await.expect("no panic")
    }
}

/// Polls all calls once, in this order, which is the order of their arrival; then lets the jam end.
async fn behind<DB: TestBackend>(
    jam: Jam<DB>,
    calls: impl IntoIterator<Item = impl Future<Output = Answer>>,
) -> (Answer, Vec<Answer>)
where
    i64: Key<DB>,
{
    let mut calls = join_all(calls);
    assert!((&mut calls).now_or_never().is_none(), "no call can have returned");
    join(jam.end(), calls).await
}
