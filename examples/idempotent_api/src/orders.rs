//! The table of orders.

use atomically::{Backend, Tx};
use serde::{Deserialize, Serialize};
use sqlx::{AssertSqlSafe, Pool, SqlSafeStr as _, SqlStr};

/// An order, as it is stored and sent.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub(crate) struct Order {
    pub(crate) id: i64,
    pub(crate) item: String,
    pub(crate) quantity: i64,
    pub(crate) version: i64,
}

/// The body of a request.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) item: String,
    pub(crate) quantity: i64,
}

/// A database with the table of orders.
pub(crate) trait OrderStore: Backend {
    const NUMBERED_PARAMETERS: bool;

    /// Creates the table if it does not exist.
    fn create(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Stores a new order, and returns its id.
    fn insert(tx: &mut Tx<Self>, wanted: &Wanted) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;

    /// Reads an order.
    fn find(
        tx: &mut Tx<Self>,
        id: i64,
        access: RowAccess,
    ) -> impl Future<Output = Result<Option<Order>, sqlx::Error>> + Send;

    /// Writes an order, and returns the number of rows that have changed.
    fn update(tx: &mut Tx<Self>, order: &Order) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    /// The text with this database's own placeholders instead of `?`.
    fn sql(text: &'static str) -> SqlStr {
        if !Self::NUMBERED_PARAMETERS {
            return text.into_sql_str();
        }
        let mut parts = text.split('?');
        let mut sql = parts.next().unwrap_or_default().to_owned();
        for (number, part) in (1..).zip(parts) {
            sql.push_str(&format!("${number}{part}"));
        }
        AssertSqlSafe(sql).into_sql_str()
    }
}

/// What a row is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowAccess {
    Show,
    Change,
}

// A macro, because this program supports three databases, and sqlx's executors are implemented for each of
// them. A program for one database needs only the functions.
macro_rules! orders {
    ($database:ty, numbered_parameters: $numbered:literal, id: $id:literal, $insert:item) => {
        impl OrderStore for $database {
            const NUMBERED_PARAMETERS: bool = $numbered;

            $insert

            async fn create(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
                let table = concat!(
                    "CREATE TABLE IF NOT EXISTS orders (id ",
                    $id,
                    ", item VARCHAR(255) NOT NULL, quantity BIGINT NOT NULL, version BIGINT NOT NULL)"
                );
                sqlx::query(table).execute(pool).await.map(drop)
            }

            async fn find(
                tx: &mut Tx<Self>,
                id: i64,
                access: RowAccess,
            ) -> Result<Option<Order>, sqlx::Error> {
                let mut select = Self::sql("SELECT id, item, quantity, version FROM orders WHERE id = ?");
                if access == RowAccess::Change {
                    select = tx.for_update(select);
                }
                sqlx::query_as(select).bind(id).fetch_optional(&mut *tx).await
            }

            async fn update(tx: &mut Tx<Self>, order: &Order) -> Result<u64, sqlx::Error> {
                let update = Self::sql("UPDATE orders SET item = ?, quantity = ?, version = ? WHERE id = ?");
                let query = sqlx::query(update).bind(&order.item).bind(order.quantity);
                Ok(query.bind(order.version).bind(order.id).execute(&mut *tx).await?.rows_affected())
            }
        }
    };
}

orders!(
    sqlx::Sqlite,
    numbered_parameters: false,
    id: "INTEGER PRIMARY KEY",
    async fn insert(tx: &mut Tx<Self>, wanted: &Wanted) -> Result<i64, sqlx::Error> {
        let insert = "INSERT INTO orders (item, quantity, version) VALUES (?, ?, 1) RETURNING id";
        sqlx::query_scalar(insert).bind(&wanted.item).bind(wanted.quantity).fetch_one(&mut *tx).await
    }
);

#[cfg(feature = "postgres")]
orders!(
    sqlx::Postgres,
    numbered_parameters: true,
    id: "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    async fn insert(tx: &mut Tx<Self>, wanted: &Wanted) -> Result<i64, sqlx::Error> {
        let insert = "INSERT INTO orders (item, quantity, version) VALUES ($1, $2, 1) RETURNING id";
        sqlx::query_scalar(insert).bind(&wanted.item).bind(wanted.quantity).fetch_one(&mut *tx).await
    }
);

#[cfg(feature = "mysql")]
orders!(
    sqlx::MySql,
    numbered_parameters: false,
    id: "BIGINT AUTO_INCREMENT PRIMARY KEY",
    // MySQL has no RETURNING.
    async fn insert(tx: &mut Tx<Self>, wanted: &Wanted) -> Result<i64, sqlx::Error> {
        let insert = "INSERT INTO orders (item, quantity, version) VALUES (?, ?, 1)";
        let done = sqlx::query(insert).bind(&wanted.item).bind(wanted.quantity).execute(&mut *tx).await?;
        i64::try_from(done.last_insert_id()).map_err(|error| sqlx::Error::Decode(error.into()))
    }
);
