//! Queries of the shop, as they were written for `pool.begin()`: none of them knows of this crate.

use sqlx::{Acquire, Connection, PgConnection, PgExecutor, PgPool, Postgres};

/// What a repository reports.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RepositoryError {
    #[error("there is no product {0}")]
    NoProduct(i64),
    #[error("a query of the shop failed")]
    Database(#[from] sqlx::Error),
}

/// A row of `product`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Product {
    pub(crate) id: i64,
    pub(crate) stock: i64,
    pub(crate) version: i64,
}

/// How the shop reads its stock. Tests put a barrier behind it.
pub(crate) trait Stock: Send + Sync + 'static {
    /// Declared without `async`, so that the future is `Send` for every implementation. An implementation
    /// may be an `async fn`.
    fn product(
        &self,
        conn: &mut PgConnection,
        id: i64,
    ) -> impl Future<Output = Result<Product, RepositoryError>> + Send;
}

/// The stock in the table `product`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StockTable;

impl Stock for StockTable {
    async fn product(&self, conn: &mut PgConnection, id: i64) -> Result<Product, RepositoryError> {
        find_product(&mut *conn, id).await?.ok_or(RepositoryError::NoProduct(id))
    }
}

/// A trait that is only used with one type may have an `async fn`.
pub(crate) trait Journal {
    async fn note(&self, conn: &mut PgConnection, text: &str) -> Result<(), sqlx::Error>;
}

/// The journal in the table `journal`, whose notes have to be unique.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JournalTable;

impl Journal for JournalTable {
    async fn note(&self, conn: &mut PgConnection, text: &str) -> Result<(), sqlx::Error> {
        sqlx::query("INSERT INTO journal (text) VALUES ($1)").bind(text).execute(conn).await.map(drop)
    }
}

/// Writes a note, and continues without it if that fails.
pub(crate) async fn note_if_possible(conn: &mut PgConnection, text: &str) -> Result<(), sqlx::Error> {
    let _ignored = JournalTable.note(conn, text).await;
    Ok(())
}

pub(crate) async fn find_product(db: impl PgExecutor<'_>, id: i64) -> Result<Option<Product>, sqlx::Error> {
    let row: Option<(i64, i64, i64)> = sqlx::query_as("SELECT id, stock, version FROM product WHERE id = $1")
        .bind(id)
        .fetch_optional(db)
        .await?;
    Ok(row.map(|(id, stock, version)| Product { id, stock, version }))
}

/// Sets the stock of a product that still has the version that was read. Returns the number of rows.
pub(crate) async fn set_stock(
    conn: &mut PgConnection,
    read: Product,
    stock: i64,
) -> Result<u64, sqlx::Error> {
    let update = "UPDATE product SET stock = $1, version = version + 1 WHERE id = $2 AND version = $3";
    let done = sqlx::query(update).bind(stock).bind(read.id).bind(read.version).execute(conn).await?;
    Ok(done.rows_affected())
}

/// Sets the stock without looking at the version.
pub(crate) async fn overwrite_stock(db: impl PgExecutor<'_>, id: i64, stock: i64) -> Result<(), sqlx::Error> {
    let update = "UPDATE product SET stock = $1, version = version + 1 WHERE id = $2";
    sqlx::query(update).bind(stock).bind(id).execute(db).await.map(drop)
}

pub(crate) async fn insert_order(
    db: impl PgExecutor<'_>,
    product: i64,
    quantity: i64,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("INSERT INTO orders (product, quantity) VALUES ($1, $2) RETURNING id")
        .bind(product)
        .bind(quantity)
        .fetch_one(db)
        .await
}

/// Counts the orders, on a pool or on a connection. This is the signature that sqlx documents.
#[allow(clippy::manual_async_fn, reason = "the future of an `async fn` is not `Send` for every lifetime")]
pub(crate) fn count_orders<'a, 'c: 'a>(
    db: impl Acquire<'c, Database = Postgres> + Send + 'a,
) -> impl Future<Output = Result<i64, sqlx::Error>> + Send + 'a {
    async move {
        let mut conn = db.acquire().await?;
        sqlx::query_scalar("SELECT COUNT(*) FROM orders").fetch_one(&mut *conn).await
    }
}

/// Begins a transaction of its own, which inside of another one is meant to be a savepoint.
pub(crate) async fn insert_in_a_transaction(
    conn: &mut PgConnection,
    product: i64,
) -> Result<(), sqlx::Error> {
    let mut tx = Connection::begin(conn).await?;
    insert_order(&mut *tx, product, 1).await?;
    tx.commit().await
}

/// Uses whichever connection the pool returns.
pub(crate) async fn insert_through_pool(pool: &PgPool, product: i64) -> Result<i64, sqlx::Error> {
    insert_order(pool, product, 1).await
}
