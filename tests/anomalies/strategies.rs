//! The same anomalies with units of work instead of bare transactions: one unit runs while the other is
//! half-way.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use atomically::{
    Adaptive, Error, Optimistic, Options, Pessimistic, PoolTransactor, Serializable, Strategy,
    TransactorExt as _, Tx,
};
use tokio::sync::Notify;

use crate::engines::Engine;
use crate::session::LIMIT;
use crate::support::TestPool;
use crate::table::{Table, assert_is_in_the_guide};

/// A unit of work that reads, and then writes something that depends on what it read.
#[derive(Debug, Clone, Copy)]
enum Job {
    /// Adds one to a value. The value is its own version.
    Increment,
    /// Goes off duty if another doctor stays on duty. One row for each doctor.
    GoOffDuty,
    /// Takes the last seat, whose row does not exist yet.
    TakeLastPlace,
}

const JOBS: [(&str, Job); 3] = [
    ("lost update", Job::Increment),
    ("write skew on rows that are read with `for_update`", Job::GoOffDuty),
    ("write skew on a condition", Job::TakeLastPlace),
];

impl Job {
    async fn look<E: Engine>(self, tx: &mut Tx<E>) -> Result<i64, Error> {
        let value = "SELECT value FROM test WHERE id = ?";
        match self {
            Self::Increment => Ok(E::fetch(tx, tx.for_update(E::sql(value)), &[1]).await?),
            Self::GoOffDuty => {
                let first = E::fetch(tx, tx.for_update(E::sql(value)), &[1]).await?;
                Ok(first + E::fetch(tx, tx.for_update(E::sql(value)), &[2]).await?)
            }
            Self::TakeLastPlace => {
                Ok(E::fetch(tx, E::sql("SELECT COUNT(*) FROM test WHERE value = 7"), &[]).await?)
            }
        }
    }

    async fn act<E: Engine>(self, tx: &mut Tx<E>, me: i64, seen: i64) -> Result<(), Error> {
        let change = E::sql("UPDATE test SET value = ? WHERE id = ? AND value = ?");
        match self {
            Self::Increment => {
                let changed = E::execute(tx, change, &[seen + 1, 1, seen]).await?;
                tx.expect_one(changed)
            }
            Self::GoOffDuty if seen == 2 => {
                let changed = E::execute(tx, change, &[0, me, 1]).await?;
                tx.expect_one(changed)
            }
            Self::TakeLastPlace if seen == 0 => {
                E::execute(tx, E::sql("INSERT INTO test VALUES (?, 7)"), &[me + 2]).await?;
                Ok(())
            }
            Self::GoOffDuty | Self::TakeLastPlace => Ok(()),
        }
    }

    /// A query, and its result if neither unit went wrong.
    const fn audit(self) -> (&'static str, i64) {
        match self {
            Self::Increment => ("SELECT value FROM test WHERE id = 1", 3),
            Self::GoOffDuty => ("SELECT COUNT(*) FROM test WHERE value = 1", 1),
            Self::TakeLastPlace => ("SELECT COUNT(*) FROM test WHERE value = 7", 1),
        }
    }
}

async fn database<E: Engine>() -> TestPool<E> {
    let pool = E::pool(3).await;
    for statement in
        ["CREATE TABLE test (id BIGINT PRIMARY KEY, value BIGINT)", "INSERT INTO test VALUES (1, 1), (2, 1)"]
    {
        E::pool_execute(&pool, E::sql(statement), &[]).await.expect("the table");
    }
    pool
}

async fn cell<E: Engine>(strategy: impl Strategy, job: Job) -> &'static str {
    let pool = database::<E>().await;
    outcome(&pool, &PoolTransactor::new(strategy, &pool.pool), job).await
}

/// `Adaptive` where both units name a key that has met conflicts before.
async fn hot_cell<E: Engine>(job: Job) -> &'static str {
    let pool = database::<E>().await;
    let db = Adaptive::default().on(&pool).options(Options::new().on_key("a key"));
    let conflict = async |tx: &mut Tx<E>| tx.expect_one(0);
    assert!(db.clone().attempts(3).run(conflict).await.expect_err("a conflict").is_exhausted());
    outcome(&pool, &db, job).await
}

/// The outcome of two units, the second of which runs after the first has read and before it writes.
async fn outcome<E: Engine, S: Strategy>(
    pool: &TestPool<E>,
    db: &PoolTransactor<E, S>,
    job: Job,
) -> &'static str {
    let (attempts, second, done, looked) =
        (AtomicU32::new(0), AtomicI64::new(0), AtomicBool::new(false), Notify::new());
    let (attempts, second, done, looked, watch) = (&attempts, &second, &done, &looked, &**pool);
    let unit = |me: i64| {
        db.run(async move |tx: &mut Tx<E>| {
            attempts.fetch_add(1, SeqCst);
            if me == 2 {
                second.store(E::fetch(tx, E::sql(E::NUMBER), &[]).await?, SeqCst);
            }
            let seen = job.look(tx).await?;
            if me == 1 && tx.attempt() == 1 {
                looked.notify_one();
                let keeps_all_out = E::ONE_WRITER && tx.plan().row_lock.is_some();
                while !keeps_all_out && !done.load(SeqCst) && !E::is_waiting(watch, second.load(SeqCst)).await
                {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            job.act(tx, me, seen).await
        })
    };
    let intruder = async {
        looked.notified().await;
        let result = unit(2).await;
        done.store(true, SeqCst);
        result
    };
    let both = async { tokio::join!(unit(1), intruder) };
    let (one, other) = tokio::time::timeout(LIMIT, both).await.expect("an end, one way or the other");
    one.expect("the first commits");
    other.expect("the second commits");

    let (question, right) = job.audit();
    let found = E::pool_fetch(pool, E::sql(question), &[]).await.expect("the audit");
    match attempts.load(SeqCst) {
        _ if found != right => "possible",
        2 => "—",
        _ => "runs again",
    }
}

async fn all<E: Engine>(title: &str) -> Table {
    let heading =
        [title, "`Pessimistic`", "`Optimistic`", "`Serializable`", "`Adaptive`", "`Adaptive`, hot key"];
    let mut table = vec![heading.map(str::to_owned).to_vec()];
    for (name, job) in JOBS {
        let cells = [
            name,
            cell::<E>(Pessimistic::default(), job).await,
            cell::<E>(Optimistic::default(), job).await,
            cell::<E>(Serializable::default(), job).await,
            cell::<E>(Adaptive::default(), job).await,
            hot_cell::<E>(job).await,
        ];
        table.push(cells.map(str::to_owned).to_vec());
    }
    table
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strategies_have_the_outcomes_of_the_guide() {
    let servers = "Units on PostgreSQL and MariaDB";
    assert_is_in_the_guide(&all::<sqlx::Postgres>(servers).await, &[]);
    assert_is_in_the_guide(&all::<sqlx::MySql>(servers).await, &[]);
    assert_is_in_the_guide(&all::<sqlx::Sqlite>("Units on SQLite").await, &[]);
}
