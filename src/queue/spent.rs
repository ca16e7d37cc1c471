//! Jobs whose last attempt began and did not end.

use super::priority::Priority;
use super::search::{MAX_BATCH, MarkPlace, claimed};
use super::sql::{JOB, JobRow, no_lease};
use super::{Queue, QueueBackend};
use crate::error::Error;
use crate::transactor::TransactorExt as _;
use crate::tx::Tx;

/// What is kept with a job whose last attempt was not heard of again.
pub(super) const LAPSED: &str =
    "the lease of the last attempt lapsed: its worker died, or was too slow to extend it";

/// Its last attempt has begun, and did not end.
pub(super) fn is_spent(row: &JobRow) -> bool {
    row.attempts >= row.max_attempts
}

/// Marks the spent among the first due jobs of each priority as dead, and returns the id of each and how
/// often it was tried.
///
/// They are looked for without locks, which would keep good jobs from other claims, and no further than a
/// thousand jobs.
pub(super) async fn bury<DB: QueueBackend>(
    queue: &Queue<DB>,
    since: [MarkPlace; Priority::ALL.len()],
) -> Result<Vec<(i64, u32)>, Error> {
    let (name, now, no_lease) = (&queue.name, DB::NOW, no_lease::<DB>());
    let first = Priority::ALL.into_iter().zip(since).map(|(priority, since)| {
        let (number, hint) = (priority.number(), DB::HINT);
        let behind = DB::behind(&since.due_at.to_string(), &since.id.to_string());
        format!(
            "SELECT id, attempts, max_attempts FROM (SELECT id, attempts, max_attempts FROM atomically_job {hint} \
             WHERE queue = '{name}' AND priority = {number} AND {behind} AND due_at <= {now} \
             ORDER BY due_at, id LIMIT {MAX_BATCH}) AS first_{number}"
        )
    });
    let first = first.collect::<Vec<_>>().join(" UNION ALL ");
    let spent = format!("SELECT id FROM ({first}) AS due WHERE attempts >= max_attempts");
    let burial = claimed::<DB>("0");
    queue
        .db
        .run(async |tx: &mut Tx<DB>| {
            let ids = DB::fetch_integers(tx, spent.clone(), Vec::new()).await?;
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            let held = format!(
                "SELECT {JOB} FROM atomically_job WHERE id IN ({}) AND attempts >= max_attempts AND due_at <= {now} \
                 AND {no_lease} ORDER BY id {}",
                listed(&ids),
                DB::LOCK
            );
            let buried = DB::fetch_jobs(tx, held).await?;
            if !buried.is_empty() {
                let ids: Vec<_> = buried.iter().map(|row| row.id).collect();
                DB::send(tx, format!("{burial} WHERE id IN ({})", listed(&ids)), Vec::new()).await?;
            }
            Ok(buried.into_iter().map(|row| (row.id, row.attempts.unsigned_abs())).collect())
        })
        .await
}

pub(super) fn listed(ids: &[i64]) -> String {
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}
