//! Statements of SeaORM.

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, ExecResult, QueryResult, RuntimeErr, Statement, Values};
use sea_query_sqlx::SqlxValues;
use sqlx::{AssertSqlSafe, Executor as _, SqlSafeStr as _};

use super::{SeaOrm, SeaOrmBackend};
use crate::backend::WatchedQuery;

/// Takes a statement apart. Like SeaORM on a connection of its own, it is kept as a prepared statement.
pub(super) fn query<DB: SeaOrmBackend>(statement: Statement) -> WatchedQuery<DB> {
    let Statement { sql, values, .. } = statement;
    let arguments = DB::arguments(SqlxValues(values.unwrap_or(Values(Vec::new()))));
    WatchedQuery::with_arguments(AssertSqlSafe(sql).into_sql_str(), arguments).persistent_if(true)
}

pub(super) fn query_error(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(error.into()))
}

#[async_trait]
impl<DB: SeaOrmBackend> ConnectionTrait for SeaOrm<'_, DB> {
    fn get_database_backend(&self) -> DbBackend {
        DB::BACKEND
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        let mut lent = self.lend().await?;
        let done = lent.tx.execute(query(statement)).await;
        done.map(Into::into).map_err(|error| DbErr::Exec(RuntimeErr::SqlxError(error.into())))
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        let mut lent = self.lend().await?;
        let done = lent.tx.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
        done.map(Into::into).map_err(|error| DbErr::Exec(RuntimeErr::SqlxError(error.into())))
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        let mut lent = self.lend().await?;
        let row = lent.tx.fetch_optional(query(statement)).await.map_err(query_error)?;
        Ok(row.map(Into::into))
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let mut lent = self.lend().await?;
        let rows = lent.tx.fetch_all(query(statement)).await.map_err(query_error)?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    fn support_returning(&self) -> bool {
        DB::BACKEND.support_returning()
    }
}
