//! Row locks and advisory locks that a unit acquires explicitly.

use std::hash::Hash;
use std::time::Duration;

use sqlx::{Arguments as _, AssertSqlSafe, SqlSafeStr, SqlStr, TypeInfo as _};

use crate::backend::{Backend, Capability, Engine, Key, SnapshotAge, WatchedQuery};
use crate::digest::digest;
use crate::error::{Error, ErrorKind};
use crate::failure::{Failure, FailureKind};
use crate::intercept::StatementAnswer;
use crate::isolation::Begin;
use crate::row_lock::RowLock;
use crate::sql_text::with_lock_clause;

use super::Tx;
use super::executor::{ResultReader, watch};

/// The maximum number of keys in one statement. The limit is 32 766 values on SQLite, and 65 535 on the
/// other databases.
pub(crate) const MAX_KEYS: usize = 32_000;

/// The maximum number of keys in a statement that is kept prepared.
pub(crate) const MAX_KEPT_KEYS: usize = 8;

/// How long to wait for an advisory lock if nothing else limits the wait.
const MAX_WAIT: Duration = Duration::from_secs(60 * 60);

/// # Locks
impl<DB: Backend> Tx<DB> {
    /// Adds the strategy's row lock to a `SELECT` whose rows the unit is going to change, and returns the
    /// text.
    ///
    /// Under [`Pessimistic`](crate::Pessimistic) the lock is `FOR NO KEY UPDATE` on PostgreSQL and
    /// `FOR UPDATE` on MySQL and MariaDB, appended to the text. Under the other strategies, and on SQLite,
    /// the text is returned unchanged.
    ///
    /// # Texts that cannot be locked
    ///
    /// Servers accept a lock clause on some texts without locking anything. Under every strategy, such a text
    /// ends the transaction with an [`Unsupported`](crate::ErrorKind::Unsupported) error that names the
    /// reason. The next statement returns it, so nothing is read without the lock. These texts cannot be
    /// locked:
    ///
    /// - anything but a single `SELECT`, and a `SELECT` that has a lock clause already, `INTO`, or no
    ///   table;
    /// - `UNION`, `INTERSECT`, `EXCEPT`, `DISTINCT` and `GROUP BY`; on PostgreSQL also aggregates, window
    ///   functions, `HAVING` and set-returning functions; on MySQL and MariaDB also `MIN` and `MAX`, which
    ///   read one row of many;
    /// - `WITH`, a subquery in the select list, outer joins on PostgreSQL, and subqueries in `FROM` on MySQL
    ///   and MariaDB, unless the lock [names a table](RowLock::of);
    /// - executable comments (`/*! … */`) on MySQL and MariaDB.
    ///
    /// On SQLite, which has no row locks, only texts that are not a single `SELECT` or that have a lock
    /// clause are refused.
    ///
    /// # Rows that are not locked
    ///
    /// The rows of a subquery in `WHERE` are read without a lock. A view is locked unless its definition
    /// has a `WITH` (PostgreSQL) or is materialized for each query (MySQL, MariaDB). Tables without
    /// transactions (MyISAM, Aria) have no row locks.
    pub fn for_update(&self, sql: impl SqlSafeStr) -> SqlStr {
        let sql = sql.into_sql_str();
        match locked::<DB>(&self.closing.engine, self.closing.plan.row_lock, &sql) {
            Ok(Some(locked)) => AssertSqlSafe(locked).into_sql_str(),
            Ok(None) => sql,
            Err(failure) => {
                self.state.refuse_lock(failure);
                sql
            }
        }
    }

    /// Returns the row lock of [`for_update`](Self::for_update).
    #[cfg(feature = "sea-orm")]
    pub(crate) fn planned_lock(&self) -> Option<RowLock> {
        self.closing.plan.row_lock.map(|lock| self.closing.engine.available_lock(lock))
    }

