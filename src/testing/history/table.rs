//! Lists in a table: the statements of the workload.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Pool, SqlSafeStr as _};

use crate::backend::{Backend, WatchedQuery, required};
use crate::error::Error;
use crate::sql_text::Syntax;
use crate::tx::Tx;

/// The rows of one run in a table.
///
/// Numbers are written into the text of the statements: databases number parameters differently.
#[derive(Debug)]
pub(super) struct ListTable {
    /// The name of the table.
    pub(super) name: String,
    /// Distinguishes the rows of this run from those of others.
    pub(super) run: i64,
}

impl ListTable {
    /// Creates the table if it is missing, and empty lists with the keys from 1 to `keys`.
    pub(super) async fn create<DB: Backend>(&self, pool: &Pool<DB>, keys: i64) -> Result<(), Error> {
        let Self { name, run } = self;
        let text = if DB::SYNTAX == Syntax::MySql { "MEDIUMTEXT" } else { "TEXT" };
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {name} (run BIGINT NOT NULL, id BIGINT NOT NULL, \
             elements {text} NOT NULL, version BIGINT NOT NULL, PRIMARY KEY (run, id))"
        );
        let mut connection = pool.acquire().await?;
        // On PostgreSQL, two sessions that create it at the same time conflict. The second time it is there.
        if DB::send_statement(&mut connection, query(create.clone())?).await.is_err() {
            DB::send_statement(&mut connection, query(create)?).await?;
        }
        let rows: Vec<_> = (1..=keys).map(|key| format!("({run}, {key}, '', 0)")).collect();
        let insert = format!("INSERT INTO {name} VALUES {}", rows.join(", "));
        DB::send_statement(&mut connection, query(insert)?).await?;
        Ok(())
    }

    /// Reads a list and its version, for update or not.
    pub(super) async fn read<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        key: i64,
        for_update: bool,
    ) -> Result<(Vec<i64>, i64), Error> {
        let Self { name, run } = self;
        let select = format!("SELECT elements, version FROM {name} WHERE run = {run} AND id = {key}");
        let select = if for_update {
            tx.for_update(AssertSqlSafe(select))
        } else {
            AssertSqlSafe(select).into_sql_str()
        };
        let rows = tx.fetch_rows(query(select.as_str().to_owned())?).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok((parse(&required(DB::text(row, 0)?, 0)?)?, required(DB::integer(row, 1)?, 1)?))
    }

    /// Appends a value in the database.
    pub(super) async fn append<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        key: i64,
        value: i64,
    ) -> Result<(), Error> {
        let Self { name, run } = self;
        let longer = if DB::SYNTAX == Syntax::MySql {
            format!("CONCAT(elements, ' {value}')")
        } else {
            format!("elements || ' {value}'")
        };
        let update = format!(
            "UPDATE {name} SET elements = {longer}, version = version + 1 WHERE run = {run} AND id = {key}"
        );
        let rows = tx.execute_query(query(update)?).await?;
        tx.expect_one(rows)
    }

    /// Replaces the list, if it has this version or if none is given. Returns how many rows were changed.
    pub(super) async fn write<DB: Backend>(
        &self,
        tx: &mut Tx<DB>,
        key: i64,
        list: &[i64],
        version: Option<i64>,
    ) -> Result<u64, Error> {
        let Self { name, run } = self;
        let check = version.map(|version| format!(" AND version = {version}")).unwrap_or_default();
        let update = format!(
            "UPDATE {name} SET elements = '{}', version = version + 1 WHERE run = {run} AND id = {key}{check}",
            text(list)
        );
        Ok(tx.execute_query(query(update)?).await?)
    }

    /// Reads all lists, outside of any transaction.
    pub(super) async fn read_all<DB: Backend>(
        &self,
        pool: &Pool<DB>,
    ) -> Result<BTreeMap<i64, Vec<i64>>, Error> {
        let Self { name, run } = self;
        let select = format!("SELECT id, elements FROM {name} WHERE run = {run} ORDER BY id");
        let rows = DB::send_for_rows(&mut *pool.acquire().await?, query(select)?).await?;
        let list = |row: &DB::Row| -> Result<_, Error> {
            Ok((required(DB::integer(row, 0)?, 0)?, parse(&required(DB::text(row, 1)?, 1)?)?))
        };
        rows.iter().map(list).collect()
    }
}

fn query<DB: Backend>(sql: String) -> Result<WatchedQuery<DB>, sqlx::Error> {
    WatchedQuery::with_values(sql, [])
}

/// The text of the values, each after a space.
fn text(list: &[i64]) -> String {
    list.iter().map(|value| format!(" {value}")).collect()
}

fn parse(text: &str) -> Result<Vec<i64>, Error> {
    let values = text.split_whitespace().map(str::parse).collect::<Result<_, _>>();
    values.map_err(|error| Error::from(sqlx::Error::Decode(Box::new(error))))
}
