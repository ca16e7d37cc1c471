//! Whatever the crate does, dropped after one poll, after two, and so on until it is done.

pub(crate) mod dropped_jobs;
pub(crate) mod dropped_requests;

use std::sync::atomic::{AtomicI64, Ordering};

use atomically::{
    Adaptive, Atomic, Error, Optimistic, Options, Pessimistic, Resolve, Serializable, Transactor,
    TransactorExt as _, Tx,
};
use sqlx::Pool;

use super::polled;
use crate::support::{TestBackend, TestPool, eventually};

/// How often a run is cut short at least, and how often it is completed.
const MIN_DROPPED: u32 = 10;
const MIN_COMPLETED: u32 = 2;

/// Where SQLite answers at once, a run may be over after a poll or two, whatever it is dropped after.
const MAX_ROUNDS: u32 = 2_000;

/// A number that no other round has.
fn fresh_key() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A pool of one connection, so that whatever a dropped run leaves behind meets the next one, and another
/// pool that sees what is stored.
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

    /// Runs `run` for a fresh key and what was prepared for it, drops it after so many polls, and has `check`
    /// look at the outcome: `None` if it was dropped. Before that, nothing may be left on the connection or
    /// on the server.
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
            let outcome = polled(polls, run(key, &prepared)).await;

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
        panic!("{what}: {dropped} runs were cut short, and {completed} were completed");
    }

    /// The same for a unit of work: all of it is stored, or nothing. Returns how many units were stored.
    async fn units_at_every_poll(
        &self,
        what: &str,
        run: impl AsyncFn(i64) -> Result<(), Error>,
        rows_of_a_unit: i64,
    ) -> i64 {
        let mut stored = 0;
        let nothing = async |_: i64| ();
        let run = async |key: i64, (): &()| run(key).await;
        let check = async |key: i64, (): (), outcome: Option<Result<(), Error>>| {
            let rows = self.rows(key).await;
            if let Some(done) = outcome {
                done.unwrap_or_else(|error| panic!("{what}: an undisturbed run commits: {error:?}"));
                assert_eq!(rows, rows_of_a_unit, "{what}");
            }
            assert!(rows == 0 || rows == rows_of_a_unit, "{what}: a part of a unit is stored: {rows} rows");
            stored += i64::from(rows > 0);
        };
        self.at_every_poll(what, nothing, run, check).await;
        stored
    }
}

async fn insert<DB: TestBackend>(tx: &mut Tx<DB>, key: i64) -> Result<(), Error> {
    DB::execute(tx, DB::sql("INSERT INTO ledger VALUES (?)"), &[key]).await?;
    Ok(())
}

/// Two rows, with a read in between.
async fn write_twice<DB: TestBackend>(tx: &mut Tx<DB>, key: i64) -> Result<(), Error> {
    insert(tx, key).await?;
    DB::fetch(tx, tx.for_update(DB::sql("SELECT k FROM ledger WHERE k = ?")), &[key]).await?;
    insert(tx, key).await
}

pub(crate) async fn runs_leave_nothing_behind<DB: TestBackend>() {
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

/// Behind each unit that is stored there is a row by which its commit can be found, and none behind the
/// others.
pub(crate) async fn resolved_commits_leave_nothing_behind<DB: TestBackend>() {
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

/// One scope that is kept, with another one inside, and one that is rolled back.
pub(crate) async fn savepoints_leave_nothing_behind<DB: TestBackend>() {
    let ledger = Ledger::<DB>::new().await;
    let db = Pessimistic::default().on(&ledger.pool);
    let unit = async |tx: &mut Tx<DB>, key: i64| {
        tx.savepoint(async |tx: &mut Tx<DB>| {
            insert(tx, key).await?;
            tx.savepoint(async |tx: &mut Tx<DB>| insert(tx, key).await).await
        })
        .await?;
        let refused: Result<(), Error> = tx
            .savepoint(async |tx: &mut Tx<DB>| {
                insert(tx, key).await?;
                Err(sqlx::Error::RowNotFound.into())
            })
            .await;
        assert!(refused.is_err());
        insert(tx, key).await
    };
    let run = async |key: i64| db.run(async |tx: &mut Tx<DB>| unit(tx, key).await).await;
    ledger.units_at_every_poll("savepoints", run, 3).await;
}

/// Nobody learns what became of a lone statement that is dropped; it is stored whole or not at all.
pub(crate) async fn lone_statements_leave_nothing_behind<DB: TestBackend>() {
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