    /// Adds a row lock of your choice to a `SELECT`, under any strategy, and returns the text.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a [text that cannot be
    /// locked](Self::for_update), for a lock that the [engine](crate::Engine) lacks, and on SQLite, which has
    /// no row locks.
    pub fn locking(&self, lock: RowLock, sql: impl SqlSafeStr) -> Result<SqlStr, Error> {
        if !DB::HAS_ROW_LOCKS {
            return Err(unsupported::<DB>("row locks"));
        }
        let sql = sql.into_sql_str();
        let locked = locked::<DB>(&self.closing.engine, Some(lock), &sql)
            .map_err(|failure| Error::failed(failure, None))?;
        Ok(locked.map_or(sql, |locked| AssertSqlSafe(locked).into_sql_str()))
    }

    /// Locks the rows with these keys in one fixed order, and returns the keys that no row has.
    ///
    /// ```
    /// # use atomically::{Error, Pessimistic, TransactorExt as _};
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), Error> {
    /// # let (from, to) = (2_i64, 1_i64);
    /// # Pessimistic::default().on(&pool).run(async |tx| -> Result<_, Error> {
    /// let missing = tx.lock_rows("account", "id", &[from, to]).await?;
    /// assert!(missing.is_empty(), "no such account: {missing:?}");
    /// # Ok(()) }).await }
    /// ```
    ///
    /// Units that lock rows one by one, as they need them, can deadlock: one holds the first row and waits
    /// for the second, while another holds the second and waits for the first. Units that first lock all
    /// their rows with this method do not: the keys are sorted, duplicates are removed, and one statement
    /// locks the rows in the order of the column.
    ///
    /// More than 32 000 keys take several statements, in Rust's order of the keys. If the column is text
    /// and its collation has a different order, such a call can still deadlock with another one.
    ///
    /// `table` and `column` become part of the statement as they are; quote them if your database requires
    /// it. The lock is [`RowLock::NO_KEY_UPDATE`] or the strategy's. The database compares text keys by its
    /// collation, but a key counts as missing unless a row's key equals it in Rust.
    ///
    /// # The type of the keys
    ///
    /// It has to be the one that the driver decodes from the column: `i64` for BIGINT, `i32` for INTEGER. A
    /// different type is an error that names the table, the column and the type. PostgreSQL refuses to
    /// compare types that have no common operator. MySQL, MariaDB and SQLite convert one of the two, so
    /// rows may be locked (MySQL and MariaDB: with a full scan of the table) before the error is raised,
    /// when the first row is decoded. If no row matches after the conversion, there is no error, and all
    /// keys are missing.
    ///
    /// SQLite locks the whole database. If the plan opens with `BEGIN IMMEDIATE`, the database is already
    /// locked, and the keys are only looked up.
    ///
    /// # Errors
    ///
    /// Returns database errors, and [`Unsupported`](crate::ErrorKind::Unsupported) in a deferred transaction
    /// on SQLite.
    ///
    /// # Cancellation
    ///
    /// Dropping the future while a statement is in flight ends the transaction.
    pub async fn lock_rows<K: Key<DB>>(
        &mut self,
        table: &'static str,
        column: &'static str,
        keys: &[K],
    ) -> Result<Vec<K>, Error> {
        let plan = self.closing.plan;
        // The statement reads one table, so it need not be named.
        let lock = RowLock { table: None, ..plan.row_lock.unwrap_or(RowLock::NO_KEY_UPDATE) };
        let engine = self.closing.engine;
        let clause = DB::lock_clause(&engine, lock).map_err(|failure| Error::failed(failure, None))?;
        let all_is_locked = match plan.begin {
            Some(begin) => begin != Begin::Deferred,
            None => plan.row_lock.is_some(),
        };
        if clause.is_none() && !all_is_locked {
            return Err(unsupported::<DB>(
                "row locks, and this transaction was opened without BEGIN IMMEDIATE",
            ));
        }
        let mut sorted = keys.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut missing = Vec::new();
        // Some engines lock the rows of one key at a time only.
        let most = if engine.has(Capability::LocksOfManyRows) { MAX_KEYS } else { 1 };
        for keys in sorted.chunks(most) {
            // Unprepared, it would cost another round trip. Texts for more keys are rare, and would displace
            // the unit's own statements from the cache.
            let is_kept = keys.len() <= MAX_KEPT_KEYS && self.keeps_statements();
            let query = select_keys::<DB, K>(table, column, column, keys, clause.as_deref());
            let query = query.map(|query| query.persistent_if(is_kept));
            let reader = ResultReader {
                answer: |found: &Vec<K>| StatementAnswer::read(found.len()),
                is_empty: Vec::is_empty,
            };
            let found =
                watch(self.parts(), query, reader, |connection, query| DB::fetch_column(connection, query));
            let mut found = found.await.map_err(|error| explain_key::<DB, K>(error.into(), table, column))?;
            found.sort_unstable();
            missing.extend(keys.iter().filter(|key| found.binary_search(key).is_err()).cloned());
        }
        Ok(missing)
    }

    /// Acquires an advisory lock, which protects something other than a row (a name, a tenant, a day), and
    /// holds it until the transaction ends.
    ///
    /// `key` can be any hashable value. It is hashed to 64 bits. The hash is the same in every process and on
    /// every machine, as long as the `Hash` implementation of its type stays the same. Two keys with the same
    /// hash share a lock.
    ///
    /// # Snapshots
    ///
    /// The lock protects what is read after it was granted. A transaction at REPEATABLE READ reads from a
    /// snapshot that may be older than the lock, so two units that lock, count and insert could both use the
    /// same number. The lock therefore fails at REPEATABLE READ as
    /// [`Unsupported`](crate::ErrorKind::Unsupported): on PostgreSQL always, because the snapshot is taken
    /// before the lock is waited for; on MySQL and MariaDB if a statement ran before it, or if the unit is
    /// read-only and thus has the snapshot [of its
    /// beginning](crate::guide::engines::mariadb#snapshots-under-load) on MariaDB. At READ COMMITTED, the
    /// level of all shipped strategies but one, each statement has a snapshot of its own. At SERIALIZABLE, a
    /// unit that has read too early is retried.
    ///
    /// # Errors
    ///
    /// [`LockTimeout`](crate::ErrorKind::LockTimeout) after the transaction's limit for lock waits;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) on SQLite and on other
    /// [engines](crate::Capability::AdvisoryLocks) that have no advisory locks.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the transaction, which closes its connection and releases the lock.
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

    /// Acquires an advisory lock if it is free, without waiting (TiDB waits for up to a second). Returns
    /// whether the transaction holds it.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`advisory_lock`](Self::advisory_lock), except for the timeout.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the transaction, which closes its connection and releases the lock.
    pub async fn try_advisory_lock(&mut self, key: impl Hash + Send) -> Result<bool, Error> {
        self.take_advisory_lock(digest(&key), None).await
    }

    /// Returns an error if the engine is known to lack a capability that the unit requests. Nothing is sent,
    /// and the transaction stays open.
    pub(crate) fn require(&self, capability: Capability) -> Result<(), Error> {
        self.closing.engine.require(capability).map_err(|failure| Error::failed(failure, None))
    }

    /// Returns an error if the transaction may read what was committed before the lock was granted.
    fn protects_reads(&self) -> Result<(), Error> {
        let (databases, isolation) = (DB::SYNTAX.databases(), self.closing.plan.isolation);
        let message = match DB::snapshot_age(&self.closing.engine, &self.closing.plan) {
            SnapshotAge::Older => format!(
                "an advisory lock does not protect what is read at {isolation} on {databases}: the \
                 snapshot is taken before the lock is waited for; run the unit at READ COMMITTED or \
                 SERIALIZABLE"
            ),
            SnapshotAge::FirstStatement if self.state.has_sent() => format!(
                "an advisory lock does not protect what is read at {isolation} on {databases} when other \
                 statements ran before it: the snapshot may be older than the lock; take the lock first, or \
                 run the unit at READ COMMITTED"
            ),
            SnapshotAge::FirstStatement | SnapshotAge::Younger => return Ok(()),
        };
        Err(Error::failed(Failure::new(FailureKind::Unsupported, message), None))
    }

    async fn take_advisory_lock(&mut self, key: u64, wait: Option<Duration>) -> Result<bool, Error> {
        // MySQL counts how often a session acquires a lock, and it has to be released as often.
        if self.closing.advisory_locks.contains(&key) {
            return Ok(true);
        }
        self.require(Capability::AdvisoryLocks)?;
        let sql = DB::advisory_lock(key, wait);
        self.protects_reads()?;
        let taken = self.control(sql).await?.first() == Some(&1);
        if taken {
            self.closing.advisory_locks.push(key);
        }
        Ok(taken)
    }
}

