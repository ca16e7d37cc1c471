//! Accounts, and statements on them.

use std::hash::Hash;
use std::time::Duration;

use atomically::{AtCommit, Error, Key, PoolTransactor, Strategy, Transactor, TransactorExt as _, Tx};
use sqlx::{Database, FromRow, Pool, SqlStr};

use crate::support::{TestBackend, TestPool};

pub(crate) const ACCOUNTS: i64 = 6;
pub(crate) const BALANCE: i64 = 1000;

/// An account as a unit reads it: its id, balance and version.
pub(crate) type Account = (i64, i64, i64);

/// What units need to name and read accounts.
pub(crate) trait Bank: TestBackend {
    /// The type of the column `id`.
    type Id: Key<Self> + Hash + From<i64>;

    /// The columns of an account.
    type Row: for<'r> FromRow<'r, <Self as Database>::Row> + Into<Account> + Send + 'static;

    fn query(sql: SqlStr, values: &[i64]) -> impl sqlx::Execute<'static, Self>;

    /// A statement with one value that is NULL.
    fn query_with_null(sql: SqlStr) -> impl sqlx::Execute<'static, Self>;
}

macro_rules! banks {
    ($($database:ty),*) => {
        $(impl Bank for $database {
            type Id = i64;
            type Row = Account;

            fn query(sql: SqlStr, values: &[i64]) -> impl sqlx::Execute<'static, Self> {
                values.iter().fold(sqlx::query(sql), |query, value| query.bind(*value))
            }

            fn query_with_null(sql: SqlStr) -> impl sqlx::Execute<'static, Self> {
                sqlx::query(sql).bind(None::<i64>)
            }
        })*
    };
}
banks!(sqlx::Postgres, sqlx::MySql, sqlx::Sqlite);

pub(crate) fn ids<DB: Bank, const N: usize>(ids: [i64; N]) -> [DB::Id; N] {
    ids.map(DB::Id::from)
}

pub(crate) async fn bank<DB: TestBackend>(connections: u32) -> TestPool<DB> {
    let pool = DB::pool(connections).await;
    let create = "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, \
                  version BIGINT NOT NULL DEFAULT 0, CONSTRAINT covered CHECK (balance >= 0))";
    DB::pool_execute(&pool, DB::sql(create), &[]).await.expect("create a table");
    for id in 1..=ACCOUNTS {
        let insert = DB::sql("INSERT INTO account (id, balance) VALUES (?, ?)");
        DB::pool_execute(&pool, insert, &[id, BALANCE]).await.expect("an account");
    }
    pool
}

/// A transactor with limits that suffice on a busy machine.
pub(crate) fn patient<DB: TestBackend, S: Strategy>(strategy: S, pool: &Pool<DB>) -> PoolTransactor<DB, S> {
    PoolTransactor::new(strategy, pool).attempts(10_000).deadline(Duration::from_secs(120))
}

pub(crate) async fn integer<DB: TestBackend>(pool: &Pool<DB>, sql: &str) -> i64 {
    DB::pool_fetch(pool, DB::sql(sql), &[]).await.expect("an integer")
}

pub(crate) async fn balance<DB: TestBackend>(pool: &Pool<DB>, id: i64) -> i64 {
    let select = DB::sql("SELECT balance FROM account WHERE id = ?");
    DB::pool_fetch(pool, select, &[id]).await.expect("a balance")
}

/// Keeps a statement until the commit.
pub(crate) fn keep<'t, DB: Bank>(
    tx: &'t mut Tx<DB>,
    sql: &str,
    values: &[i64],
) -> Result<AtCommit<'t, DB>, Error> {
    tx.at_commit(<DB as Bank>::query(DB::sql(sql), values))
}

/// Keeps the write of a new balance, if the version is still the one that was read.
pub(crate) fn keep_balance<DB: Bank>(tx: &mut Tx<DB>, account: Account, change: i64) -> Result<(), Error> {
    let (id, balance, version) = account;
    let update = "UPDATE account SET balance = ?, version = version + 1 WHERE id = ? AND version = ?";
    keep(tx, update, &[balance + change, id, version])?.expect_one();
    Ok(())
}

/// Moves 1 from an account to another with both: the rows with BEGIN, and the writes with COMMIT.
pub(crate) async fn transfer<DB: Bank>(db: &impl Transactor<DB>, from: i64, to: i64) -> Result<(), Error> {
    db.on_rows("account", "id", ids::<DB, 2>([from, to]))
        .reading::<<DB as Bank>::Row>("id, balance, version")
        .run(async |tx: &mut Tx<DB>, [from, to]: [<DB as Bank>::Row; 2]| {
            keep_balance(tx, from.into(), -1)?;
            keep_balance(tx, to.into(), 1)
        })
        .await
}
