//! Additions that are checked and made in one statement.

use std::any::TypeId;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_core::future::BoxFuture;
use futures_util::TryStreamExt as _;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{
    Arguments as _, AssertSqlSafe, Either, Row as _, SqlSafeStr as _, SqlStr, Sqlite, SqliteConnection,
};

use super::transaction::USUAL_BUSY_TIMEOUT;
use crate::backend::additions::{AddInOneStatement, Addition, Target};
use crate::backend::codec::{Codec as _, Key};
use crate::backend::engine::Engine;
use crate::backend::query::WatchedQuery;
use crate::backend::wire::Wire as _;
use crate::strategy::Limits;

/// Adds to the rows whose numbers are within the requested range, in one statement.
///
/// # Why is it worth it?
///
/// The driver runs each statement in a thread of its connection, and passing statements and rows to that
/// thread and back takes longer than most statements. Since SQLite has one writer, a statement that has begun
/// to write is alone with its rows: nothing is gained by locking and reading them first.
struct UpdateOfRows {
    target: Target,
    /// What SQLite calls the type of the keys.
    key_type: &'static str,
    sql: SqlStr,
    /// How long a connection waits for the writer. Asked before the first statement.
    busy_timeout: Arc<OnceLock<Duration>>,
}

/// Returns the statement; `None` for keys that the driver might not decode as they were bound, or if the
/// table is named in a way in which its triggers cannot be found.
pub(super) fn statement<K: Key<Sqlite>>(target: Target) -> Option<Box<dyn AddInOneStatement<Sqlite, K>>> {
    let key = TypeId::of::<K>();
    let integers = [TypeId::of::<i64>(), TypeId::of::<i32>(), TypeId::of::<i16>()];
    let key_type = match key {
        _ if integers.contains(&key) => "integer",
        _ if key == TypeId::of::<String>() => "text",
        _ => return None,
    };
    let mut name = target.table.chars();
    let is_plain = name.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && name.all(|next| next.is_ascii_alphanumeric() || next == '_');
    let sql = AssertSqlSafe(text(target, key_type, 1)).into_sql_str();
    let busy_timeout = Arc::default();
    is_plain.then(|| Box::new(UpdateOfRows { target, key_type, sql, busy_timeout }) as _)
}

/// Fails if another user of the pool has left a transaction open on the connection: the additions would be
/// reported as stored, and undone by the rollback that ends it.
const FAILS_IN_TRANSACTION: &str = "BEGIN; COMMIT";

/// The number of results of the whole text.
const RESULTS: usize = 3;

/// Returns the text for this number of changes.
///
/// The list of changes has a name that no table of the caller has, which it would hide in the subqueries.
/// Only the main database is searched for triggers, so the table must not be in another one. `OR ABORT`
/// undoes the whole statement if a constraint is violated, even if the table requests something else. The
/// plus signs hide the types of the columns, so that what was stored is decoded in any case.
fn text(Target { table, key, column }: Target, key_type: &str, changes: usize) -> String {
    let values = vec!["(?, ?, ?, ?)"; changes].join(", ");
    format!(
        "WITH atomically_change (id, delta, least, most) AS (VALUES {values}) \
         UPDATE OR ABORT {table} AS target SET {column} = target.{column} + change.delta \
         FROM atomically_change AS change \
         WHERE target.{key} = change.id AND typeof(target.{key}) = '{key_type}' \
         AND target.{key} = change.id COLLATE BINARY \
         AND typeof(target.{column}) = 'integer' \
         AND target.{column} BETWEEN change.least AND change.most \
         AND (SELECT COUNT(*) FROM (SELECT 1 FROM {table} AS other \
             WHERE other.{key} = change.id LIMIT 2)) = 1 \
         AND EXISTS (SELECT 1 FROM main.sqlite_master \
             WHERE type = 'table' AND name = '{table}' COLLATE NOCASE) \
         AND NOT EXISTS (SELECT 1 FROM main.sqlite_master \
             WHERE type = 'trigger' AND tbl_name = '{table}' COLLATE NOCASE) \
         AND NOT EXISTS (SELECT 1 FROM sqlite_temp_master WHERE tbl_name = '{table}' COLLATE NOCASE) \
         RETURNING +{key}, +{column}"
    )
}

