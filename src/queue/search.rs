//! Where to look for due jobs, and how they are claimed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::dialect::{JOB, Row, no_lease};
use super::job::micros;
use super::priority::Priority;
use super::{Claim, Queue, QueueBackend};
use crate::error::Error;
use crate::transactor::TransactorExt as _;
use crate::tx::Tx;

/// The most that is claimed at once.
const LARGEST_BATCH: usize = 1_000;

/// How long jobs that are behind the mark may be passed over.
const SWEEP: Duration = Duration::from_secs(1);

/// How far before the mark a claim looks: transactions do not commit in the order of their times.
const MARGIN: i64 = 50_000;

/// What is kept with a job whose last attempt was not heard of again.
const LAPSED: &str = "the lease of the last attempt lapsed: its worker died, or was too slow to prolong it";

/// Up to which due time jobs have been claimed, for each priority.
///
/// # Why?
///
/// Jobs that are done leave dead entries at the front of the index, and while some transaction holds back vacuum, it may be
/// a report, they stay there. Each claim would read through all of them, more at each claim. A claim that begins where the
/// last one ended does not see them. It is a hint only: what is due and behind it is found when there is nothing before it,
/// and once a second in any case.
#[derive(Debug, Default)]
pub(super) struct Search(Mutex<Mark>);

#[derive(Debug, Default)]
struct Mark {
    swept: Option<Instant>,
    reached: [Option<i64>; Priority::ALL.len()],
}

impl Search {
    /// From when on to look; and whether that is everything.
    fn since(&self) -> ([i64; Priority::ALL.len()], bool) {
        let mark = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if mark.swept.is_none_or(|swept| swept.elapsed() >= SWEEP) {
            return ([i64::MIN; Priority::ALL.len()], true);
        }
        (mark.reached.map(|reached| reached.map_or(i64::MIN, |reached| reached - MARGIN)), false)
    }

    fn found(&self, rows: &[Row], all: bool) {
        let mut mark = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all {
            mark.swept = Some(Instant::now());
        }
        for row in rows {
            if let Some(reached) = mark.reached.get_mut(usize::from(row.priority.unsigned_abs())) {
                *reached = (*reached).max(Some(row.due_at));
            }
        }
    }
}

pub(super) async fn claim<DB: QueueBackend>(queue: &Queue<DB>, most: usize) -> Result<Vec<Claim<DB>>, Error> {
    let most = most.min(LARGEST_BATCH);
    if most == 0 {
        return Ok(Vec::new());
    }
    let asked = Instant::now();
    let (since, all) = queue.search.since();
    let mut rows = claim_since(queue, most, since).await?;
    queue.search.found(&rows, all);
    if rows.is_empty() && !all {
        rows = claim_since(queue, most, [i64::MIN; Priority::ALL.len()]).await?;
        queue.search.found(&rows, true);
    }
    let mut claims: Vec<_> = rows.into_iter().filter(|row| !is_spent(row)).collect();
    claims.sort_by_key(|row| (row.priority, row.due_at, row.id));
    Ok(claims.into_iter().map(|row| Claim::of(queue, row, asked)).collect())
}

/// Answers the jobs as they were before they were claimed.
async fn claim_since<DB: QueueBackend>(
    queue: &Queue<DB>,
    most: usize,
    since: [i64; Priority::ALL.len()],
) -> Result<Vec<Row>, Error> {
    queue
        .db
        .run(async |tx: &mut Tx<DB>| {
            let mut rows = Vec::new();
            for (priority, since) in Priority::ALL.into_iter().zip(since) {
                if rows.len() < most {
                    let sql = due::<DB>(queue, priority, since, most - rows.len());
                    rows.extend(DB::fetch_jobs(tx, sql).await?);
                }
            }
            let now = DB::NOW;
            let claimed = format!(
                "attempts = attempts + 1, claimed_at = {now}, due_at = {now} + {}",
                micros(queue.lease)
            );
            let died = format!("claimed_at = NULL, due_at = NULL, died_at = {now}, last_error = '{LAPSED}'");
            for (spent, change) in [(false, claimed), (true, died)] {
                let ids: Vec<_> =
                    rows.iter().filter(|row| is_spent(row) == spent).map(|row| row.id.to_string()).collect();
                if !ids.is_empty() {
                    let ids = ids.join(", ");
                    let sql =
                        format!("UPDATE atomically_job SET {change}, token = token + 1 WHERE id IN ({ids})");
                    DB::send(tx, sql, Vec::new()).await?;
                }
            }
            Ok(rows)
        })
        .await
}

/// The statement that finds and locks the due jobs of one priority: one range of the index, in its order.
///
/// It locks what it answers, and the jobs are changed by their ids then. `UPDATE ... WHERE id IN (SELECT ... LIMIT ...)`
/// does not promise that: the subquery may be run again for each row.
fn due<DB: QueueBackend>(queue: &Queue<DB>, priority: Priority, since: i64, most: usize) -> String {
    let (name, number, now) = (queue.name(), priority.number(), DB::NOW);
    format!(
        "SELECT {JOB} FROM atomically_job {} WHERE queue = '{name}' AND priority = {number} \
         AND due_at >= {since} AND due_at <= {now} AND {} ORDER BY due_at, id LIMIT {most} {}",
        DB::HINT,
        no_lease::<DB>(),
        DB::LOCK
    )
}

/// Its last attempt has begun, and did not end.
fn is_spent(row: &Row) -> bool {
    row.attempts >= row.max_attempts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(priority: Priority, due_at: i64) -> Row {
        let (payload, last_error) = Default::default();
        Row {
            id: 1,
            token: 0,
            priority: priority.number(),
            attempts: 0,
            max_attempts: 1,
            due_at,
            died_at: 0,
            payload,
            last_error,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_begins_where_the_last_one_ended_and_once_a_second_anew() {
        let search = Search::default();
        assert_eq!(search.since(), ([i64::MIN; 3], true), "the first one looks everywhere");
        search.found(&[row(Priority::Normal, 7_000_000), row(Priority::Normal, 5_000_000)], true);
        assert_eq!(search.since(), ([i64::MIN, 7_000_000 - MARGIN, i64::MIN], false));
        search.found(&[row(Priority::Low, 9_000_000)], false);
        assert_eq!(search.since(), ([i64::MIN, 7_000_000 - MARGIN, 9_000_000 - MARGIN], false));
        tokio::time::advance(SWEEP).await;
        assert_eq!(search.since(), ([i64::MIN; 3], true));
        search.found(&[row(Priority::Normal, 1)], true);
        assert_eq!(search.since().0[1], 7_000_000 - MARGIN, "the mark does not go back");
    }
}
