//! The shop: what it does in one transaction, and its errors.

use std::sync::Arc;

use atomically::{Error, Transactor, TransactorExt as _, Tx, UnitFn};
use sqlx::{PgConnection, Postgres};

use crate::repository::{self, Journal as _, JournalTable, Product, RepositoryError, Stock};

/// Why the shop did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShopError {
    #[error("only {0} in stock")]
    SoldOut(i64),
    #[error("there is no such product")]
    NotFound,
    #[error(transparent)]
    Transaction(#[from] Error),
}

/// Keeps constraint violations typed: `Error` knows the kind and the name of the constraint.
impl From<sqlx::Error> for ShopError {
    fn from(error: sqlx::Error) -> Self {
        Self::Transaction(error.into())
    }
}

impl From<RepositoryError> for ShopError {
    fn from(error: RepositoryError) -> Self {
        match error {
            RepositoryError::NoProduct(_) => Self::NotFound,
            RepositoryError::Database(error) => error.into(),
        }
    }
}

/// The shop, on any transactor. The service holds an `Arc<dyn Transactor<Postgres>>`.
#[derive(Debug)]
pub(crate) struct Shop<S, T = Arc<dyn Transactor<Postgres>>> {
    db: T,
    stock: S,
}

impl<S: Stock, T: Transactor<Postgres>> Shop<S, T> {
    pub(crate) const fn new(db: T, stock: S) -> Self {
        Self { db, stock }
    }

    /// Runs a unit of the shop: one place for what all of them have in common.
    async fn write<R: Send>(
        &self,
        name: &'static str,
        unit: impl UnitFn<Postgres, R, ShopError>,
    ) -> Result<R, ShopError> {
        self.db.named(name).run(unit).await
    }

    /// Sells products, and returns the number of the order.
    pub(crate) async fn order(&self, product: i64, quantity: i64) -> Result<i64, ShopError> {
        self.write("order", async |tx| {
            let order = repository::insert_order(&mut *tx, product, quantity).await?;
            let read = tx.on_connection(async |conn| self.stock.product(conn, product).await).await?;
            if read.stock < quantity {
                return Err(ShopError::SoldOut(read.stock));
            }
            let left = read.stock - quantity;
            let rows = tx.on_connection(async |conn| repository::set_stock(conn, read, left).await).await?;
            tx.expect_one(rows)?;
            Ok(order)
        })
        .await
    }

    /// Sets the stock of a product, and writes a note about it, which may fail.
    pub(crate) async fn restock(&self, product: i64, stock: i64, note: &str) -> Result<(), ShopError> {
        self.write("restock", async |tx| {
            repository::overwrite_stock(&mut *tx, product, stock).await?;
            tx.on_connection(async |conn| repository::note_if_possible(conn, note).await).await?;
            Ok(())
        })
        .await
    }

    /// Writes a note.
    pub(crate) async fn note(&self, text: &str) -> Result<(), ShopError> {
        self.write("note", async |tx: &mut Tx<Postgres>| {
            tx.on_connection(async |conn: &mut PgConnection| JournalTable.note(conn, text).await).await?;
            Ok(())
        })
        .await
    }

    pub(crate) async fn product(&self, id: i64) -> Result<Product, ShopError> {
        self.write("product", async |tx| {
            repository::find_product(&mut *tx, id).await?.ok_or(ShopError::NotFound)
        })
        .await
    }
}