/// Returns the values of the changes. The statement is prepared for few different numbers of them, so they
/// are filled up with changes of no row.
fn arguments<K: Key<Sqlite>>(additions: &[Addition<'_, K>]) -> Result<SqliteArguments, BoxDynError> {
    let mut arguments = SqliteArguments::default();
    for Addition { key, delta, to } in additions {
        arguments.add(*key)?;
        for number in [*delta, *to.start(), *to.end()] {
            arguments.add(number)?;
        }
    }
    for _ in 0..4 * (additions.len().next_power_of_two() - additions.len()) {
        arguments.add(None::<i64>)?;
    }
    Ok(arguments)
}

impl<K: Key<Sqlite>> AddInOneStatement<Sqlite, K> for UpdateOfRows {
    fn sql(&self) -> SqlStr {
        self.sql.clone()
    }

    /// There is one product.
    fn runs_on(&self, _engine: &Engine) -> bool {
        true
    }

    /// A limit for one statement would have to be set and restored by two others. The statement is therefore
    /// used only if a connection stops waiting by itself, long before the time is over.
    fn lock_wait(&self, left: Duration) -> Option<Duration> {
        let limit = self.busy_timeout.get().copied().unwrap_or(USUAL_BUSY_TIMEOUT);
        (limit <= left / 4 * 3).then_some(limit)
    }

    fn add<'c>(
        &self,
        connection: &'c mut SqliteConnection,
        additions: &[Addition<'_, K>],
        limits: &Limits,
    ) -> BoxFuture<'c, Result<Vec<(usize, i64)>, sqlx::Error>> {
        let changes = additions.len().next_power_of_two();
        let update = text(self.target, self.key_type, changes);
        let sql = AssertSqlSafe(format!("{FAILS_IN_TRANSACTION}; {update}")).into_sql_str();
        let arguments = arguments(additions);
        let added: Vec<(K, i64)> = additions.iter().map(|one| (one.key.clone(), one.delta)).collect();
        let (busy_timeout, max_wait) = (self.busy_timeout.clone(), limits.lock);
        Box::pin(async move {
            if busy_timeout.get().is_none() {
                let limit = asked_busy_timeout(connection).await?;
                if max_wait.is_none_or(|max| *busy_timeout.get_or_init(|| limit) > max) {
                    return Ok(Vec::new());
                }
            }
            let query = WatchedQuery::with_arguments(sql, arguments.map_err(sqlx::Error::Encode)?);
            let (mut made, mut results_read) = (Vec::new(), 0);
            let mut results = Sqlite::send_for_results(connection, query.persistent_if(true));
            while let Some(result) = results.try_next().await? {
                match result {
                    Either::Left(_) => results_read += 1,
                    Either::Right(row) => made.extend(position_and_number(&row, &added)),
                }
            }
            // The driver's thread may end without an error, and the statement may be stored or not.
            if results_read == RESULTS { Ok(made) } else { Err(sqlx::Error::WorkerCrashed) }
        })
    }
}

/// Returns the position of an addition that was made, and the number before it.
fn position_and_number<K: Key<Sqlite>>(row: &SqliteRow, added: &[(K, i64)]) -> Option<(usize, i64)> {
    let key = Sqlite::key::<K>(row, 0).ok()?;
    let position = added.binary_search_by(|(other, _)| other.cmp(&key)).ok()?;
    let number: i64 = row.try_get(1).ok()?;
    Some((position, number.wrapping_sub(added.get(position)?.1)))
}

/// Asks how long the connection waits for the writer.
async fn asked_busy_timeout(connection: &mut SqliteConnection) -> Result<Duration, sqlx::Error> {
    let reply = Sqlite::send_text(connection, "PRAGMA busy_timeout".to_owned()).await;
    match reply.error {
        Some(error) => Err(error),
        None => {
            let millis = reply.integers.first().and_then(|millis| u64::try_from(*millis).ok());
            Ok(Duration::from_millis(millis.unwrap_or_default()))
        }
    }
}
