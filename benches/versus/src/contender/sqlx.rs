//! sqlx, by hand.

use anyhow::Result;
use async_trait::async_trait;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use super::statements::{GIVE, TAKE, WRITE};
use super::{Contender, Work, check_funds};

const READ_AND_LOCK: &str = "SELECT balance FROM account WHERE id = $1 FOR NO KEY UPDATE";
const LOCK_BOTH: &str = "SELECT id, balance FROM account WHERE id IN ($1, $2) ORDER BY id FOR NO KEY UPDATE";

/// A pool of sqlx that tests connections when they are acquired, which is the default, or does not.
pub(crate) async fn pool(url: &str, connections: u32, tests: bool) -> Result<PgPool> {
    let options = PgPoolOptions::new().max_connections(connections).test_before_acquire(tests);
    Ok(options.connect(url).await?)
}

pub(crate) async fn all_idle(pool: &PgPool) {
    while pool.num_idle() < pool.size() as usize {
        tokio::task::yield_now().await;
    }
}

#[derive(Debug)]
pub(crate) struct Sqlx(pub(crate) PgPool);

#[async_trait]
impl Contender for Sqlx {
    async fn perform(&self, work: Work) -> Result<()> {
        match work {
            Work::Statement { id } => {
                sqlx::query(TAKE).bind(id).execute(&self.0).await?;
            }
            Work::Unit { id } => {
                let mut tx = self.0.begin().await?;
                sqlx::query(TAKE).bind(id).execute(&mut *tx).await?;
                tx.commit().await?;
            }
            Work::ReadThenWrite { id } => {
                let mut tx = self.0.begin().await?;
                let balance: i64 = sqlx::query_scalar(READ_AND_LOCK).bind(id).fetch_one(&mut *tx).await?;
                sqlx::query(WRITE).bind(balance - 1).bind(id).execute(&mut *tx).await?;
                tx.commit().await?;
            }
            Work::Transfer { from, to } => {
                let mut tx = self.0.begin().await?;
                let rows = sqlx::query_as(LOCK_BOTH).bind(from).bind(to).fetch_all(&mut *tx).await?;
                check_funds(&rows, from)?;
                sqlx::query(TAKE).bind(from).execute(&mut *tx).await?;
                sqlx::query(GIVE).bind(to).execute(&mut *tx).await?;
                tx.commit().await?;
            }
        }
        Ok(())
    }

    async fn settled(&self) {
        all_idle(&self.0).await;
    }
}