/// Returns the statement that reads these columns of the rows with the keys, in the order of the keys, and
/// locks the rows if there is a lock clause.
pub(crate) fn select_keys<DB: Backend, K: Key<DB>>(
    table: &str,
    columns: &str,
    column: &str,
    keys: &[K],
    lock_clause: Option<&str>,
) -> Result<WatchedQuery<DB>, sqlx::Error> {
    let mut arguments = DB::Arguments::default();
    let mut select = String::with_capacity(128 + 8 * keys.len());
    for part in ["SELECT ", columns, " FROM ", table, " WHERE ", column, " IN ("] {
        select.push_str(part);
    }
    for (i, key) in keys.iter().enumerate() {
        arguments.add(key).map_err(sqlx::Error::Encode)?;
        if i > 0 {
            select.push_str(", ");
        }
        select.push_str(&DB::placeholder(i + 1));
    }
    for part in [") ORDER BY ", column] {
        select.push_str(part);
    }
    if let Some(clause) = lock_clause {
        select.push(' ');
        select.push_str(clause);
    }
    Ok(WatchedQuery::with_arguments(AssertSqlSafe(select).into_sql_str(), arguments))
}

/// Adds to an error what was compared with what, unless it is about a conflict or the connection.
pub(crate) fn explain_key<DB: Backend, K: Key<DB>>(error: Error, table: &str, column: &str) -> Error {
    if is_about_rows(error.kind()) { error.in_context(&key_context::<DB, K>(table, column)) } else { error }
}

