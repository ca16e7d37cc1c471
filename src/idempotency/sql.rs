//! The statements for keys.
//!
//! Each database has one [`KeySql`], in a file of its own. The code that runs the statements is shared. They
//! name the table without a prefix, which is added where they are sent.

use sqlx::Row as _;

use crate::backend::{Backend, Capability, Value, WatchedQuery, required, whole_seconds};
use crate::sql_text::Syntax;
use crate::tx::Tx;

use super::claimant::Claimant;
use super::key::IdempotencyKey;

mod mysql;
mod postgres;
mod sqlite;

/// The statements of one database.
pub(super) struct KeySql {
    /// Stores a response. Binds the response, the digest and the run.
    pub(super) store_response: &'static str,
    /// Deletes the row of a key. Binds the digest.
    pub(super) release: &'static str,
    /// Deletes up to a thousand rows that have expired.
    pub(super) purge: &'static str,
    /// Whether a connection keeps the prepared statements. Behind a pooler, those of PostgreSQL may be
    /// another client's.
    keeps_statements: bool,
    /// Selects the row of a key, with the columns of [`KeyRow`].
    select: fn(&IdempotencyKey) -> String,
    /// Writes the row of a key. Does nothing, and does not fail, if another run has written it.
    write: fn(&Claimant, &KeyWrite) -> String,
    claiming: Claiming,
}

/// How a key is claimed: its row is written, and then read such that it is found at every isolation level.
enum Claiming {
    /// Both statements are sent in one text, which this function composes.
    OneText(fn(&Claimant, write: String, select: String) -> String),
    /// Each statement is sent in a packet of its own: see
    /// [`Galera`](crate::EngineCluster::Galera).
    OneByOne,
}

impl KeySql {
    pub(super) fn of<DB: Backend>() -> &'static Self {
        match DB::SYNTAX {
            Syntax::MySql => &mysql::SQL,
            Syntax::Postgres => &postgres::SQL,
            Syntax::Sqlite => &sqlite::SQL,
        }
    }

    /// Writes the row of a key if no other run has it, and returns the row that exists afterwards.
    pub(super) async fn claim<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        claimant: &Claimant,
        write: &KeyWrite,
    ) -> Result<KeyFound, sqlx::Error> {
        let (write, select) = ((self.write)(claimant, write), (self.select)(&claimant.terms.key));
        match self.claiming {
            Claiming::OneText(text) => {
                let sql = match tx.engine().has(Capability::ServerLimits) {
                    true => text(claimant, write, select),
                    false => format!("{write}; {select}"),
                };
                Ok(fetch(tx, sql).await?.map_or(KeyFound::Nothing, KeyFound::Row))
            }
            Claiming::OneByOne => claim_one_by_one(tx, claimant, write, select).await,
        }
    }

    /// Returns the row of a key.
    pub(super) async fn find<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        key: &IdempotencyKey,
    ) -> Result<Option<KeyRow>, sqlx::Error> {
        fetch(tx, (self.select)(key)).await
    }

    /// Runs one of the statements with these arguments, and returns how many rows it affected.
    pub(super) async fn change<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        sql: &'static str,
        response: Option<String>,
        bytes: Vec<Vec<u8>>,
    ) -> Result<u64, sqlx::Error> {
        let response = response.map(|text| Value::Text(Some(text)));
        let values = response.into_iter().chain(bytes.into_iter().map(Value::Bytes));
        let query = WatchedQuery::with_values(own_sql(tx, sql.to_owned()), values)?;
        tx.execute_query(query.persistent_if(self.keeps_statements)).await
    }
}

/// Claims a key with each statement in a packet of its own. The row is read with a lock, because the
/// transaction's snapshot may be older than the row. A row that another node wrote is visible only once its
/// transaction is certified, so it is final. If two nodes write the same key, one of them fails at COMMIT.
///
/// MariaDB can limit the wait of one statement. On MySQL the limit is the session's, which takes two more
/// round trips.
async fn claim_one_by_one<DB: Backend>(
    tx: &mut Tx<DB>,
    claimant: &Claimant,
    mut write: String,
    select: String,
) -> Result<KeyFound, sqlx::Error> {
    let mut waits = KeyWaits::new(claimant, tx.lock_wait());
    if let Some(KeyWaits { key, .. }) = waits
        && tx.engine().sets_for_one_statement()
    {
        write = mysql::with_lock_wait(key, &write);
        waits = None;
    }
    if let Some(KeyWaits { key, .. }) = waits {
        execute(tx, mysql::set_lock_wait(key)).await?;
    }
    if execute(tx, write).await? == 0 {
        // A run that finds the key in use ends its transaction, which restores the limit.
        let row = fetch(tx, format!("{select} LOCK IN SHARE MODE")).await?;
        return Ok(row.map_or(KeyFound::Nothing, KeyFound::Row));
    }
    if let Some(KeyWaits { unit, .. }) = waits {
        execute(tx, mysql::set_lock_wait(unit)).await?;
    }
    Ok(KeyFound::Written)
}

