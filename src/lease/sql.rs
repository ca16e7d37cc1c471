//! The statements for leases.
//!
//! Each database has one [`LeaseSql`], in a file of its own. The code that runs the statements is shared.
//! They name the tables without a prefix, which is added where they are sent.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::backend::{Backend, Capability, WatchedQuery, required};
use crate::schema::Schema;
use crate::sql_text::Syntax;
use crate::tx::Tx;

mod mysql;
mod postgres;
mod sqlite;

/// The statements of one database.
///
/// A lease has two rows. The token changes only when the lease changes hands, and the expiry changes at each
/// renewal. So a transaction that has locked the token, until it commits, delays a successor and no renewal.
pub(super) struct LeaseSql {
    /// The time of the statement, in microseconds since 1970.
    now: &'static str,
    /// Whether `now` is the clock of this machine in milliseconds, which two holders can share.
    has_coarse_local_clock: bool,
    /// INSERT that skips a row that exists, in two parts around the table, columns and values.
    insert_missing: (&'static str, &'static str),
    /// Ends an INSERT INTO `atomically_lease_expiry`, which then replaces the row that exists.
    replace_expiry: &'static str,
    /// Ends a SELECT whose row must not change until the transaction ends.
    share_lock: &'static str,
}

/// What the statements need to know of a lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseTerms<'a> {
    pub(super) name: &'a str,
    pub(super) ttl: Duration,
    /// The names of the tables.
    pub(super) schema: Schema,
}

/// The row of a lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseRow {
    /// The time of the database, in microseconds since 1970.
    now: i64,
    /// `None` if the lease has never been held.
    token: Option<i64>,
    until: i64,
}

impl LeaseRow {
    /// Returns how long the lease is still held; zero if it is free.
    pub(super) fn remaining(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.until - self.now).unwrap_or_default())
    }
}

/// Returns the time of this process, in microseconds since 1970.
fn local_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or_default()
}

impl LeaseSql {
    pub(super) fn of<DB: Backend>() -> &'static Self {
        match DB::SYNTAX {
            Syntax::MySql => &mysql::SQL,
            Syntax::Postgres => &postgres::SQL,
            Syntax::Sqlite => &sqlite::SQL,
        }
    }

    /// Reads the row of a lease.
    pub(super) async fn read<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        lease: LeaseTerms<'_>,
    ) -> Result<LeaseRow, sqlx::Error> {
        let (name, now) = (lease.name, self.now);
        let sql = format!(
            "SELECT {now}, l.token, e.until FROM (SELECT 1 AS one) AS one \
             LEFT JOIN atomically_lease AS l ON l.name = '{name}' \
             LEFT JOIN atomically_lease_expiry AS e ON e.name = l.name AND e.token = l.token"
        );
        let rows = fetch(tx, lease, sql).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(LeaseRow {
            now: required(DB::integer(row, 0)?, 0)?,
            token: DB::integer(row, 1)?,
            until: DB::integer(row, 2)?.unwrap_or_default(),
        })
    }

    /// Returns the token of the next holder. It is the time, so that tokens grow even if a row was deleted
    /// in between.
    fn next_token(&self, row: LeaseRow) -> i64 {
        match row.token {
            Some(last) => row.now.max(last + 1),
            None if self.has_coarse_local_clock => row.now.max(local_micros()),
            None => row.now,
        }
    }

    /// Gives a free lease to a new holder, and returns its token; `None` if another caller was faster.
    pub(super) async fn take<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        lease: LeaseTerms<'_>,
        row: LeaseRow,
    ) -> Result<Option<i64>, sqlx::Error> {
        let (name, token) = (lease.name, self.next_token(row));
        let take = match row.token {
            Some(last) => {
                format!(
                    "UPDATE atomically_lease SET token = {token} WHERE name = '{name}' AND token = {last}"
                )
            }
            None => {
                let (insert, skip) = self.insert_missing;
                format!("{insert} INTO atomically_lease (name, token) VALUES ('{name}', {token}){skip}")
            }
        };
        if execute(tx, lease, take).await? == 0 {
            return Ok(None);
        }
        let (until, replace) = (self.until(lease.ttl), self.replace_expiry);
        let expiry = format!(
            "INSERT INTO atomically_lease_expiry (name, token, until) \
             VALUES ('{name}', {token}, {until}) {replace}"
        );
        execute(tx, lease, expiry).await?;
        Ok(Some(token))
    }

    /// Extends a lease that has not expired. Returns whether it did.
    pub(super) async fn renew<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        lease: LeaseTerms<'_>,
        token: i64,
    ) -> Result<bool, sqlx::Error> {
        let (name, until, now) = (lease.name, self.until(lease.ttl), self.now);
        let sql = format!(
            "UPDATE atomically_lease_expiry SET until = {until} \
             WHERE name = '{name}' AND token = {token} AND until > {now}"
        );
        Ok(execute(tx, lease, sql).await? > 0)
    }

    /// Ends a lease, and then runs `after`. Does nothing if it has another holder.
    pub(super) async fn release<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        lease: LeaseTerms<'_>,
        token: i64,
        after: Option<&str>,
    ) -> Result<(), sqlx::Error> {
        let name = lease.name;
        let sql =
            format!("UPDATE atomically_lease_expiry SET until = 0 WHERE name = '{name}' AND token = {token}");
        if execute(tx, lease, sql).await? > 0
            && let Some(after) = after
            && !tx.engine().lacks(Capability::ListenNotify)
        {
            tx.fetch_rows(WatchedQuery::with_values(after.to_owned(), [])?).await?;
        }
        Ok(())
    }

    /// Keeps the lease from changing hands until the transaction ends. Returns whether the token is still
    /// that of the lease.
    ///
    /// On Galera a lock is unknown to the other nodes. There the row is changed, so that one of two
    /// transactions fails at COMMIT.
    pub(super) async fn pin<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        lease: LeaseTerms<'_>,
        token: i64,
    ) -> Result<bool, sqlx::Error> {
        let name = lease.name;
        let row = format!("WHERE name = '{name}' AND token = {token}");
        if !tx.engine().has(Capability::LocksCrossNodes) {
            let change = format!("UPDATE atomically_lease SET pins = pins + 1 {row}");
            return Ok(execute(tx, lease, change).await? > 0);
        }
        let sql = format!("SELECT token FROM atomically_lease {row}{}", self.share_lock);
        Ok(!fetch(tx, lease, sql).await?.is_empty())
    }

    fn until(&self, ttl: Duration) -> String {
        format!("{} + {}", self.now, ttl.as_micros())
    }
}

async fn execute<DB: Backend>(
    tx: &mut Tx<DB>,
    lease: LeaseTerms<'_>,
    sql: String,
) -> Result<u64, sqlx::Error> {
    tx.execute_query(query(tx, lease, sql)?).await
}

async fn fetch<DB: Backend>(
    tx: &mut Tx<DB>,
    lease: LeaseTerms<'_>,
    sql: String,
) -> Result<Vec<DB::Row>, sqlx::Error> {
    tx.fetch_rows(query(tx, lease, sql)?).await
}

fn query<DB: Backend>(
    tx: &Tx<DB>,
    lease: LeaseTerms<'_>,
    sql: String,
) -> Result<WatchedQuery<DB>, sqlx::Error> {
    WatchedQuery::with_values(tx.engine().in_sql(lease.schema.in_sql(sql)), [])
}
