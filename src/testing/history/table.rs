//! Lists in a table, on each database.

use std::collections::BTreeMap;

use futures_core::future::BoxFuture;
use sqlx::Pool;

use crate::backend::Backend;
use crate::error::Error;
use crate::tx::Tx;

/// The rows of one run in a table.
#[doc(hidden)]
#[derive(Debug)]
pub struct Table {
    /// Its name.
    pub(super) name: String,
    /// What tells the rows of this run from those of others.
    pub(super) run: i64,
}

/// What a statement answers.
type Answer<'a, T> = BoxFuture<'a, Result<T, Error>>;

/// A database that can hold lists: every [`Backend`] can.
///
/// The trait exists because queries cannot be run over a generic database without sqlx's bounds in every signature. It is
/// implemented for all of them, and cannot be for others.
pub trait Lists: Backend + Statements {}

/// The statements of the workload.
#[doc(hidden)]
pub trait Statements: Backend {
    /// Makes the table where it is missing, and empty lists with the keys from 1 to `keys`.
    fn create<'a>(pool: &'a Pool<Self>, table: &'a Table, keys: i64) -> Answer<'a, ()>;

    /// A list and its version; read for update, or not.
    fn read<'a>(
        tx: &'a mut Tx<Self>,
        table: &'a Table,
        key: i64,
        for_update: bool,
    ) -> Answer<'a, (Vec<i64>, i64)>;

    /// Has the database append.
    fn append<'a>(tx: &'a mut Tx<Self>, table: &'a Table, key: i64, value: i64) -> Answer<'a, ()>;

    /// Puts another list in the place of the one of this version, or of whatever is there.
    fn write<'a>(
        tx: &'a mut Tx<Self>,
        table: &'a Table,
        key: i64,
        list: &'a [i64],
        version: Option<i64>,
    ) -> Answer<'a, u64>;

    /// All lists, outside of any transaction.
    fn read_all<'a>(pool: &'a Pool<Self>, table: &'a Table) -> Answer<'a, BTreeMap<i64, Vec<i64>>>;
}

/// The text of the values, each after a space.
fn text(list: &[i64]) -> String {
    list.iter().map(|value| format!(" {value}")).collect()
}

fn parse(text: &str) -> Result<Vec<i64>, Error> {
    let values = text.split_whitespace().map(str::parse).collect::<Result<_, _>>();
    values.map_err(|error| Error::from(sqlx::Error::Decode(Box::new(error))))
}

/// Numbers are written into the text, which makes it the same everywhere: the databases number parameters differently.
#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
macro_rules! lists {
    ($database:ty, $text:literal, $concatenation:literal) => {
        impl Lists for $database {}

        impl Statements for $database {
            fn create<'a>(
                pool: &'a Pool<Self>,
                Table { name, run }: &'a Table,
                keys: i64,
            ) -> Answer<'a, ()> {
                Box::pin(async move {
                    let create = format!(
                        "CREATE TABLE IF NOT EXISTS {name} (run BIGINT NOT NULL, id BIGINT NOT NULL, \
                         elements {} NOT NULL, version BIGINT NOT NULL, PRIMARY KEY (run, id))",
                        $text
                    );
                    // On PostgreSQL two who make it at the same time are in each other's way. The second time it is there.
                    if sqlx::raw_sql(AssertSqlSafe(create.clone())).execute(pool).await.is_err() {
                        sqlx::raw_sql(AssertSqlSafe(create)).execute(pool).await?;
                    }
                    let rows: Vec<_> = (1..=keys).map(|key| format!("({run}, {key}, '', 0)")).collect();
                    let insert = format!("INSERT INTO {name} VALUES {}", rows.join(", "));
                    sqlx::raw_sql(AssertSqlSafe(insert)).execute(pool).await?;
                    Ok(())
                })
            }

            fn read<'a>(
                tx: &'a mut Tx<Self>,
                Table { name, run }: &'a Table,
                key: i64,
                for_update: bool,
            ) -> Answer<'a, (Vec<i64>, i64)> {
                Box::pin(async move {
                    let select = AssertSqlSafe(format!(
                        "SELECT elements, version FROM {name} WHERE run = {run} AND id = {key}"
                    ));
                    let select = if for_update { tx.for_update(select) } else { select.into_sql_str() };
                    let row = tx.fetch_one(sqlx::raw_sql(select)).await?;
                    Ok((parse(row.try_get(0)?)?, row.try_get(1)?))
                })
            }

            fn append<'a>(
                tx: &'a mut Tx<Self>,
                Table { name, run }: &'a Table,
                key: i64,
                value: i64,
            ) -> Answer<'a, ()> {
                Box::pin(async move {
                    let update = format!(
                        "UPDATE {name} SET elements = {}, version = version + 1 WHERE run = {run} AND id = {key}",
                        $concatenation.replace("value", &value.to_string())
                    );
                    let done = tx.execute(sqlx::raw_sql(AssertSqlSafe(update))).await?;
                    tx.expect_one(done.rows_affected())
                })
            }

            fn write<'a>(
                tx: &'a mut Tx<Self>,
                Table { name, run }: &'a Table,
                key: i64,
                list: &'a [i64],
                version: Option<i64>,
            ) -> Answer<'a, u64> {
                Box::pin(async move {
                    let check = version.map(|version| format!(" AND version = {version}")).unwrap_or_default();
                    let update = format!(
                        "UPDATE {name} SET elements = '{}', version = version + 1 \
                         WHERE run = {run} AND id = {key}{check}",
                        text(list)
                    );
                    Ok(tx.execute(sqlx::raw_sql(AssertSqlSafe(update))).await?.rows_affected())
                })
            }

            fn read_all<'a>(
                pool: &'a Pool<Self>,
                Table { name, run }: &'a Table,
            ) -> Answer<'a, BTreeMap<i64, Vec<i64>>> {
                Box::pin(async move {
                    let select = format!("SELECT id, elements FROM {name} WHERE run = {run} ORDER BY id");
                    let rows = sqlx::raw_sql(AssertSqlSafe(select)).fetch_all(pool).await?;
                    rows.iter().map(|row| Ok((row.try_get(0)?, parse(row.try_get(1)?)?))).collect()
                })
            }
        }
    };
}

#[cfg(any(feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod databases {
    use sqlx::{AssertSqlSafe, Executor as _, Row as _, SqlSafeStr as _};

    use super::*;

    #[cfg(feature = "mysql")]
    lists!(sqlx::MySql, "MEDIUMTEXT", "CONCAT(elements, ' value')");
    #[cfg(feature = "postgres")]
    lists!(sqlx::Postgres, "TEXT", "elements || ' value'");
    #[cfg(feature = "sqlite")]
    lists!(sqlx::Sqlite, "TEXT", "elements || ' value'");
}