async fn execute<DB: Backend>(tx: &mut Tx<DB>, sql: String) -> Result<u64, sqlx::Error> {
    let query = WatchedQuery::with_values(own_sql(tx, sql), [])?;
    tx.execute_query(query).await
}

/// Returns a statement with the names of the tables, and with lock clauses that the engine has.
fn own_sql<DB: Backend>(tx: &Tx<DB>, sql: String) -> String {
    tx.engine().in_sql(tx.schema().in_sql(sql))
}

/// Runs a text, and returns the row with the columns of [`KeyRow`] among all rows that it returns.
async fn fetch<DB: Backend>(tx: &mut Tx<DB>, sql: String) -> Result<Option<KeyRow>, sqlx::Error> {
    let query = WatchedQuery::with_values(own_sql(tx, sql), [])?;
    let rows = tx.fetch_rows(query).await?;
    rows.iter().find(|row| row.len() == KeyRow::COLUMNS).map(KeyRow::decode::<DB>).transpose()
}

/// What a claim found.
#[derive(Debug)]
pub(super) enum KeyFound {
    /// The row was written.
    Written,
    /// This row exists. It may be the one that was just written.
    Row(KeyRow),
    /// There is no row.
    Nothing,
}

/// How the row of a key is written.
#[derive(Debug)]
pub(super) enum KeyWrite {
    /// Inserts a new row.
    Insert,
    /// Takes over the expired row of this other run.
    TakeOver(Vec<u8>),
}

/// The row of a key.
#[derive(Debug)]
pub(super) struct KeyRow {
    pub(super) fingerprint: Vec<u8>,
    pub(super) run: Vec<u8>,
    pub(super) response: Option<String>,
    /// In seconds.
    pub(super) age: i64,
    /// In seconds.
    pub(super) expires_in: i64,
}

impl KeyRow {
    /// The number of columns. Other rows that the texts return have fewer, and are ignored.
    const COLUMNS: usize = 5;

    fn decode<DB: Backend>(row: &DB::Row) -> Result<Self, sqlx::Error> {
        let bytes = |column| required(DB::bytes(row, column)?, column);
        let integer = |column| required(DB::integer(row, column)?, column);
        Ok(Self {
            fingerprint: bytes(0)?,
            run: bytes(1)?,
            response: DB::text(row, 2)?,
            age: integer(3)?,
            expires_in: integer(4)?,
        })
    }

    pub(super) const fn has_expired(&self) -> bool {
        self.expires_in <= 0
    }
}

/// How long statements wait for locks, in seconds, if the key has a shorter limit than the rest of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyWaits {
    key: u64,
    unit: u64,
}

impl KeyWaits {
    /// `unit` is the limit with which the transaction was opened.
    fn new(claimant: &Claimant, unit: Option<std::time::Duration>) -> Option<Self> {
        let (key, unit) = (whole_seconds(claimant.terms.wait?), whole_seconds(unit?));
        (key < unit).then_some(Self { key, unit })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::idempotency::claimant::ClaimTerms;

    #[test]
    fn a_limit_is_set_only_if_the_key_waits_for_less_time_than_the_unit() {
        let seconds = |seconds: f64| Some(Duration::from_secs_f64(seconds));
        let waits = |key: Option<Duration>, unit| {
            let key = ClaimTerms {
                wait: key,
                ..ClaimTerms::new(IdempotencyKey::new("scope", "key").expect("a key"))
            };
            KeyWaits::new(&key.new_run(), unit)
        };
        assert_eq!(waits(seconds(0.1), seconds(9.9)), Some(KeyWaits { key: 1, unit: 10 }));
        assert_eq!(waits(seconds(1.5), seconds(1.9)), None, "both are two");
        assert_eq!(waits(seconds(20.0), seconds(10.0)), None);
        assert_eq!(waits(None, seconds(10.0)), None, "a part waits as long as its unit");
    }
}
