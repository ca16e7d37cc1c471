//! Calls of the crate that are dropped after one poll, after two, and so on until they complete.

pub(crate) mod dropped_jobs;
pub(crate) mod dropped_requests;

use std::sync::atomic::{AtomicI64, Ordering};

use atomically::{
    Adaptive, Atomic, Error, Optimistic, Options, Pessimistic, Resolve, Serializable, Transactor,
    TransactorExt as _, Tx,
};
use sqlx::Pool;

use super::poll_at_most;
use crate::support::{TestBackend, TestPool, eventually};

/// Minimum numbers of runs that are dropped, and of runs that complete.
const MIN_DROPPED: u32 = 10;
const MIN_COMPLETED: u32 = 2;

/// SQLite may respond so fast that a run completes within a poll or two, so many rounds can be needed.
const MAX_ROUNDS: u32 = 2_000;

/// Returns a key that no other round uses.
fn fresh_key() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A pool of one connection, so that the next run gets the connection that a dropped run has used, and
/// another pool that reads the stored rows.
struct Ledger<DB: TestBackend> {
    pool: TestPool<DB>,
    watcher: Pool<DB>,
}

impl<DB: TestBackend> Ledger<DB> {
    async fn new() -> Self {
        let pool = DB::pool(1).await;
        let create = DB::sql("CREATE TABLE ledger (k BIGINT NOT NULL)");
        DB::pool_execute(&pool, create, &[]).await.expect("create a table");
        let watcher = DB::another(&pool.url).await;
        Self { pool, watcher }
    }

    async fn rows(&self, key: i64) -> i64 {
        let count = DB::sql("SELECT COUNT(*) FROM ledger WHERE k = ?");
        DB::pool_fetch(&self.watcher, count, &[key]).await.expect("a count")
    }

    async fn count(&self, table: &str) -> i64 {
        let count = DB::sql(&format!("SELECT COUNT(*) FROM {table}"));
        DB::pool_fetch(&self.watcher, count, &[]).await.expect("a count")
    }

    /// Runs `run` with a fresh key and the value that `prepare` returned for it, drops it after a number of
    /// polls, and passes the outcome to `check`: `None` if it was dropped. Asserts before that that no open
    /// transaction is left on the connection or on the server.
    async fn at_every_poll<P, T>(
        &self,
        what: &str,
        prepare: impl AsyncFn(i64) -> P,
        run: impl AsyncFn(i64, &P) -> T,
        mut check: impl AsyncFnMut(i64, P, Option<T>),
    ) {
        let (mut dropped, mut completed, mut polls) = (0, 0, 0);
        for _ in 0..MAX_ROUNDS {
            polls += 1;
            let key = fresh_key();
            let prepared = prepare(key).await;
            let outcome = poll_at_most(polls, run(key, &prepared)).await;

            let insert = DB::sql("INSERT INTO ledger VALUES (?)");
            DB::pool_execute(&self.pool, insert, &[-key]).await.expect("the pool works");
            assert_eq!(self.rows(-key).await, 1, "{what}: the next write is lost after {polls} polls");
            eventually(0, async || DB::open_transactions(&self.watcher).await).await;

            if outcome.is_some() {
                (completed, polls) = (completed + 1, 0);
            } else {
                dropped += 1;
            }
            check(key, prepared, outcome).await;
            if dropped >= MIN_DROPPED && completed >= MIN_COMPLETED {
                return;
            }
        }
        panic!("{what}: {dropped} runs were dropped, and {completed} have completed");
    }

    /// Does the same for a unit of work, and asserts that it is stored completely or not at all. Returns how
    /// many units were stored.
    async fn units_at_every_poll(
        &self,
        what: &str,
        run: impl AsyncFn(i64) -> Result<(), Error>,
        rows_of_a_unit: i64,
    ) -> i64 {
        let mut stored = 0;
        let prepare = async |_: i64| ();
        let run = async |key: i64, (): &()| run(key).await;
        let check = async |key: i64, (): (), outcome: Option<Result<(), Error>>| {
            let rows = self.rows(key).await;
            if let Some(done) = outcome {
                done.unwrap_or_else(|error| panic!("{what}: a run that was not dropped failed: {error:?}"));
                assert_eq!(rows, rows_of_a_unit, "{what}");
            }
            assert!(rows == 0 || rows == rows_of_a_unit, "{what}: a part of a unit is stored: {rows} rows");
            stored += i64::from(rows > 0);
        };
        self.at_every_poll(what, prepare, run, check).await;
        stored
    }
}

async fn insert<DB: TestBackend>(tx: &mut Tx<DB>, key: i64) -> Result<(), Error> {
    DB::execute(tx, DB::sql("INSERT INTO ledger VALUES (?)"), &[key]).await?;
    Ok(())
}

