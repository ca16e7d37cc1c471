//! Claims jobs, and marks spent jobs as dead.

use std::sync::Arc;

use tokio::time::Instant;

use super::admission;
use super::claim::Claim;
use super::job::micros;
use super::log::{self, Death};
use super::position::IndexPosition;
use super::priority::Priority;
use super::row::{JOB, JobRow, JobsWanted};
use super::sql::{DriverCalls, LEASE_EXPIRED, QueueSql, execute, fetch_jobs, id_list};
use super::{Queue, spent};
use crate::backend::Backend;
use crate::error::Error;
use crate::transactor::{Transactor, TransactorExt as _};
use crate::tx::Tx;

/// The maximum number of jobs that one statement claims.
const MAX_BATCH: usize = 1_000;

/// The result of a claim.
pub(super) struct ClaimedJobs<DB: Backend> {
    pub(super) claims: Vec<Claim<DB>>,
    /// The ids of spent jobs that were marked dead.
    pub(super) died: Vec<i64>,
    /// The error that ended the claim after a part of it, so that jobs may be due that were not claimed.
    pub(super) interrupted: Option<Error>,
}

/// Claims jobs outside of a worker. If an error interrupts the claim, returns the jobs that were claimed
/// before, and logs the error.
pub(super) async fn claim_and_log<DB: Backend>(
    queue: &Queue<DB>,
    limit: usize,
) -> Result<Vec<Claim<DB>>, Error> {
    let ClaimedJobs { claims, interrupted, died: _ } = claim(queue, limit).await?;
    match interrupted {
        Some(error) if claims.is_empty() => Err(error),
        Some(error) => {
            log::interrupted(&queue.name, claims.len(), &error);
            Ok(claims)
        }
        None => Ok(claims),
    }
}

#[cfg(feature = "testing")]
impl<DB: Backend> Queue<DB> {
    /// Claims jobs in a transaction of this transactor, if they need nothing else: for tests that control it.
    ///
    /// # Errors
    ///
    /// Those of [`claim`](Self::claim).
    #[doc(hidden)]
    pub async fn claim_through(
        &self,
        db: &impl Transactor<DB>,
        limit: usize,
    ) -> Result<Vec<Claim<DB>>, Error> {
        let (requested, start) = (Instant::now(), [IndexPosition::START; Priority::ALL.len()]);
        let wanted = JobsWanted { queue: self.name.clone(), limit, start, lease: self.lease };
        let rows = claim_rows_through(self, db, wanted).await?;
        let can_start = |row: &JobRow| !row.is_spent() && !row.needs_slot();
        let queue = Arc::new(self.clone());
        Ok(rows.into_iter().filter(can_start).map(|row| Claim::new(&queue, row, requested)).collect())
    }
}

/// Claims jobs until there are `limit` of them, or no more are due. Spent jobs are marked dead on the way and
/// do not count.
pub(super) async fn claim<DB: Backend>(queue: &Queue<DB>, limit: usize) -> Result<ClaimedJobs<DB>, Error> {
    let (mut start, mut is_full_scan) = queue.cursor.start();
    let (mut claimed, mut died, mut interrupted) = (Vec::new(), Vec::new(), None);
    while claimed.len() < limit {
        let batch = (limit - claimed.len()).min(MAX_BATCH);
        let requested = Instant::now();
        let wanted = JobsWanted { queue: queue.name.clone(), limit: batch, start, lease: queue.lease };
        let rows = match claim_rows(queue, wanted).await {
            Ok(rows) => rows,
            Err(error) if claimed.is_empty() && died.is_empty() => return Err(error),
            // Without their claims, the jobs claimed so far would wait for their leases to expire.
            Err(error) => {
                interrupted = Some(error);
                break;
            }
        };
        queue.cursor.advance(&rows, is_full_scan.then(|| requested.elapsed()));
        let is_short = rows.len() < batch;
        let settled = admission::settle_keys(queue, rows).await;
        for row in &settled.died {
            log::died(&queue.name, row.id, Death::Lapsed, row.attempts, LEASE_EXPIRED);
            died.push(row.id);
        }
        interrupted = settled.error.or(interrupted);
        let rows = settled.rows;
        let (spent, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(JobRow::is_spent);
        claimed.extend(rows.into_iter().map(|row| (row, requested)));
        if !spent.is_empty() {
            // There may be many more spent jobs; marking them now saves a claim for each batch of them.
            let others = spent::mark_dead(queue, start).await.unwrap_or_else(|error| {
                interrupted = Some(error);
                Vec::new()
            });
            for row in spent.iter().chain(&others) {
                log::died(&queue.name, row.id, Death::Lapsed, row.attempts, LEASE_EXPIRED);
                died.push(row.id);
            }
        } else if is_short && claimed.is_empty() && !is_full_scan && queue.cursor.may_scan_all() {
            (start, is_full_scan) = ([IndexPosition::START; Priority::ALL.len()], true);
        } else if is_short {
            break;
        }
    }
    claimed.sort_by_key(|(row, _)| (row.priority, row.due_at, row.id));
    let queue = Arc::new(queue.clone());
    let claims = claimed.into_iter().map(|(row, requested)| Claim::new(&queue, row, requested)).collect();
    Ok(ClaimedJobs { claims, died, interrupted })
}

/// Claims jobs in a transaction of its own, and returns their rows as they were before the claim.
async fn claim_rows<DB: Backend>(queue: &Queue<DB>, wanted: JobsWanted) -> Result<Vec<JobRow>, Error> {
    let alone = DriverCalls::get().filter(|_| !queue.db.has_local_settings());
    if let Some(claim) = alone.and_then(|calls| calls.claim)
        && queue.db.engine().await?.claims_in_one_statement()
    {
        return claim(&queue.db, wanted).await;
    }
    claim_rows_through(queue, &queue.db, wanted).await
}

async fn claim_rows_through<DB: Backend>(
    queue: &Queue<DB>,
    db: &impl Transactor<DB>,
    wanted: JobsWanted,
) -> Result<Vec<JobRow>, Error> {
    let JobsWanted { queue: name, limit, start, lease } = wanted;
    let (sql, name) = (QueueSql::of::<DB>(), format!("'{name}'"));
    let claim = sql.claim(&micros(lease).to_string());
    let claim_due = async |tx: &mut Tx<DB>| {
        let mut rows = Vec::new();
        for (priority, start) in Priority::ALL.into_iter().zip(start) {
            if rows.len() < limit {
                let (number, after) = (priority.number().to_string(), sql.after(start));
                let left = (limit - rows.len()).to_string();
                let due = sql.select_due(JOB, &name, &number, &after, &left);
                rows.extend(fetch_jobs(tx, queue.schema(), due).await?);
            }
        }
        if !rows.is_empty() {
            let ids = id_list(rows.iter().map(|row| row.id));
            execute(tx, queue.schema(), format!("{claim} WHERE id IN ({ids})")).await?;
        }
        Ok(rows)
    };
    db.run(claim_due).await
}
