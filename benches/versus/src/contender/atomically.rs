//! This crate, under any strategy that guards what it reads by itself.

use anyhow::Result;
use async_trait::async_trait;
use atomically::{Atomic, PoolTransactor, Strategy, TransactorExt as _};
use sqlx::{PgPool, Postgres};

use super::sqlx::all_idle;
use super::statements::{GIVE, READ, READ_BOTH, TAKE, WRITE};
use super::{Contender, Work, check_funds};

/// How a transfer locks its two accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locking {
    /// One `SELECT` through `tx.for_update`, as everybody else does.
    OneRead,
    /// Two of them, one for each account.
    TwoReads,
    /// `tx.lock_rows`, which does not read balances.
    LockRows,
}

pub(crate) struct Atomically<S> {
    db: PoolTransactor<Postgres, S>,
    statements: PoolTransactor<Postgres, Atomic>,
    locking: Locking,
}

impl<S: Strategy> Atomically<S> {
    pub(crate) fn new(strategy: S, pool: &PgPool, locking: Locking) -> Self {
        let statements = Atomic::default().on(pool);
        Self { db: PoolTransactor::new(strategy, pool), statements, locking }
    }

    async fn transfer(&self, from: i64, to: i64) -> Result<()> {
        let locking = self.locking;
        self.db
            .run(async |tx| {
                match locking {
                    Locking::OneRead => {
                        let read = sqlx::query_as(tx.for_update(READ_BOTH)).bind(from).bind(to);
                        check_funds(&read.fetch_all(&mut *tx).await?, from)?;
                    }
                    Locking::TwoReads => {
                        let mut rows = Vec::with_capacity(2);
                        for id in [from.min(to), from.max(to)] {
                            let read = sqlx::query_scalar(tx.for_update(READ)).bind(id);
                            rows.push((id, read.fetch_one(&mut *tx).await?));
                        }
                        check_funds(&rows, from)?;
                    }
                    Locking::LockRows => {
                        let missing = tx.lock_rows("account", "id", &[from, to]).await?;
                        anyhow::ensure!(missing.is_empty(), "no such account: {missing:?}");
                    }
                }
                sqlx::query(TAKE).bind(from).execute(&mut *tx).await?;
                sqlx::query(GIVE).bind(to).execute(&mut *tx).await?;
                Ok(())
            })
            .await
    }
}

#[async_trait]
impl<S: Strategy> Contender for Atomically<S> {
    async fn perform(&self, work: Work) -> Result<()> {
        match work {
            Work::Statement { id } => {
                self.statements.apply(sqlx::query(TAKE).bind(id)).await?;
                Ok(())
            }
            Work::Unit { id } => {
                self.db
                    .run(async |tx| {
                        sqlx::query(TAKE).bind(id).execute(&mut *tx).await?;
                        Ok(())
                    })
                    .await
            }
            Work::ReadThenWrite { id } => {
                self.db
                    .run(async |tx| {
                        let read = sqlx::query_scalar(tx.for_update(READ)).bind(id);
                        let balance: i64 = read.fetch_one(&mut *tx).await?;
                        sqlx::query(WRITE).bind(balance - 1).bind(id).execute(&mut *tx).await?;
                        Ok(())
                    })
                    .await
            }
            Work::Transfer { from, to } => self.transfer(from, to).await,
        }
    }

    /// The other ways of locking are there to be compared in a transfer.
    fn offers(&self, work: Work) -> bool {
        self.locking == Locking::OneRead || matches!(work, Work::Transfer { .. })
    }

    async fn settled(&self) {
        all_idle(self.db.pool()).await;
    }
}