/// Adds to the failure of a query what was compared with what, unless it is about a conflict or the
/// connection.
pub(crate) fn explain_key_failure<DB: Backend, K: Key<DB>>(
    failure: Failure,
    table: &str,
    column: &str,
) -> Failure {
    if is_about_rows(failure.kind().into()) {
        failure.in_context(&key_context::<DB, K>(table, column))
    } else {
        failure
    }
}

const fn is_about_rows(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Database | ErrorKind::Decode | ErrorKind::InvalidInput)
}

fn key_context<DB: Backend, K: Key<DB>>(table: &str, column: &str) -> String {
    let (rust, sql) = (std::any::type_name::<K>(), K::type_info());
    format!(
        "could not lock rows of the table `{table}` by the column `{column}` with keys of the type `{rust}` \
         (SQL type {})",
        sql.name()
    )
}

/// Returns the text with a row lock, or `None` if it needs none.
pub(crate) fn locked<DB: Backend>(
    engine: &Engine,
    lock: Option<RowLock>,
    sql: &SqlStr,
) -> Result<Option<String>, Failure> {
    let clause = lock.map_or(Ok(None), |lock| DB::lock_clause(engine, lock))?;
    let table = lock.and_then(|lock| lock.table);
    with_lock_clause(DB::SYNTAX, sql.as_str(), table, clause.as_deref())
        .map_err(|obstacle| Failure::new(FailureKind::Unsupported, obstacle.explain(DB::SYNTAX)))
}

fn unsupported<DB: Backend>(what: &str) -> Error {
    Error::failed(Failure::unsupported(DB::NAME, what), None)
}
