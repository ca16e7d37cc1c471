//! A statement on the table of holds, and its values.

use sqlx::{AssertSqlSafe, SqlSafeStr as _};

use crate::backend::{Backend, Value, WatchedQuery};
use crate::schema::Schema;
use crate::tx::{Expectation, Tx};

/// A statement that is built piece by piece.
///
/// Numbers are written into its text. So is text that cannot end a literal; all other text is bound. A
/// statement without bound values takes one round trip and leaves nothing behind in the session.
pub(super) struct Statement<DB: Backend> {
    sql: String,
    arguments: DB::Arguments,
    bound: usize,
}

impl<DB: Backend> Statement<DB> {
    pub(super) fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), arguments: DB::Arguments::default(), bound: 0 }
    }

    pub(super) fn sql(mut self, sql: impl AsRef<str>) -> Self {
        self.sql.push_str(sql.as_ref());
        self
    }

    pub(super) fn text(mut self, text: &str) -> Result<Self, sqlx::Error> {
        if text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
            return Ok(self.sql("'").sql(text).sql("'"));
        }
        self.bound += 1;
        let placeholder = DB::placeholder(self.bound);
        DB::bind(&mut self.arguments, Value::Text(Some(text.to_owned()))).map_err(sqlx::Error::Encode)?;
        Ok(self.sql(placeholder))
    }

    fn query(self, schema: Schema) -> Result<WatchedQuery<DB>, sqlx::Error> {
        let sql = schema.in_sql(self.sql);
        match self.bound {
            0 => WatchedQuery::with_values(sql, []),
            _ => Ok(WatchedQuery::with_arguments(AssertSqlSafe(sql).into_sql_str(), self.arguments)),
        }
    }

    /// Runs the statement with COMMIT if its values may be written into that text, and otherwise at once.
    pub(super) async fn at_commit(
        self,
        tx: &mut Tx<DB>,
        schema: Schema,
        shares_texts: bool,
    ) -> Result<(), sqlx::Error> {
        let query = self.query(schema)?;
        let may_share = shares_texts && tx.shares_texts() && DB::adds_at_commit(&tx.engine());
        if may_share && tx.keep_queries(vec![(query.clone(), Expectation::Success)]) {
            return Ok(());
        }
        tx.execute_query(query).await.map(drop)
    }

    /// Returns the number of rows that it affected.
    pub(super) async fn execute(self, tx: &mut Tx<DB>, schema: Schema) -> Result<u64, sqlx::Error> {
        let query = self.query(schema)?;
        tx.execute_query(query).await
    }

    pub(super) async fn rows(self, tx: &mut Tx<DB>, schema: Schema) -> Result<Vec<DB::Row>, sqlx::Error> {
        let query = self.query(schema)?;
        tx.fetch_rows(query).await
    }
}
