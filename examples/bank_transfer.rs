//! Transfers between accounts: no overdraft, no deadlock, and not a cent lost or made.
//!
//! `cargo run --example bank_transfer`

mod support;

use std::process::ExitCode;

use anyhow::{bail, ensure};
use atomically::{ConstraintKind, Pessimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::Pool;
use support::say;
use tokio::task::JoinSet;

// `Db` is the database, and `sql` puts its own parameters in place of each `?`.
support::on_each_database! {
    /// The unit of work. Both accounts are locked before either is looked at, always in the same order: two transfers
    /// that cross wait for each other in turn, and never both at once.
    async fn transfer(tx: &mut Tx<Db>, from: i64, to: i64, amount: i64) -> Result<u32, TransferError> {
        let missing = tx.lock_rows("atomically_bank_account", "id", &[from, to]).await?;
        if let Some(account) = missing.first() {
            return Err(TransferError::NoAccount(*account));
        }
        let balance = sql("SELECT balance FROM atomically_bank_account WHERE id = ?");
        let balance: i64 = sqlx::query_scalar(balance).bind(from).fetch_one(&mut *tx).await?;
        if balance < amount {
            return Err(TransferError::Overdraft { account: from, balance, amount });
        }
        post(tx, from, to, amount).await?;
        Ok(tx.attempt())
    }

    /// Knows no rule. Who calls it without having looked first has the table's CHECK to stop him.
    async fn post(tx: &mut Tx<Db>, from: i64, to: i64, amount: i64) -> Result<(), TransferError> {
        for (account, change) in [(from, -amount), (to, amount)] {
            let post = sql("UPDATE atomically_bank_account SET balance = balance + ? WHERE id = ?");
            sqlx::query(post).bind(change).bind(account).execute(&mut *tx).await?;
        }
        Ok(())
    }

    pub(crate) async fn story(pool: &Pool<Db>) -> anyhow::Result<()> {
        for account in 1..=ACCOUNTS {
            let open = sql("INSERT INTO atomically_bank_account (id, balance) VALUES (?, ?)");
            sqlx::query(open).bind(account).bind(DEPOSIT).execute(pool).await?;
        }
        let db = Pessimistic::default().on(pool);

        let refused = db.run(async |tx: &mut Tx<Db>| transfer(tx, 1, 2, 1000).await).await;
        let Err(refusal @ TransferError::Overdraft { .. }) = refused else {
            bail!("an overdraft ended with {refused:?}");
        };
        say!("The unit refuses: {refusal}.");

        let refused = db.run(async |tx: &mut Tx<Db>| post(tx, 1, 2, 1000).await).await;
        let Err(TransferError::Database(error)) = refused else { bail!("an unchecked overdraft was stored") };
        let Some(rule) = error.constraint() else { bail!("no constraint stopped an overdraft, but {error}") };
        let name = rule.name.as_deref().unwrap_or("unnamed");
        say!("A unit that does not look is refused by the database: {:?} constraint {name}.", rule.kind);
        ensure!(
            (rule.kind, name) == (ConstraintKind::Check, "atomically_bank_solvent"),
            "the wrong rule: {rule:?}"
        );

        let (mut customers, mut answers) = (JoinSet::new(), Vec::new());
        for seed in 0..CUSTOMERS {
            customers.spawn(customer(db.clone(), seed));
        }
        while let Some(customer) = customers.join_next().await {
            answers.extend(customer??);
        }
        let (done, attempts) = (answers.iter().flatten().count(), answers.iter().flatten().sum::<u32>());
        let refused = answers.len() - done;
        say!("{CUSTOMERS} customers: {done} transfers in {attempts} attempts, {refused} overdrafts refused.");

        let balances = "SELECT balance FROM atomically_bank_account";
        let balances: Vec<i64> = sqlx::query_scalar(balances).fetch_all(pool).await?;
        let total: i64 = balances.iter().sum();
        ensure!(total == ACCOUNTS * DEPOSIT, "{} became {total}", ACCOUNTS * DEPOSIT);
        say!("The bank held {} before, and holds {total} now.", ACCOUNTS * DEPOSIT);
        Ok(())
    }

    /// Makes one transfer after the other, and answers for each how many attempts it took, or that it was refused.
    async fn customer(
        db: PoolTransactor<Db, Pessimistic>,
        seed: u64,
    ) -> Result<Vec<Option<u32>>, TransferError> {
        let (mut dice, mut answers) = (Dice(seed), Vec::new());
        for _ in 0..TRANSFERS {
            let from = dice.below(ACCOUNTS);
            let to = (from + 1 + dice.below(ACCOUNTS - 1)) % ACCOUNTS;
            let amount = 1 + dice.below(DEPOSIT);
            match db.run(async |tx: &mut Tx<Db>| transfer(tx, from + 1, to + 1, amount).await).await {
                Ok(attempts) => answers.push(Some(attempts)),
                Err(TransferError::Overdraft { .. }) => answers.push(None),
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }
}

const ACCOUNTS: i64 = 10;
const DEPOSIT: i64 = 100;
const CUSTOMERS: u64 = 8;
const TRANSFERS: u32 = 50;

const TABLES: [(&str, &str); 1] = [(
    "atomically_bank_account",
    "id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, CONSTRAINT atomically_bank_solvent CHECK (balance >= 0)",
)];

/// Why no money was moved.
#[derive(Debug, thiserror::Error)]
enum TransferError {
    #[error("there is no account {0}")]
    NoAccount(i64),
    #[error("account {account} holds {balance}, which is less than {amount}")]
    Overdraft { account: i64, balance: i64, amount: i64 },
    #[error(transparent)]
    Database(#[from] atomically::Error),
}

/// By way of the crate's error, which says which constraint was violated.
impl From<sqlx::Error> for TransferError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The same numbers on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as i64 % limit
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    support::main(on_any).await
}
