//! Locks that a unit asks for by itself, whatever the strategy.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::time::Duration;

use sqlx::{Arguments as _, AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::backend::{Backend, Key, SnapshotAge, WatchedQuery};
use crate::digest::digest;
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::intercept::StatementAnswer;
use crate::isolation::Begin;
use crate::row_lock::RowLock;
use crate::sql_text::with_lock_clause;

use super::Tx;
use super::executor::{Reading, watch};

/// The largest number of keys in one statement. Servers take 65 535 values, SQLite 32 766.
const MAX_KEYS: usize = 32_000;

/// What a blocking advisory lock waits for where nothing else limits it.
const MAX_WAIT: Duration = Duration::from_secs(60 * 60);

/// # Locks
impl<DB: Backend> Tx<DB> {
    /// The text of a `SELECT`, with the lock that the strategy takes on rows that are read in order to be
    /// changed.
    ///
    /// Under [`Pessimistic`](crate::Pessimistic) that is `FOR NO KEY UPDATE` on PostgreSQL and `FOR UPDATE`
    /// on MySQL and MariaDB, put behind the last word of the text; elsewhere, and on SQLite, the text is
    /// unchanged.
    ///
    /// # Texts that cannot be locked
    ///
    /// Servers accept a lock clause behind some texts and then lock nothing. Such a text is refused, under
    /// every strategy alike: the transaction ends with an [`Unsupported`](crate::ErrorKind::Unsupported)
    /// error that names the reason, which the next statement returns, so nothing is read without the lock.
    /// Refused are:
    ///
    /// - what is not one `SELECT`, or has a lock clause of its own, `INTO`, or no table to read from;
    /// - `UNION`, `INTERSECT`, `EXCEPT`, `DISTINCT` and `GROUP BY`; on PostgreSQL all aggregates, window
    ///   functions, `HAVING` and set-returning functions, on MySQL and MariaDB `MIN` and `MAX`, which look at
    ///   one row of many;
    /// - `WITH`, a subquery in the select list, outer joins on PostgreSQL, and subqueries in `FROM` on MySQL
    ///   and MariaDB, unless the lock [names a table](RowLock::of);
    /// - executable comments (`/*! … */`) on MySQL and MariaDB.
    ///
    /// On SQLite, which has no row locks, only what is no single `SELECT` or has a lock clause.
    ///
    /// # What a text does not tell
    ///
    /// A subquery in `WHERE` is read, and its rows are not locked. A view is locked as far as the database
    /// reaches through it: not where its definition has a `WITH` (PostgreSQL) or is materialized for each
    /// query (MySQL, MariaDB). Tables without transactions (MyISAM, Aria) have no row locks.
    pub fn for_update(&self, sql: impl SqlSafeStr) -> SqlStr {
        let sql = sql.into_sql_str();
        match locked::<DB>(self.closing.plan.row_lock, &sql) {
            Ok(Some(locked)) => AssertSqlSafe(locked).into_sql_str(),
            Ok(None) => sql,
            Err(failure) => {
                self.state.refuse_lock(failure);
                sql
            }
        }
    }

    /// The text of a `SELECT`, with a lock of your choice on the rows it returns, whatever the strategy.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a [text that cannot be
    /// locked](Self::for_update), and on SQLite, which has no row locks.
    pub fn locking(&self, lock: RowLock, sql: impl SqlSafeStr) -> Result<SqlStr, Error> {
        if DB::lock_clause(lock).is_none() {
            return Err(unsupported::<DB>("row locks"));
        }
        let sql = sql.into_sql_str();
        let locked = locked::<DB>(Some(lock), &sql).map_err(|failure| Error::failed(failure, None))?;
        Ok(locked.map_or(sql, |locked| AssertSqlSafe(locked).into_sql_str()))
    }

    /// Locks the rows with these keys, all of them in one order, and answers which keys no row has.
    ///
    /// ```
    /// # use atomically::{Error, Pessimistic, TransactorExt as _};
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), Error> {
    /// # let (from, to) = (2_i64, 1_i64);
    /// # Pessimistic::default().on(&pool).run(async |tx| {
    /// let missing = tx.lock_rows("account", "id", &[from, to]).await?;
    /// assert!(missing.is_empty(), "no such account: {missing:?}");
    /// # Ok::<_, Error>(()) }).await }
    /// ```
    ///
    /// Units that each lock what they need as they go, in whatever order they come across it, deadlock: one
    /// holds the first row and waits for the second, another one the other way round. Units that lock all of
    /// it here first, do not: keys are sorted, duplicates left out, and one statement locks them in the order
    /// of the column.
    ///
    /// More than 32 000 keys take several statements, one after the other in Rust's order of the keys. Where
    /// the column is text and its collation has another order, such a call can still deadlock with another
    /// one.
    ///
    /// `table` and `column` go into the statement as they are; quote them where your database asks for it.
    /// Taken is [`RowLock::NO_KEY_UPDATE`], or what the strategy takes. Text keys are compared as the
    /// database compares them, but reported as missing by Rust's equality.
    ///
    /// SQLite locks the database as a whole: under a plan that opens with `BEGIN IMMEDIATE` that has
    /// happened, and the keys are only looked up.
    ///
    /// # Errors
    ///
    /// The database's; [`Unsupported`](crate::ErrorKind::Unsupported) on SQLite in a deferred transaction.
    pub async fn lock_rows<K: Key<DB>>(
        &mut self,
        table: &'static str,
        column: &'static str,
        keys: &[K],
    ) -> Result<Vec<K>, Error> {
        let plan = self.closing.plan;
        // There is one table, whatever the strategy's lock names.
        let lock = RowLock { table: None, ..plan.row_lock.unwrap_or(RowLock::NO_KEY_UPDATE) };
        let clause = DB::lock_clause(lock);
        let all_is_locked = match plan.begin {
            Some(begin) => begin != Begin::Deferred,
            None => plan.row_lock.is_some(),
        };
        if clause.is_none() && !all_is_locked {
            return Err(unsupported::<DB>(
                "row locks, and this transaction was opened without BEGIN IMMEDIATE",
            ));
        }
        let mut missing: BTreeSet<K> = keys.iter().cloned().collect();
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let sorted: Vec<K> = missing.iter().cloned().collect();
        for keys in sorted.chunks(MAX_KEYS) {
            let query = select_keys::<DB, K>(table, column, keys, clause.as_deref());
            let reading = Reading {
                told: |found: &Vec<K>| StatementAnswer {
                    rows_read: found.len(),
                    ..StatementAnswer::default()
                },
                is_nothing: Vec::is_empty,
            };
            let found =
                watch(self.parts(), query, reading, |connection, query| DB::fetch_column(connection, query));
            for key in &found.await? {
                missing.remove(key);
            }
        }
        Ok(missing.into_iter().collect())
    }

    /// Takes a lock on something that is no row, and holds it until the transaction ends: a name, a tenant, a
    /// day.
    ///
    /// Any hashable key will do. It is turned into 64 bits in a way that is the same in every process and on
    /// every machine, as long as the key's type hashes the same; two keys that come out alike only wait for
    /// each other.
    ///
    /// # Snapshots
    ///
    /// The lock protects what is read after it was granted. A transaction at REPEATABLE READ reads from a
    /// snapshot, which may be older than the lock, and two units that lock, count and insert would get the
    /// same number. So at REPEATABLE READ the lock is refused as
    /// [`Unsupported`](crate::ErrorKind::Unsupported): on PostgreSQL always, because the snapshot is taken
    /// before the lock is waited for; on MySQL and MariaDB when a statement ran before it. At READ COMMITTED,
    /// which is the level of all shipped strategies but one, each statement has a snapshot of its own; at
    /// SERIALIZABLE, a unit that read too early runs again.
    ///
    /// # Errors
    ///
    /// A lock timeout, when the limit of the transaction for waits passes. SQLite has no such locks:
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    ///
    /// # Cancellation
    ///
    /// The transaction is over, and its connection and the lock with it.
    pub async fn advisory_lock(&mut self, key: impl Hash + Send) -> Result<(), Error> {
        let wait = self.closing.limits.on_locks().unwrap_or(MAX_WAIT);
        if self.take_advisory_lock(digest(&key), Some(wait)).await? {
            return Ok(());
        }
        let failure = Failure::new(FailureKind::LockTimeout, "an advisory lock was not granted in time")
            .retryable(true);
        self.state.end(failure.clone());
        Err(Error::failed(failure, None))
    }

    /// The same without waiting: answers whether the lock was free and is now held.
    ///
    /// # Errors
    ///
    /// As those of [`advisory_lock`](Self::advisory_lock), but for the timeout.
    pub async fn try_advisory_lock(&mut self, key: impl Hash + Send) -> Result<bool, Error> {
        self.take_advisory_lock(digest(&key), None).await
    }

    /// An advisory lock is no use to a transaction that goes on to read what was committed before.
    fn protects_reads(&self) -> Result<(), Error> {
        let (databases, isolation) = (DB::SYNTAX.databases(), self.closing.plan.isolation);
        let message = match DB::snapshot_age(isolation) {
            SnapshotAge::Older => format!(
                "an advisory lock does not protect what is read at {isolation} on {databases}: the snapshot is taken \
                 before the lock is waited for; run the unit at READ COMMITTED or SERIALIZABLE"
            ),
            SnapshotAge::FirstStatement if self.state.has_sent() => format!(
                "an advisory lock does not protect what is read at {isolation} on {databases} when other statements \
                 ran before it: the snapshot may be older than the lock; take the lock first, or run the unit at READ \
                 COMMITTED"
            ),
            SnapshotAge::FirstStatement | SnapshotAge::Younger => return Ok(()),
        };
        Err(Error::failed(Failure::new(FailureKind::Unsupported, message), None))
    }

    async fn take_advisory_lock(&mut self, key: u64, wait: Option<Duration>) -> Result<bool, Error> {
        // MySQL counts how often a session takes one, and wants it given back as often.
        if self.closing.advisory_locks.contains(&key) {
            return Ok(true);
        }
        let sql = DB::advisory_lock(key, wait).ok_or_else(|| unsupported::<DB>("advisory locks"))?;
        self.protects_reads()?;
        let taken = self.control(sql).await?.first() == Some(&1);
        if taken {
            self.closing.advisory_locks.push(key);
        }
        Ok(taken)
    }
}

/// The statement that looks for the rows with these keys, and locks them where there is a clause for it.
fn select_keys<DB: Backend, K: Key<DB>>(
    table: &str,
    column: &str,
    keys: &[K],
    lock_clause: Option<&str>,
) -> Result<WatchedQuery<DB>, sqlx::Error> {
    let mut arguments = DB::Arguments::default();
    let mut placeholders = Vec::with_capacity(keys.len());
    for (i, key) in keys.iter().enumerate() {
        arguments.add(key).map_err(sqlx::Error::Encode)?;
        placeholders.push(DB::placeholder(i + 1));
    }
    let placeholders = placeholders.join(", ");
    let mut select =
        format!("SELECT {column} FROM {table} WHERE {column} IN ({placeholders}) ORDER BY {column}");
    if let Some(clause) = lock_clause {
        select.push(' ');
        select.push_str(clause);
    }
    Ok(WatchedQuery::with_arguments(AssertSqlSafe(select).into_sql_str(), arguments))
}

/// The text with a lock on the rows that it reads; `None` where it stays as it is.
fn locked<DB: Backend>(lock: Option<RowLock>, sql: &SqlStr) -> Result<Option<String>, Failure> {
    let clause = lock.and_then(DB::lock_clause);
    let table = lock.and_then(|lock| lock.table);
    with_lock_clause(DB::SYNTAX, sql.as_str(), table, clause.as_deref())
        .map_err(|obstacle| Failure::new(FailureKind::Unsupported, obstacle.explain(DB::SYNTAX)))
}

fn unsupported<DB: Backend>(what: &str) -> Error {
    Error::failed(Failure::unsupported(DB::NAME, what), None)
}
