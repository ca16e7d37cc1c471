//! Marks spent jobs as dead: those whose last attempt began and did not end.

use super::Queue;
use super::position::IndexPosition;
use super::priority::Priority;
use super::row::{JOB, JobRow};
use super::sql::{QueueSql, execute, fetch_integers, fetch_jobs, id_list};
use crate::backend::Backend;
use crate::error::Error;
use crate::transactor::TransactorExt as _;
use crate::tx::Tx;

/// The number of due jobs that are searched for spent ones, in each priority.
const MAX_SEARCHED: usize = 1_000;

/// Marks the spent jobs among the first due jobs of each priority as dead, and returns them.
///
/// The search takes no locks, because they would make other claims skip jobs that can be claimed.
pub(super) async fn mark_dead<DB: Backend>(
    queue: &Queue<DB>,
    start: [IndexPosition; Priority::ALL.len()],
) -> Result<Vec<JobRow>, Error> {
    let sql = QueueSql::of::<DB>();
    let QueueSql { now, index_hint, lock, .. } = sql;
    let (name, no_lease) = (&queue.name, sql.no_lease());
    let first = Priority::ALL.into_iter().zip(start).map(|(priority, start)| {
        let (number, after) = (priority.number(), sql.after(start));
        format!(
            "SELECT id, attempts, max_attempts FROM (SELECT id, attempts, max_attempts \
             FROM atomically_job {index_hint} \
             WHERE queue = '{name}' AND priority = {number} AND {after} AND due_at <= {now} \
             AND key_id IS NULL \
             ORDER BY due_at, id LIMIT {MAX_SEARCHED}) AS first_{number}"
        )
    });
    let first = first.collect::<Vec<_>>().join(" UNION ALL ");
    let spent = format!("SELECT id FROM ({first}) AS due WHERE attempts >= max_attempts");
    let mark = sql.claim("0");
    queue
        .db
        .run(async |tx: &mut Tx<DB>| {
            let ids = fetch_integers(tx, queue.schema(), spent.clone()).await?;
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            let still_spent = format!(
                "SELECT {JOB} FROM atomically_job WHERE id IN ({}) AND attempts >= max_attempts \
                 AND due_at <= {now} AND {no_lease} ORDER BY id {lock}",
                id_list(ids)
            );
            let rows = fetch_jobs(tx, queue.schema(), still_spent).await?;
            if !rows.is_empty() {
                let ids = id_list(rows.iter().map(|row| row.id));
                execute(tx, queue.schema(), format!("{mark} WHERE id IN ({ids})")).await?;
            }
            Ok(rows)
        })
        .await
}
