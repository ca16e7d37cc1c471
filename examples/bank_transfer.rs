//! Transfers money between accounts: no deadlock, no overdraft, and the total never changes.
//!
//! `cargo run --example bank_transfer`
//!
//! The unit checks the balance itself. A constraint stops a unit that does not.

use anyhow::{Context as _, bail, ensure};
use atomically::{ConstraintKind, Pessimistic, TransactorExt as _, Tx};
use futures_util::future::join_all;
use sqlx::{Sqlite, SqlitePool};

const ACCOUNTS: i64 = 5;
const DEPOSIT: i64 = 100;

#[derive(Debug, thiserror::Error)]
enum TransferError {
    #[error("there is no account {0}")]
    NoAccount(i64),
    #[error("account {account} holds {balance}, which is less than {amount}")]
    Overdraft { account: i64, balance: i64, amount: i64 },
    #[error(transparent)]
    Transaction(#[from] atomically::Error),
}

/// By way of the crate's error, which names the constraint that was violated.
impl From<sqlx::Error> for TransferError {
    fn from(error: sqlx::Error) -> Self {
        Self::Transaction(error.into())
    }
}

/// The unit of work. It locks both accounts first, always in the same order, so that two transfers in
/// opposite directions wait for each other instead of deadlocking. (SQLite locks the whole database.)
async fn transfer(tx: &mut Tx<Sqlite>, from: i64, to: i64, amount: i64) -> Result<(), TransferError> {
    let missing = tx.lock_rows("account", "id", &[from, to]).await?;
    if let Some(account) = missing.first() {
        return Err(TransferError::NoAccount(*account));
    }
    let select = sqlx::query_scalar("SELECT balance FROM account WHERE id = $1").bind(from);
    let balance: i64 = select.fetch_one(&mut *tx).await?;
    if balance < amount {
        return Err(TransferError::Overdraft { account: from, balance, amount });
    }
    move_money(tx, from, to, amount).await
}

/// Does not check the balance.
async fn move_money(tx: &mut Tx<Sqlite>, from: i64, to: i64, amount: i64) -> Result<(), TransferError> {
    for (account, change) in [(from, -amount), (to, amount)] {
        let update = sqlx::query("UPDATE account SET balance = balance + $1 WHERE id = $2");
        update.bind(change).bind(account).execute(&mut *tx).await?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("bank.db");
    let pool = SqlitePool::connect(&format!("sqlite://{}?mode=rwc", file.display())).await?;
    let schema = "PRAGMA journal_mode = WAL;
        CREATE TABLE account (
            id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, CONSTRAINT solvent CHECK (balance >= 0)
        );";
    sqlx::raw_sql(schema).execute(&pool).await?;
    for account in 1..=ACCOUNTS {
        let insert = sqlx::query("INSERT INTO account (id, balance) VALUES ($1, $2)");
        insert.bind(account).bind(DEPOSIT).execute(&pool).await?;
    }
    let db = Pessimistic::default().on(&pool);

    let refused = db.run(async |tx: &mut Tx<Sqlite>| transfer(tx, 1, 2, 1000).await).await;
    let Err(overdraft @ TransferError::Overdraft { .. }) = refused else { bail!("got {refused:?}") };
    println!("Refused by the unit: {overdraft}.");

    let refused = db.run(async |tx: &mut Tx<Sqlite>| move_money(tx, 1, 2, 1000).await).await;
    let Err(TransferError::Transaction(error)) = refused else { bail!("got {refused:?}") };
    let constraint = error.constraint().context("no constraint was violated")?;
    ensure!(constraint.kind == ConstraintKind::Check && constraint.name.as_deref() == Some("solvent"));
    println!("Refused by the database: constraint `solvent`.");

    let transfers = (0..100).map(|number| {
        let (from, to) = (1 + number % ACCOUNTS, 1 + (number * 3 + 1) % ACCOUNTS);
        db.run(async move |tx: &mut Tx<Sqlite>| transfer(tx, from, to, 10 + number).await)
    });
    let (mut made, mut refused) = (0, 0);
    for transfer in join_all(transfers).await {
        match transfer {
            Ok(()) => made += 1,
            Err(TransferError::Overdraft { .. }) => refused += 1,
            Err(error) => return Err(error.into()),
        }
    }
    let total: i64 = sqlx::query_scalar("SELECT sum(balance) FROM account").fetch_one(&pool).await?;
    ensure!(total == ACCOUNTS * DEPOSIT, "{} became {total}", ACCOUNTS * DEPOSIT);
    println!("100 transfers at once: {made} are made, {refused} are overdrafts. The total is still {total}.");
    Ok(())
}
