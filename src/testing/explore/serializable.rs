//! Explorations that are judged by the serial orders of their clients: what is compared.

use crate::backend::Backend;

use super::Explore;
use super::oracle::ColumnName;

impl<DB: Backend> Explore<'_, DB> {
    /// Requires that each schedule ends like a serial order of its clients, which run one after the other.
    ///
    /// Before the first schedule, the clients run alone in every order, each time on the state that
    /// [`set_up`](Self::set_up) leaves. A schedule is right if what it leaves in the tables and what each
    /// client returns equals the outcome of one of these orders; if not, it is [not
    /// serializable](super::Problem::NotSerializable). No invariant is needed, and anomalies that only a
    /// reader sees are found as well.
    ///
    /// ```
    /// # #[cfg(feature = "sqlite")] #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use atomically::testing::explore;
    /// use atomically::{Error, Optimistic, Tx};
    /// use sqlx::{Sqlite, SqlitePool};
    ///
    /// async fn take_one(tx: &mut Tx<Sqlite>) -> Result<i64, Error> {
    ///     let left = "UPDATE product SET stock = stock - 1 RETURNING stock";
    ///     Ok(sqlx::query_scalar(left).fetch_one(&mut *tx).await?)
    /// }
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let file = format!("sqlite:{}?mode=rwc", directory.path().join("shop.db").display());
    /// let pool = SqlitePool::connect(&file).await?;
    /// sqlx::query("CREATE TABLE product (stock INTEGER)").execute(&pool).await?;
    ///
    /// let db = Optimistic::default().on(&pool);
    /// let report = explore(&pool)
    ///     .set_up(|pool| async move {
    ///         sqlx::raw_sql("DELETE FROM product; INSERT INTO product VALUES (10)").execute(&pool).await
    ///     })
    ///     .unit("alice", &db, take_one)
    ///     .unit("bob", &db, take_one)
    ///     .serializable()
    ///     .run()
    ///     .await?;
    /// report.assert_passes();
    /// assert_eq!(report.compared_tables, ["product"]);
    /// # Ok(()) }
    /// # #[cfg(not(feature = "sqlite"))] fn main() {}
    /// ```
    ///
    /// # What is compared
    ///
    /// - *Tables*: those that the clients' statements name, or those of [`tables`](Self::tables). The order
    ///   of rows does not matter. Tables that are only changed by triggers, cascades or functions have to be
    ///   named. The crate's own tables are never compared.
    /// - *Returned values*, by their `Debug` text. Reports can show it, any two types can be compared by it,
    ///   and generated ids can be renamed in it. What a type's `Debug` hides is not compared.
    /// - *Errors* of the clients' own, such as "sold out", by their `Display` text. Their units have run and
    ///   were rolled back.
    ///
    /// A client counts as one unit, even if it runs several transactions. A client that ends with an error of
    /// the database or of this crate counts as not having run, and the schedule is compared with the serial
    /// orders of the others. If its commit is unknown, both count. Such a client is no counterexample, unless
    /// it fails [in every serial order](super::ExploreError::FailsSerially).
    ///
    /// # Limits
    ///
    /// At most 6 clients. The clients must behave the same each time they run: values that differ from run
    /// to run, such as timestamps, are [left out](Self::ignoring), and generated ids are
    /// [renamed](Self::renaming).
    pub fn serializable(mut self) -> Self {
        self.oracle.is_enabled = true;
        self
    }

    /// Names the tables that [`serializable`](Self::serializable) compares, with or without their schema.
    ///
    /// By default, these are the tables that the statements of the clients name.
    pub fn tables<I: IntoIterator<Item = S>, S: Into<String>>(mut self, tables: I) -> Self {
        self.oracle.tables.extend(tables.into_iter().map(Into::into));
        self
    }

    /// Leaves a column out of the comparison of [`serializable`](Self::serializable): `updated_at` in all
    /// tables, or `product.updated_at` in one.
    pub fn ignoring(mut self, column: &str) -> Self {
        self.oracle.ignored.push(ColumnName::parse(column));
        self
    }

    /// Compares the generated ids in these columns up to renaming.
    ///
    /// The database draws ids from a sequence, so their values depend on the order and on earlier schedules.
    /// Ids that did not exist after the set-up may be renamed, the same id in the same way wherever it
    /// occurs: in each of these columns, and in the values that clients return. List a primary key together
    /// with the columns that refer to it: `.renaming(["booking.id", "ticket.booking_id"])`.
    pub fn renaming<'n>(mut self, columns: impl IntoIterator<Item = &'n str>) -> Self {
        self.oracle.ids.push(columns.into_iter().map(ColumnName::parse).collect());
        self
    }
}
