//! Transfers under each strategy, with a savepoint that is rolled back, and a hook.

use std::sync::Arc;

use atomically::{
    Adaptive, Error, Optimistic, Options, Pessimistic, Resolve, Serializable, Transactor, TransactorExt as _,
    Tx,
};
use rand::RngExt as _;
use rand::rngs::StdRng;
use sqlx::Pool;

use crate::database::{ACCOUNTS, SoakDatabase};
use crate::ledger::Ledger;

pub(crate) struct Transfers<DB: SoakDatabase>(Vec<Arc<dyn Transactor<DB>>>);

/// From which account to which, and how much.
#[derive(Debug, Clone, Copy)]
struct Transfer {
    op: i64,
    source: i64,
    target: i64,
    amount: i64,
}

impl<DB: SoakDatabase> Transfers<DB> {
    pub(crate) fn on(pool: &Pool<DB>) -> Self {
        Self(vec![
            Arc::new(Pessimistic::default().on(pool)),
            Arc::new(Pessimistic::default().on(pool).reuse_connections()),
            Arc::new(Optimistic::default().on(pool)),
            Arc::new(Adaptive::default().on(pool).reuse_connections()),
            Arc::new(Serializable::default().on(pool)),
            Arc::new(
                Pessimistic::default().on(pool).options(Options::new().resolve_commits(Resolve::Operation)),
            ),
        ])
    }

    pub(crate) async fn run(&self, op: i64, ledger: &Arc<Ledger>, random: &mut StdRng) -> Result<(), Error> {
        let db = &self.0[random.random_range(0..self.0.len())];
        let source = random.random_range(1..=ACCOUNTS);
        let target = (source + random.random_range(0..ACCOUNTS - 1)) % ACCOUNTS + 1;
        let transfer = Transfer { op, source, target, amount: random.random_range(1..100) };
        db.run(async |tx: &mut Tx<DB>| {
            let ledger = ledger.clone();
            tx.on_commit(async move { ledger.hook(op) });
            move_money(tx, transfer).await
        })
        .await
    }
}

async fn move_money<DB: SoakDatabase>(tx: &mut Tx<DB>, transfer: Transfer) -> Result<(), Error> {
    let Transfer { op, source, target, amount } = transfer;
    let mut changes = [(source, -amount), (target, amount)];
    // One order for all, so that two transfers do not deadlock.
    changes.sort_unstable();
    for (account, change) in changes {
        let select = tx.for_update(DB::sql("SELECT balance FROM account WHERE id = ?"));
        let balance = DB::fetch(tx, select, &[account]).await?;
        let update = DB::sql("UPDATE account SET balance = ? WHERE id = ? AND balance = ?");
        let done = DB::execute(tx, update, &[balance + change, account, balance]).await?;
        tx.expect_one(done)?;
    }
    let rolled_back = tx
        .savepoint(async |tx: &mut Tx<DB>| {
            DB::execute(tx, DB::sql("INSERT INTO inner_row VALUES (?)"), &[op]).await?;
            Err::<(), Error>(sqlx::Error::RowNotFound.into())
        })
        .await;
    if let Err(error) = rolled_back
        && error.kind() != Error::from(sqlx::Error::RowNotFound).kind()
    {
        return Err(error);
    }
    let insert = DB::sql("INSERT INTO ledger VALUES (?, ?, ?, ?)");
    DB::execute(tx, insert, &[op, source, target, amount]).await?;
    Ok(())
}
