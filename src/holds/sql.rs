//! The statements for holds.
//!
//! Each database has one [`HoldSql`], in a file of its own. The code that runs the statements is shared.
//!
//! A hold has one row of `atomically_hold` for each row from which it has taken an amount, and all of them
//! change together. The statements name the table without a prefix, which is added where they are sent.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};

use rand::{Rng, RngExt as _};

use crate::backend::{Backend, required};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};
use crate::schema::Schema;
use crate::sql_text::Syntax;
use crate::tx::Tx;

mod mysql;
mod postgres;
mod sqlite;
mod statement;

use statement::Statement;

/// How many holds one transaction gives back or purges.
pub(super) const MAX_HOLDS: usize = 500;

/// The statements of one database.
pub(super) struct HoldSql {
    /// The time of the statement, in microseconds since 1970.
    now: &'static str,
    /// The time at which a row is read, after the wait for its lock, in microseconds since 1970.
    pub(super) clock: &'static str,
    /// Ends a SELECT that locks its rows.
    lock: &'static str,
    /// Ends a SELECT that locks its rows, except for those that another transaction has locked.
    lock_free: &'static str,
}

/// How holds of one column are found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Records<'a> {
    /// The table, its key and the column.
    pub(super) target: &'a str,
    /// The names of the tables.
    pub(super) schema: Schema,
}

/// What identifies a hold: its id, and the token that proves who holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HoldId {
    pub(super) id: i64,
    pub(super) token: i64,
}

/// The next id of this process. The first one is random, and the others follow it, so that new holds are
/// stored side by side in the index: with random ids, each batch would change another page of it.
static NEXT_ID: LazyLock<AtomicI64> =
    LazyLock::new(|| AtomicI64::new(rand::rng().random_range(1..=i64::MAX >> 1)));

impl HoldId {
    /// Returns an id that no other hold has, and a random token.
    pub(super) fn new() -> Self {
        Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), token: token(&mut rand::rng()) }
    }

    /// Returns the first of some ids that follow one another, and a token for each.
    pub(super) fn batch(count: usize) -> (i64, Vec<i64>) {
        let first = NEXT_ID.fetch_add(count as i64, Ordering::Relaxed);
        let mut random = rand::rng();
        (first, (0..count).map(|_| token(&mut random)).collect())
    }
}

fn token(random: &mut impl Rng) -> i64 {
    random.random_range(1..=i64::MAX)
}

/// A hold to be stored.
#[derive(Debug)]
pub(super) struct NewHold {
    pub(super) id: HoldId,
    /// The keys of the rows, and the amounts.
    pub(super) parts: Vec<(String, i64)>,
    pub(super) expires_at: i64,
}

/// One row of a hold that is stored.
#[derive(Debug)]
pub(super) struct HoldPart {
    pub(super) id: i64,
    pub(super) row_key: String,
    pub(super) amount: i64,
}

