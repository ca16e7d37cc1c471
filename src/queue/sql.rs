//! What queues need to know of a database.

use futures_core::future::BoxFuture;
use sqlx::Row as _;

#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use super::doctor::DoctorCheck;
use super::insertion::NewRows;
use super::search::{Wanted, claim_by_priority};
use crate::backend::{Backend, Value, WatchedQuery, required};
use crate::error::Error;
use crate::strategies::Pessimistic;
use crate::transactor::PoolTransactor;
use crate::tx::Tx;

/// A database that queues can be kept in: `Postgres`, `MySql` (also for MariaDB) or `Sqlite`.
///
/// Sealed, as [`Backend`](crate::Backend) is.
pub trait QueueBackend: Dialect {}

/// The items behind [`QueueBackend`], out of reach of its users so that they may grow.
#[doc(hidden)]
pub trait Dialect: Backend {
    /// The tables and their indexes, made where they are missing.
    const SCHEMA: &'static str;

    /// The database's clock, in microseconds since 1970.
    ///
    /// # Why numbers, and not timestamps?
    ///
    /// Types for points in time come with time zones of sessions, summer times and ranges, different ones on
    /// each database. A number compares the same everywhere.
    const NOW: &'static str;

    /// What the doctor looks at. Each row that a statement answers is something that is wrong, in words.
    const CHECKS: &'static [DoctorCheck];

    /// What stands behind the name of the table when jobs are looked for.
    const HINT: &'static str = "";

    /// The lock on jobs that are about to be claimed; it leaves out what others have locked.
    const LOCK: &'static str = "FOR UPDATE SKIP LOCKED";

    /// The condition that a job comes after this place in the index.
    fn behind(due_at: &str, id: &str) -> String {
        format!("(due_at, id) > ({due_at}, {id})")
    }