/// Inserts two rows, and reads between the two statements.
async fn write_twice<DB: TestBackend>(tx: &mut Tx<DB>, key: i64) -> Result<(), Error> {
    insert(tx, key).await?;
    DB::fetch(tx, tx.for_update(DB::sql("SELECT k FROM ledger WHERE k = ?")), &[key]).await?;
    insert(tx, key).await
}

pub(crate) async fn dropped_runs_store_all_or_nothing<DB: TestBackend>() {
    let ledger = Ledger::<DB>::new().await;
    let pool = &ledger.pool;
    let hot = Adaptive::default().on(pool).options(Options::new().on_key("a hot key"));
    let conflict = async |tx: &mut Tx<DB>| tx.expect_one(0);
    assert!(hot.clone().attempts(3).run(conflict).await.expect_err("a conflict").is_exhausted());
    let is_locked = async |tx: &mut Tx<DB>| Ok::<_, Error>(tx.plan().row_lock.is_some());
    assert!(hot.run(is_locked).await.expect("a plan"), "the key is not hot");

    let transactors: [(&str, Box<dyn Transactor<DB>>); 7] = [
        ("pessimistic", Box::new(Pessimistic::default().on(pool))),
        ("optimistic", Box::new(Optimistic::default().on(pool))),
        ("serializable", Box::new(Serializable::default().on(pool))),
        ("atomic", Box::new(Atomic::default().on(pool))),
        ("adaptive", Box::new(Adaptive::default().on(pool))),
        ("adaptive on a hot key", Box::new(hot)),
        ("reused connections", Box::new(Pessimistic::default().on(pool).reuse_connections())),
    ];
    for (name, db) in &transactors {
        let run = async |key: i64| db.run(async |tx: &mut Tx<DB>| write_twice(tx, key).await).await;
        ledger.units_at_every_poll(name, run, 2).await;
    }
}

/// Each unit that is stored has an operation row, by which its commit can be found, and the other units have
/// none.
pub(crate) async fn dropped_runs_that_resolve_commits_store_all_or_nothing<DB: TestBackend>() {
    let ledger = Ledger::<DB>::new().await;
    let db = Pessimistic::default().on(&ledger.pool);
    db.create_operation_table().await.expect("the table of operations");
    let by_operation = db.with(Options::new().resolve_commits(Resolve::Operation));
    let run = async |key: i64| by_operation.run(async |tx: &mut Tx<DB>| write_twice(tx, key).await).await;
    let stored = ledger.units_at_every_poll("an operation", run, 2).await;
    assert_eq!(ledger.count("atomically_operation").await, stored);

    if DB::NAME == "PostgreSQL" {
        let by_status = db.with(Options::new().resolve_commits(Resolve::TransactionStatus));
        let run = async |key: i64| by_status.run(async |tx: &mut Tx<DB>| write_twice(tx, key).await).await;
        ledger.units_at_every_poll("a transaction's status", run, 2).await;
    }
}

/// The unit has a savepoint that contains another one, and a savepoint that is rolled back.
pub(crate) async fn dropped_runs_with_savepoints_store_all_or_nothing<DB: TestBackend>() {
    let ledger = Ledger::<DB>::new().await;
    let db = Pessimistic::default().on(&ledger.pool);
    let unit = async |tx: &mut Tx<DB>, key: i64| {
        tx.savepoint(async |tx: &mut Tx<DB>| {
            insert(tx, key).await?;
            tx.savepoint(async |tx: &mut Tx<DB>| insert(tx, key).await).await
        })
        .await?;
        let rolled_back: Result<(), Error> = tx
            .savepoint(async |tx: &mut Tx<DB>| {
                insert(tx, key).await?;
                Err(sqlx::Error::RowNotFound.into())
            })
            .await;
        assert!(rolled_back.is_err());
        insert(tx, key).await
    };
    let run = async |key: i64| db.run(async |tx: &mut Tx<DB>| unit(tx, key).await).await;
    ledger.units_at_every_poll("savepoints", run, 3).await;
}

/// The outcome of a dropped single statement is not reported, but the statement takes effect completely or
/// not at all.
pub(crate) async fn dropped_single_statements_store_all_or_nothing<DB: TestBackend>() {
    let ledger = Ledger::<DB>::new().await;
    let db = Atomic::default().on(&ledger.pool);
    for (what, db) in [("apply", db.clone()), ("apply, connections reused", db.reuse_connections())] {
        let run = async |key: i64| {
            let insert = DB::sql("INSERT INTO ledger VALUES (?), (?)");
            DB::apply(&db, insert, &[key, key]).await.map(drop)
        };
        ledger.units_at_every_poll(what, run, 2).await;
    }
}