impl HoldSql {
    pub(super) fn of<DB: Backend>() -> &'static Self {
        match DB::SYNTAX {
            Syntax::MySql => &mysql::SQL,
            Syntax::Postgres => &postgres::SQL,
            Syntax::Sqlite => &sqlite::SQL,
        }
    }

    /// Stores holds: at the commit, if values may be written into its text.
    pub(super) async fn insert<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        records: Records<'_>,
        holds: &[NewHold],
        shares_texts: bool,
    ) -> Result<(), sqlx::Error> {
        let head =
            "INSERT INTO atomically_hold (id, part, token, target, row_key, amount, expires_at) VALUES ";
        let (mut insert, mut is_first) = (Statement::<DB>::new(head), true);
        for NewHold { id: HoldId { id, token }, parts, expires_at } in holds {
            for (part, (row_key, amount)) in parts.iter().enumerate() {
                insert = insert.sql(if is_first { "" } else { ", " });
                is_first = false;
                insert = insert.sql(format!("({id}, {part}, {token}, ")).text(records.target)?;
                insert = insert.sql(", ").text(row_key)?.sql(format!(", {amount}, {expires_at})"));
            }
        }
        insert.at_commit(tx, records.schema, shares_texts).await
    }

    /// Returns when a hold expires or expired; `None` if there is no such hold, active or confirmed.
    pub(super) async fn expiry<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        records: Records<'_>,
        HoldId { id, token }: HoldId,
    ) -> Result<Option<i64>, sqlx::Error> {
        let select = "SELECT expires_at FROM atomically_hold WHERE";
        let select = Statement::<DB>::new(format!("{select} id = {id} AND token = {token} AND target = "));
        let rows =
            select.text(records.target)?.sql(" ORDER BY part LIMIT 1").rows(tx, records.schema).await?;
        rows.first().map_or(Ok(None), |row| DB::integer(row, 0))
    }

    /// Confirms a hold that is active and has not expired. Returns whether it did.
    pub(super) async fn confirm<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        records: Records<'_>,
        HoldId { id, token }: HoldId,
    ) -> Result<bool, sqlx::Error> {
        let now = self.now;
        let update = Statement::<DB>::new(format!(
            "UPDATE atomically_hold SET confirmed_at = {now} \
             WHERE id = {id} AND token = {token} AND confirmed_at IS NULL AND expires_at > {now}"
        ));
        Ok(update.execute(tx, records.schema).await? > 0)
    }

    /// Waits for the transaction that confirms or releases a hold, if there is one, and returns whether the
    /// hold is confirmed.
    pub(super) async fn is_confirmed<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        records: Records<'_>,
        HoldId { id, token }: HoldId,
    ) -> Result<bool, sqlx::Error> {
        // The lock is requested whatever `confirmed_at` is: a server does not wait for a row whose last
        // committed version does not match, and a snapshot of the unit might not have the confirmation.
        let select = Statement::<DB>::new(format!(
            "SELECT confirmed_at FROM atomically_hold WHERE id = {id} AND token = {token} ORDER BY part{}",
            self.lock
        ));
        let rows = select.rows(tx, records.schema).await?;
        rows.first().map_or(Ok(false), |row| Ok(DB::integer(row, 0)?.is_some()))
    }

    /// Locks and returns the rows of a hold that is active, even if it has expired.
    pub(super) async fn lock_active<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        records: Records<'_>,
        HoldId { id, token }: HoldId,
    ) -> Result<Vec<HoldPart>, sqlx::Error> {
        let select = Statement::<DB>::new(format!(
            "SELECT id, row_key, amount FROM atomically_hold \
             WHERE id = {id} AND token = {token} AND confirmed_at IS NULL ORDER BY part{}",
            self.lock
        ));
        parts::<DB>(&select.rows(tx, records.schema).await?)
    }

    /// Returns the ids of at most [`MAX_HOLDS`] active holds that have expired, of any row or of these,
    /// without the first `kept` ones. A hold of several rows may be returned several times, and counts as
    /// often for both numbers.
    pub(super) async fn expired<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        records: Records<'_>,
        row_keys: &[String],
        kept: usize,
    ) -> Result<Vec<i64>, sqlx::Error> {
        let now = self.now;
        let mut select = Statement::<DB>::new(format!(
            "SELECT id FROM atomically_hold WHERE confirmed_at IS NULL AND expires_at <= {now} AND target = "
        ))
        .text(records.target)?;
        for (i, row_key) in row_keys.iter().enumerate() {
            select = select.sql(if i == 0 { " AND row_key IN (" } else { ", " }).text(row_key)?;
        }
        let close = if row_keys.is_empty() { "" } else { ")" };
        let mut select = select.sql(format!("{close} ORDER BY expires_at LIMIT {MAX_HOLDS}"));
        if kept > 0 {
            select = select.sql(format!(" OFFSET {kept}"));
        }
        let rows = select.rows(tx, records.schema).await?;
        rows.iter().map(|row| required(DB::integer(row, 0)?, 0)).collect()
    }

    /// Returns all rows of these holds, without a lock.
    pub(super) async fn parts<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        records: Records<'_>,
        ids: &[i64],
    ) -> Result<Vec<HoldPart>, sqlx::Error> {
        let list = list(ids);
        let select = Statement::<DB>::new(format!(
            "SELECT id, row_key, amount FROM atomically_hold WHERE id IN ({list})"
        ));
        parts::<DB>(&select.rows(tx, records.schema).await?)
    }

    /// Locks and returns the rows of these holds that are active and have expired. Holds that another
    /// transaction has locked are about to end, and are left out.
    pub(super) async fn lock_expired<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        records: Records<'_>,
        ids: &[i64],
    ) -> Result<Vec<HoldPart>, sqlx::Error> {
        let (list, now, lock) = (list(ids), self.now, self.lock_free);
        let select = Statement::<DB>::new(format!(
            "SELECT id, row_key, amount FROM atomically_hold \
             WHERE id IN ({list}) AND confirmed_at IS NULL AND expires_at <= {now} ORDER BY id, part{lock}"
        ));
        parts::<DB>(&select.rows(tx, records.schema).await?)
    }

    /// Deletes holds whose rows are locked.
    pub(super) async fn delete<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        records: Records<'_>,
        locked: &[HoldPart],
    ) -> Result<(), Error> {
        let ids: Vec<i64> = locked.iter().map(|part| part.id).collect();
        let delete =
            Statement::<DB>::new(format!("DELETE FROM atomically_hold WHERE id IN ({})", list(&ids)));
        let deleted = delete.execute(tx, records.schema).await?;
        if deleted == locked.len() as u64 {
            return Ok(());
        }
        let message = format!(
            "{} rows of atomically_hold were locked to be deleted, and {deleted} were: is there a trigger or \
             a policy?",
            locked.len()
        );
        Err(Error::failed(Failure::new(FailureKind::Aborted, message), None))
    }

    /// Deletes records of at most `limit` holds, of this column or of all, that were confirmed this many
    /// microseconds ago. Returns the number of rows.
    pub(super) async fn purge<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        schema: Schema,
        target: Option<&str>,
        age: i64,
        limit: usize,
    ) -> Result<u64, sqlx::Error> {
        let select = format!("SELECT id FROM atomically_hold WHERE confirmed_at <= {} - {age}", self.now);
        let mut select = Statement::<DB>::new(select);
        if let Some(target) = target {
            select = select.sql(" AND target = ").text(target)?;
        }
        let rows = select.sql(format!(" ORDER BY confirmed_at LIMIT {limit}")).rows(tx, schema).await?;
        let ids = rows.iter().map(|row| required(DB::integer(row, 0)?, 0));
        let ids: Vec<i64> = ids.collect::<Result<_, sqlx::Error>>()?;
        if ids.is_empty() {
            return Ok(0);
        }
        let delete =
            Statement::<DB>::new(format!("DELETE FROM atomically_hold WHERE id IN ({})", list(&ids)));
        delete.execute(tx, schema).await
    }
}

fn parts<DB: Backend>(rows: &[DB::Row]) -> Result<Vec<HoldPart>, sqlx::Error> {
    let part = |row: &DB::Row| {
        Ok(HoldPart {
            id: required(DB::integer(row, 0)?, 0)?,
            row_key: required(DB::text(row, 1)?, 1)?,
            amount: required(DB::integer(row, 2)?, 2)?,
        })
    };
    rows.iter().map(part).collect()
}

/// Returns ids without duplicates, in their order.
fn list(ids: &[i64]) -> String {
    let ids: std::collections::BTreeSet<_> = ids.iter().collect();
    ids.into_iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}