    /// Claims, in a transaction of its own, and answers the jobs as they were before.
    fn claim(
        db: &PoolTransactor<Self, Pessimistic>,
        wanted: Wanted,
    ) -> BoxFuture<'_, Result<Vec<JobRow>, Error>> {
        Box::pin(claim_by_priority(db, wanted))
    }

    /// What stands before the text of a change that is one statement, and its own transaction.
    const ALONE: &'static str = "";

    /// Refuses a statement of so many bytes that the server would not take, before it is sent.
    fn check_size(_tx: &mut Tx<Self>, _bytes: usize) -> BoxFuture<'_, Result<(), sqlx::Error>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Inserts the rows that violate no unique key.
    fn insert<'t>(tx: &'t mut Tx<Self>, rows: NewRows<'_>) -> BoxFuture<'t, Result<Inserted, sqlx::Error>> {
        let (values, arguments) = rows.values::<Self>();
        Box::pin(async move {
            let sql = format!("INSERT INTO {values} ON CONFLICT DO NOTHING RETURNING id");
            let ids = Self::fetch_integers(tx, sql, arguments).await?;
            Ok(Inserted { rows: ids.len() as u64, id: ids.first().copied() })
        })
    }

    /// Inserts one job in a transaction of its own; `None` where that is no less than any transaction, which
    /// may only be found out on the connection.
    fn insert_alone<'d>(
        _db: &'d PoolTransactor<Self, Pessimistic>,
        _rows: NewRows<'_>,
    ) -> Option<BoxFuture<'d, Result<Option<Inserted>, Error>>> {
        None
    }

    /// The end of an `INSERT INTO atomically_job_lease` that replaces the row which is there.
    const REPLACING_LEASE: &'static str =
        "ON CONFLICT (job_id) DO UPDATE SET token = excluded.token, until = excluded.until";

    /// Up to a thousand rows of a table, by their key.
    fn delete_batch(table: &str, key: &str, condition: &str) -> String;

    /// Runs a statement, and returns how many rows it affected.
    fn send(
        tx: &mut Tx<Self>,
        sql: String,
        arguments: Vec<Option<String>>,
    ) -> BoxFuture<'_, Result<u64, sqlx::Error>> {
        Box::pin(async move { tx.execute_query(query(sql, arguments)?).await })
    }

    /// Returns all columns of all rows, one after the other.
    fn fetch_integers(
        tx: &mut Tx<Self>,
        sql: String,
        arguments: Vec<Option<String>>,
    ) -> BoxFuture<'_, Result<Vec<i64>, sqlx::Error>> {
        Box::pin(async move {
            let mut integers = Vec::new();
            for row in tx.fetch_rows(query(sql, arguments)?).await? {
                for column in 0..row.len() {
                    integers.push(required(Self::integer(&row, column)?, column)?);
                }
            }
            Ok(integers)
        })
    }

    /// Returns the first column of each row.
    fn fetch_texts(tx: &mut Tx<Self>, sql: String) -> BoxFuture<'_, Result<Vec<String>, sqlx::Error>> {
        Box::pin(async move {
            let rows = tx.fetch_rows(query(sql, Vec::new())?).await?;
            rows.iter().map(|row| required(Self::text(row, 0)?, 0)).collect()
        })
    }

    /// Returns jobs, selected by [`JOB`].
    fn fetch_jobs(tx: &mut Tx<Self>, sql: String) -> BoxFuture<'_, Result<Vec<JobRow>, sqlx::Error>> {
        Box::pin(async move { tx.fetch_rows(query(sql, Vec::new())?).await?.iter().map(Self::job).collect() })
    }

    /// Decodes a job that was selected by [`JOB`].
    fn job(row: &Self::Row) -> Result<JobRow, sqlx::Error> {
        let integer = |column| required(Self::integer(row, column)?, column);
        let small =
            |column| i32::try_from(integer(column)?).map_err(|error| sqlx::Error::Decode(error.into()));
        Ok(JobRow {
            id: integer(0)?,
            token: integer(1)?,
            priority: i16::try_from(integer(2)?).map_err(|error| sqlx::Error::Decode(error.into()))?,
            attempts: small(3)?,
            max_attempts: small(4)?,
            due_at: Self::integer(row, 5)?,
            payload: required(Self::text(row, 6)?, 6)?,
            last_error: Self::text(row, 7)?,
        })
    }
}

/// A statement of the queue's own. Its text varies, so it is not worth preparing.
fn query<DB: Backend>(sql: String, arguments: Vec<Option<String>>) -> Result<WatchedQuery<DB>, sqlx::Error> {
    WatchedQuery::with_values(sql, arguments.into_iter().map(Value::Text))
}

/// The columns of a [`JobRow`].
pub(super) const JOB: &str = "id, token, priority, attempts, max_attempts, due_at, payload, last_error";

/// A job as it is in its table.
#[doc(hidden)]
#[derive(Debug)]
pub struct JobRow {
    pub id: i64,
    pub token: i64,
    pub priority: i16,
    pub attempts: i32,
    pub max_attempts: i32,
    pub due_at: Option<i64>,
    pub payload: String,
    pub last_error: Option<String>,
}

/// What became of an insert.
#[doc(hidden)]
#[derive(Debug)]
pub struct Inserted {
    pub rows: u64,
    /// The id, where it was one row.
    pub id: Option<i64>,
}

impl Inserted {
    /// One row with this id, or none.
    #[cfg(feature = "postgres")]
    pub(super) fn one(id: Option<i64>) -> Self {
        Self { rows: u64::from(id.is_some()), id }
    }
}

/// The condition that nobody has extended the lease of a job beyond now.
///
/// A subquery and not a join, so that the rows are still met in the order of the index: the lock must fall on
/// those that are answered, and on no others.
pub(super) fn no_lease<DB: Dialect>() -> String {
    format!(
        "COALESCE((SELECT lease.until FROM atomically_job_lease AS lease \
         WHERE lease.job_id = atomically_job.id AND lease.token = atomically_job.token), 0) <= {}",
        DB::NOW
    )
}
