//! Small units, as data.

use atomically::{Error, Tx};
use sqlx::Pool;

use crate::all;
use crate::support::TestBackend;

pub(crate) const ACCOUNT: &str =
    "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, version BIGINT NOT NULL)";
pub(crate) const ENTRY: &str = "CREATE TABLE entry (account BIGINT NOT NULL, amount BIGINT NOT NULL)";

/// One step of a unit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Line {
    /// Adds to a balance in one statement.
    Add(i64, i64),
    /// Reads a balance and returns it.
    Read(i64),
    /// Reads a balance for update, and returns it.
    ReadForUpdate(i64),
    /// Writes the balance that was read last, plus an amount.
    Write(i64, i64),
    /// The same, if the version is that of the last read.
    WriteChecked(i64, i64),
    /// Locks both accounts in the order of their ids.
    LockBoth,
    /// Counts the entries of an account, and returns the number.
    Count(i64),
    /// Adds an entry for an account.
    Enter(i64),
    /// Adds an entry if the last count was zero.
    EnterIfNone(i64),
    /// Returns the sum of both balances, read in one statement.
    Sum,
}

use Line::{Add, Count, Enter, EnterIfNone, LockBoth, Read, ReadForUpdate, Sum, Write, WriteChecked};

const READ: &str = "SELECT balance * 1000 + version FROM account WHERE id = ?";

/// Runs the lines and returns what they read.
pub(crate) async fn run<DB: TestBackend>(tx: &mut Tx<DB>, lines: &[Line]) -> Result<Vec<i64>, Error> {
    let (mut seen, mut last) = (Vec::new(), 0);
    for line in lines {
        match *line {
            Add(id, amount) => {
                let add = "UPDATE account SET balance = balance + ?, version = version + 1 WHERE id = ?";
                DB::execute(tx, DB::sql(add), &[amount, id]).await?;
            }
            Read(id) => last = DB::fetch(tx, DB::sql(READ), &[id]).await?,
            ReadForUpdate(id) => last = DB::fetch(tx, tx.for_update(DB::sql(READ)), &[id]).await?,
            Write(id, amount) => {
                let write = "UPDATE account SET balance = ?, version = version + 1 WHERE id = ?";
                DB::execute(tx, DB::sql(write), &[last / 1000 + amount, id]).await?;
            }
            WriteChecked(id, amount) => {
                let write =
                    "UPDATE account SET balance = ?, version = version + 1 WHERE id = ? AND version = ?";
                let values = [last / 1000 + amount, id, last % 1000];
                let done = DB::execute(tx, DB::sql(write), &values).await?;
                tx.expect_one(done)?;
            }
            LockBoth => {
                DB::lock_accounts(tx, &[1, 2]).await?;
            }
            Count(account) => {
                let count = DB::sql("SELECT COUNT(*) FROM entry WHERE account = ?");
                last = DB::fetch(tx, count, &[account]).await?;
                seen.push(last);
            }
            EnterIfNone(_) if last > 0 => {}
            Enter(account) | EnterIfNone(account) => {
                DB::execute(tx, DB::sql("INSERT INTO entry VALUES (?, 1)"), &[account]).await?;
            }
            Sum => seen.push(DB::fetch(tx, DB::sql(DB::TOTAL), &[]).await?),
        }
        if matches!(line, Read(_) | ReadForUpdate(_)) {
            seen.push(last / 1000);
        }
    }
    Ok(seen)
}

/// Resets the tables to two accounts and no entries.
pub(crate) async fn reset<DB: TestBackend>(pool: Pool<DB>) -> sqlx::Result<()> {
    let accounts = "INSERT INTO account VALUES (1, 100, 0), (2, 200, 0)";
    all(pool, &["DELETE FROM entry", "DELETE FROM account", accounts]).await
}
