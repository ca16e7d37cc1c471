//! Inserts that report the id of the job.

use futures_core::future::BoxFuture;
use sqlx::MySql;

use super::SQL;
use crate::queue::insertion::NewRows;
use crate::queue::row::Inserted;
use crate::tx::Tx;

/// Inserts jobs, and reports the id of a single one.
///
/// Uses `IGNORE` and not `ON DUPLICATE KEY UPDATE`, after which a new row cannot be distinguished from an
/// existing one, because sqlx makes the server count matched rows. `IGNORE` would also truncate values that
/// are too long, but those have been refused before.
pub(super) fn insert<'t>(
    tx: &'t mut Tx<MySql>,
    rows: NewRows<'_>,
) -> BoxFuture<'t, Result<Inserted, sqlx::Error>> {
    let ((values, arguments), bytes) = (rows.values::<MySql>(SQL.now), rows.bytes());
    let schema = rows.schema;
    Box::pin(async move {
        SQL.check_size(tx, bytes).await?;
        let sql = sqlx::AssertSqlSafe(schema.in_sql(format!("INSERT IGNORE INTO {values}")));
        let query = sqlx::query(sql).persistent(false);
        let query = arguments.into_iter().fold(query, |query, text| query.bind(text));
        let done = query.execute(&mut *tx).await?;
        Ok(Inserted {
            rows: done.rows_affected(),
            id: (done.rows_affected() > 0).then(|| done.last_insert_id().cast_signed()),
        })
    })
}
