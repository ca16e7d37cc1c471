//! This crate with the rows in the round trip of BEGIN and the writes in that of COMMIT.

use anyhow::{Result, bail};
use async_trait::async_trait;
use atomically::{Pessimistic, PoolTransactor, TransactorExt as _};
use sqlx::{PgPool, Postgres};

use super::sqlx::all_idle;
use super::statements::{GIVE, TAKE, WRITE};
use super::{Contender, Work, check_funds};

/// Transactions of two round trips.
pub(crate) struct TwoTrips(PoolTransactor<Postgres, Pessimistic>);

impl TwoTrips {
    pub(crate) fn new(pool: &PgPool) -> Self {
        Self(Pessimistic::default().on(pool).reuse_connections())
    }

    async fn read_then_write(&self, id: i64) -> Result<()> {
        self.0
            .on_rows("account", "id", [id])
            .reading::<(i64,)>("balance")
            .run(async |tx, [(balance,)]| {
                tx.at_commit(sqlx::query(WRITE).bind(balance - 1).bind(id))?;
                Ok(())
            })
            .await
    }

    async fn transfer(&self, from: i64, to: i64) -> Result<()> {
        self.0
            .on_rows("account", "id", [from, to])
            .reading::<(i64, i64)>("id, balance")
            .run(async |tx, rows| {
                check_funds(&rows, from)?;
                tx.at_commit(sqlx::query(TAKE).bind(from))?;
                tx.at_commit(sqlx::query(GIVE).bind(to))?;
                Ok(())
            })
            .await
    }
}

#[async_trait]
impl Contender for TwoTrips {
    async fn perform(&self, work: Work) -> Result<()> {
        match work {
            Work::ReadThenWrite { id } => self.read_then_write(id).await,
            Work::Transfer { from, to } => self.transfer(from, to).await,
            work => bail!("nothing to combine: {work:?}"),
        }
    }

    fn offers(&self, work: Work) -> bool {
        matches!(work, Work::ReadThenWrite { .. } | Work::Transfer { .. })
    }

    async fn settled(&self) {
        all_idle(self.0.pool()).await;
    }
}
