//! Statements on any database. An application has one database and needs no such trait.

use atomically::{Backend, Tx};
use futures_util::future::BoxFuture;
use sqlx::{MySql, Pool, Postgres, SqlStr, Sqlite};

/// The statements of the scenarios.
pub(crate) trait Statements: Backend {
    /// Returns the only number of the only row.
    fn read(tx: &mut Tx<Self>, sql: SqlStr) -> BoxFuture<'_, sqlx::Result<i64>>;

    /// Returns how many rows were changed.
    fn write(tx: &mut Tx<Self>, sql: SqlStr) -> BoxFuture<'_, sqlx::Result<u64>>;

    /// Runs several statements.
    fn prepare(pool: Pool<Self>, sql: &'static str) -> BoxFuture<'static, sqlx::Result<()>>;
}

macro_rules! statements {
    ($database:ty) => {
        impl Statements for $database {
            fn read(tx: &mut Tx<Self>, sql: SqlStr) -> BoxFuture<'_, sqlx::Result<i64>> {
                Box::pin(sqlx::query_scalar(sql).fetch_one(tx))
            }

            fn write(tx: &mut Tx<Self>, sql: SqlStr) -> BoxFuture<'_, sqlx::Result<u64>> {
                Box::pin(async move { Ok(sqlx::query(sql).execute(tx).await?.rows_affected()) })
            }

            fn prepare(pool: Pool<Self>, sql: &'static str) -> BoxFuture<'static, sqlx::Result<()>> {
                Box::pin(async move { sqlx::raw_sql(sql).execute(&pool).await.map(drop) })
            }
        }
    };
}
statements!(Sqlite);
statements!(Postgres);
statements!(MySql);
