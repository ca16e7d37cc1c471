//! This crate with version checks instead of locks.

use anyhow::Result;
use async_trait::async_trait;
use atomically::{Optimistic, PoolTransactor, TransactorExt as _, Tx};
use sqlx::{PgPool, Postgres};

use super::sqlx::all_idle;
use super::{Contender, Work};

const READ: &str = "SELECT balance, version FROM account WHERE id = $1";
const READ_BOTH: &str = "SELECT balance, version FROM account WHERE id IN ($1, $2) ORDER BY id = $2";
const WRITE: &str = "UPDATE account SET balance = $1, version = version + 1 WHERE id = $2 AND version = $3";

pub(crate) struct Versioned(PoolTransactor<Postgres, Optimistic>);

impl Versioned {
    pub(crate) fn new(pool: &PgPool) -> Self {
        Self(Optimistic::default().on(pool).reuse_connections())
    }
}

async fn write(tx: &mut Tx<Postgres>, id: i64, balance: i64, version: i64) -> Result<()> {
    let done = sqlx::query(WRITE).bind(balance).bind(id).bind(version).execute(&mut *tx).await?;
    Ok(tx.expect_one(done.rows_affected())?)
}

#[async_trait]
impl Contender for Versioned {
    async fn perform(&self, work: Work) -> Result<()> {
        match work {
            Work::Statement { id } | Work::Unit { id } => {
                self.0
                    .run(async |tx| {
                        sqlx::query(super::statements::TAKE).bind(id).execute(&mut *tx).await?;
                        Ok(())
                    })
                    .await
            }
            Work::ReadThenWrite { id } => {
                self.0
                    .run(async |tx| {
                        let (balance, version): (i64, i64) =
                            sqlx::query_as(tx.for_update(READ)).bind(id).fetch_one(&mut *tx).await?;
                        write(tx, id, balance - 1, version).await
                    })
                    .await
            }
            Work::Transfer { from, to } => {
                self.0
                    .run(async |tx| {
                        let read = sqlx::query_as(tx.for_update(READ_BOTH)).bind(from).bind(to);
                        let rows: Vec<(i64, i64)> = read.fetch_all(&mut *tx).await?;
                        let [payer, payee] = rows[..] else {
                            anyhow::bail!("no such accounts: {from}, {to}")
                        };
                        // In the order of their ids, because the updates keep their row locks until the
                        // commit.
                        let mut changes = [(from, payer.0 - 1, payer.1), (to, payee.0 + 1, payee.1)];
                        changes.sort_unstable();
                        for (id, balance, version) in changes {
                            write(tx, id, balance, version).await?;
                        }
                        Ok(())
                    })
                    .await
            }
        }
    }

    fn offers(&self, work: Work) -> bool {
        !matches!(work, Work::Statement { .. })
    }

    async fn settled(&self) {
        all_idle(self.0.pool()).await;
    }
}
