//! The server, and the table that all contenders use.

use anyhow::Result;
use sqlx::PgPool;

use crate::contender::pool;
use crate::ledger::Balances;

pub(crate) const ACCOUNTS: i64 = 1000;

/// Enough for all transactions.
const BALANCE: i64 = 1_000_000_000;

/// The table of accounts on the server of `ATOMICALLY_POSTGRES_URL`, or on one that is started for it and
/// ends with this process.
pub(crate) struct Database {
    pub(crate) url: String,
    admin: PgPool,
}

impl Database {
    pub(crate) async fn create() -> Result<Self> {
        let url = test_servers::postgres_url();
        let admin = pool(&url, 1, true).await?;
        // Dead rows are vacuumed between the turns, not during one.
        for sql in [
            "DROP TABLE IF EXISTS account",
            "CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, \
             version BIGINT NOT NULL DEFAULT 0) WITH (autovacuum_enabled = off, fillfactor = 50)",
        ] {
            sqlx::query(sql).execute(&admin).await?;
        }
        let fill = "INSERT INTO account (id, balance) SELECT id, $1 FROM generate_series(1, $2) AS id";
        sqlx::query(fill).bind(BALANCE).bind(ACCOUNTS).execute(&admin).await?;
        Ok(Self { url, admin })
    }

    /// Cleans up after the last turn.
    pub(crate) async fn tidy(&self) -> Result<()> {
        sqlx::query("VACUUM (ANALYZE) account").execute(&self.admin).await?;
        Ok(())
    }

    /// The balance of each account.
    pub(crate) async fn balances(&self) -> Result<Balances> {
        let rows: Vec<(i64, i64)> =
            sqlx::query_as("SELECT id, balance FROM account").fetch_all(&self.admin).await?;
        Ok(rows.into_iter().collect())
    }

    /// Leaves nothing behind on a server that existed before.
    pub(crate) async fn drop(self) -> Result<()> {
        sqlx::query("DROP TABLE account").execute(&self.admin).await?;
        Ok(())
    }
}
