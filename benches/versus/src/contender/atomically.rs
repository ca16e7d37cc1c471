//! This crate, under any strategy that protects its own reads.

use anyhow::{Result, bail};
use async_trait::async_trait;
use atomically::{
    Atomic, DeltaOutcome, Deltas, Pessimistic, PoolTransactor, Strategy, Transactor, TransactorExt as _,
};
use sqlx::{PgPool, Postgres};

use super::sqlx::all_idle;
use super::statements::{GIVE, READ, READ_BOTH, TAKE, WRITE};
use super::{Contender, Work, check_funds};

/// How a transfer locks its two accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locking {
    /// One `SELECT` through `tx.for_update`, like the other libraries.
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

async fn read_then_write(db: &impl Transactor<Postgres>, id: i64) -> Result<()> {
    db.run(async |tx| {
        let read = sqlx::query_scalar(tx.for_update(READ)).bind(id);
        let balance: i64 = read.fetch_one(&mut *tx).await?;
        sqlx::query(WRITE).bind(balance - 1).bind(id).execute(&mut *tx).await?;
        Ok(())
    })
    .await
}

impl<S: Strategy> Atomically<S> {
    pub(crate) fn new(strategy: S, pool: &PgPool, locking: Locking) -> Self {
        let statements = Atomic::default().on(pool).reuse_connections();
        Self { db: PoolTransactor::new(strategy, pool).reuse_connections(), statements, locking }
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
            Work::ReadThenWrite { id } => read_then_write(&self.db, id).await,
            Work::Transfer { from, to } => self.transfer(from, to).await,
        }
    }

    /// The other ways of locking are compared in transfers only.
    fn offers(&self, work: Work) -> bool {
        self.locking == Locking::OneRead || matches!(work, Work::Transfer { .. })
    }

    async fn settled(&self) {
        all_idle(self.db.pool()).await;
    }
}

/// This crate with a gate in front of the pool for each account, so that waiting units hold no connection.
pub(crate) struct Gated(PoolTransactor<Postgres, Pessimistic>);

impl Gated {
    pub(crate) fn new(pool: &PgPool) -> Self {
        Self(Pessimistic::default().on(pool).reuse_connections())
    }
}

#[async_trait]
impl Contender for Gated {
    async fn perform(&self, work: Work) -> Result<()> {
        match work {
            Work::ReadThenWrite { id } => read_then_write(&self.0.on_key(("account", id)), id).await,
            work => bail!("not at a gate: {work:?}"),
        }
    }

    fn offers(&self, work: Work) -> bool {
        matches!(work, Work::ReadThenWrite { .. })
    }

    async fn settled(&self) {
        all_idle(self.0.pool()).await;
    }
}

/// This crate with many calls in one commit.
pub(crate) struct Coalesced {
    balances: Deltas<Postgres, i64>,
    pool: PgPool,
}

impl Coalesced {
    pub(crate) fn new(pool: &PgPool) -> Self {
        Self {
            balances: Deltas::on(pool, "account", "id", "balance").reuse_connections(),
            pool: pool.clone(),
        }
    }
}

#[async_trait]
impl Contender for Coalesced {
    async fn perform(&self, work: Work) -> Result<()> {
        let Work::Statement { id } = work else { bail!("not one number: {work:?}") };
        match self.balances.add(id, -1).await? {
            DeltaOutcome::Applied { .. } => Ok(()),
            other => bail!("{other:?}"),
        }
    }

    fn offers(&self, work: Work) -> bool {
        matches!(work, Work::Statement { .. })
    }

    fn commits_each(&self) -> bool {
        false
    }

    async fn settled(&self) {
        all_idle(&self.pool).await;
    }
}
