//! Where to look for due jobs, and how they are claimed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::job::micros;
use super::log::{self, Death};
use super::priority::Priority;
use super::spent::{LAPSED, bury, is_spent, listed};
use super::sql::{Dialect, JOB, JobRow, no_lease};
use super::{Claim, Queue, QueueBackend};
use crate::backend::Backend;
use crate::error::Error;
use crate::strategies::Pessimistic;
use crate::transactor::{PoolTransactor, TransactorExt as _};
use crate::tx::Tx;

/// The most that is claimed by one statement.
pub(super) const MAX_BATCH: usize = 1_000;

/// How long jobs that are behind the mark may be passed over.
const SWEEP: Duration = Duration::from_secs(1);

/// What looking everywhere may take of the time: one part in so many.
const SWEEP_SHARE: u32 = 20;

/// A claim that has found nothing may look everywhere while that takes no longer than this, or has found
/// something the last time. An idle queue whose index is full of dead entries keeps to the share.
const CHEAP: Duration = Duration::from_millis(50);

/// How far before the mark a claim looks where jobs are claimed as they come: transactions do not commit in
/// the order of their times.
const MARGIN: i64 = 50_000;

/// Jobs that have been due for longer than this are claimed from a backlog, and all of it is there.
const BACKLOG: i64 = 1_000_000;

/// Up to which job has been claimed, for each priority, in the order of the index.
///
/// # Why?
///
/// Jobs that are done leave dead entries at the front of the index, and while some transaction holds back
/// vacuum, it may be a report, they stay there. Each claim would read through all of them, more at each
/// claim. A claim that begins where the last one ended does not see them, however many are due at the same
/// time. It is a hint only: once a second, or as seldom as keeps that from taking more than a twentieth of
/// the time, a claim looks everywhere.
///
/// # Why does it go back?
///
/// Jobs get behind the mark when their transaction commits late, or when they are due in the past. A claim
/// that looks everywhere takes as many as were wanted, which may be one. The next claims go on from there, so
/// that all of those jobs are done in their turn, and not one of them at each look.
#[derive(Debug, Default)]
pub(super) struct JobSearch(Mutex<Mark>);

#[derive(Debug, Default)]
struct Mark {
    /// The last time that everything was looked at.
    swept: Option<Sweep>,
    reached: [Option<MarkPlace>; Priority::ALL.len()],
}

#[derive(Debug, Clone, Copy)]
struct Sweep {
    /// When it ended.
    at: Instant,
    took: Duration,
    /// How long the one before it took.
    before: Duration,
    found: bool,
}

impl Sweep {
    /// What looking everywhere costs: the shorter of the last two times. A server that stands still for a
    /// moment makes one of them long, and it must not be looked everywhere more seldom because of that.
    fn cost(&self) -> Duration {
        self.took.min(self.before)
    }

    /// One that has just ended. Those that were under way at the same time count as one: they met the same
    /// server.
    fn ended(last: Option<&Self>, took: Duration, found: bool) -> Self {
        let at = Instant::now();
        let (took, before) = match last {
            Some(last) if last.at + took > at => (took.min(last.took), last.before),
            Some(last) => (took, last.took),
            None => (took, Duration::ZERO),
        };
        Self { at, took, before, found }
    }
}

/// A job's place in the index of its priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MarkPlace {
    pub(super) due_at: i64,
    pub(super) id: i64,
}

impl MarkPlace {
    /// In front of all jobs.
    const FRONT: Self = Self { due_at: i64::MIN, id: i64::MIN };

    /// Where to begin when this was reached.
    fn begin(self) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros);
        if self.due_at > now - BACKLOG {
            Self { due_at: self.due_at.saturating_sub(MARGIN), id: i64::MIN }
        } else {
            self
        }
    }
}

impl JobSearch {
    /// From when on to look; and whether that is everything.
    fn since(&self) -> ([MarkPlace; Priority::ALL.len()], bool) {
        let mark = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if mark.swept.is_none_or(|last| last.at.elapsed() >= SWEEP.max(last.cost() * SWEEP_SHARE)) {
            return ([MarkPlace::FRONT; Priority::ALL.len()], true);
        }
        (mark.reached.map(|reached| reached.map_or(MarkPlace::FRONT, MarkPlace::begin)), false)
    }

    /// Whether a claim that has found nothing may look everywhere.
    fn may_sweep(&self) -> bool {
        let mark = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mark.swept.is_none_or(|last| {
            let cost = last.cost();
            last.found || cost <= CHEAP || last.at.elapsed() >= cost * SWEEP_SHARE
        })
    }

    /// What a claim found; and how long it took, if it looked everywhere.
    fn found(&self, rows: &[JobRow], swept: Option<Duration>) {
        let mut mark = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(took) = swept {
            mark.swept = Some(Sweep::ended(mark.swept.as_ref(), took, !rows.is_empty()));
        }
        for (priority, reached) in Priority::ALL.into_iter().zip(&mut mark.reached) {
            let here = rows.iter().filter(|row| row.priority == priority.number());
            let last = here.filter_map(|row| Some(MarkPlace { due_at: row.due_at?, id: row.id })).max();
            *reached = match (swept, last) {
                (Some(_), Some(last)) => Some(last),
                _ => (*reached).max(last),
            };
        }
    }
}

/// What a claim brings.
pub(super) struct JobsFound<DB: Backend> {
    pub(super) claims: Vec<Claim<DB>>,
    /// The jobs that died, because their last attempt had begun and not ended.
    pub(super) died: Vec<i64>,
}

/// Looks until there are as many as wanted, or no more. Jobs that are spent do not count: they are marked
/// dead on the way.
pub(super) async fn claim<DB: QueueBackend>(queue: &Queue<DB>, most: usize) -> Result<JobsFound<DB>, Error> {
    let (mut since, mut all) = queue.search.since();
    let (mut good, mut died) = (Vec::new(), Vec::new());
    while good.len() < most {
        let batch = (most - good.len()).min(MAX_BATCH);
        let asked = Instant::now();
        let wanted = Wanted { queue: queue.name.clone(), most: batch, since, lease: queue.lease };
        let rows = match DB::claim(&queue.db, wanted).await {
            Ok(rows) => rows,
            Err(error) if good.is_empty() && died.is_empty() => return Err(error),
            // What was claimed already must not wait for its lease to lapse.
            Err(_) => break,
        };
        queue.search.found(&rows, all.then(|| asked.elapsed()));
        let is_short = rows.len() < batch;
        let (spent, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_spent);
        good.extend(rows.into_iter().map(|row| (row, asked)));
        if !spent.is_empty() {
            // There are more where they come from. One by one they would be as many claims.
            let others = bury(queue, since).await.unwrap_or_default();
            for (id, attempts) in spent.iter().map(|row| (row.id, row.attempts.unsigned_abs())).chain(others)
            {
                log::died(&queue.name, id, Death::Lapsed, attempts, LAPSED);
                died.push(id);
            }
        } else if is_short && good.is_empty() && !all && queue.search.may_sweep() {
            (since, all) = ([MarkPlace::FRONT; Priority::ALL.len()], true);
        } else if is_short {
            break;
        }
    }
    good.sort_by_key(|(row, _)| (row.priority, row.due_at, row.id));
    let claims = good.into_iter().map(|(row, asked)| Claim::of(queue, row, asked)).collect();
    Ok(JobsFound { claims, died })
}

/// What a claim looks for.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Wanted {
    pub(super) queue: Arc<str>,
    pub(super) most: usize,
    pub(super) since: [MarkPlace; Priority::ALL.len()],
    pub(super) lease: Duration,
}

/// One priority after the other, until there are enough; and then all that was found.
pub(super) async fn claim_by_priority<DB: Dialect>(
    db: &PoolTransactor<DB, Pessimistic>,
    wanted: Wanted,
) -> Result<Vec<JobRow>, Error> {
    let Wanted { queue, most, since, lease } = wanted;
    let queue = format!("'{queue}'");
    let claimed = claimed::<DB>(&micros(lease).to_string());
    db.run(async |tx: &mut Tx<DB>| {
        let mut rows = Vec::new();
        for (priority, since) in Priority::ALL.into_iter().zip(since) {
            if rows.len() < most {
                let number = priority.number().to_string();
                let since = DB::behind(&since.due_at.to_string(), &since.id.to_string());
                let sql = due::<DB>(JOB, &queue, &number, &since, &(most - rows.len()).to_string());
                rows.extend(DB::fetch_jobs(tx, sql).await?);
            }
        }
        if !rows.is_empty() {
            let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
            let sql = format!("{claimed} WHERE id IN ({})", listed(&ids));
            DB::send(tx, sql, Vec::new()).await?;
        }
        Ok(rows)
    })
    .await
}

/// The statement that finds and locks the due jobs of one priority: one range of the index, in its order.
///
/// It locks what it answers, and the jobs are changed by their ids then. `UPDATE ... WHERE id IN (SELECT ...
/// LIMIT ...)` does not promise that: the subquery may be run again for each row.
pub(super) fn due<DB: Dialect>(
    columns: &str,
    queue: &str,
    priority: &str,
    behind: &str,
    most: &str,
) -> String {
    format!(
        "SELECT {columns} FROM atomically_job {} WHERE queue = {queue} AND priority = {priority} \
         AND {behind} AND due_at <= {} AND {} ORDER BY due_at, id LIMIT {most} {}",
        DB::HINT,
        DB::NOW,
        no_lease::<DB>(),
        DB::LOCK
    )
}

/// The begin of the statement that claims jobs for a time, or has them dead where their last attempt has
/// begun and did not end.
///
/// Keys that are unique until the claim are given up here.
///
/// The attempts come last: MySQL and MariaDB show an assignment what those before it have made of the row.
pub(super) fn claimed<DB: Dialect>(lease: &str) -> String {
    let (now, is_spent) = (DB::NOW, "atomically_job.attempts >= atomically_job.max_attempts");
    format!(
        "UPDATE atomically_job SET token = atomically_job.token + 1, \
         claimed_at = CASE WHEN {is_spent} THEN NULL ELSE {now} END, \
         due_at = CASE WHEN {is_spent} THEN NULL ELSE {now} + {lease} END, \
         died_at = CASE WHEN {is_spent} THEN {now} END, \
         unique_key = CASE WHEN atomically_job.unique_until_claimed THEN NULL ELSE atomically_job.unique_key END, \
         last_error = CASE WHEN {is_spent} THEN '{LAPSED}' ELSE atomically_job.last_error END, \
         attempts = CASE WHEN {is_spent} THEN atomically_job.attempts ELSE atomically_job.attempts + 1 END"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(priority: Priority, due_at: i64) -> JobRow {
        let (payload, last_error) = Default::default();
        JobRow {
            id: 1,
            token: 0,
            priority: priority.number(),
            attempts: 0,
            max_attempts: 1,
            due_at: Some(due_at),
            payload,
            last_error,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_begins_where_the_last_one_ended_and_once_a_second_anew() {
        let search = JobSearch::default();
        let (front, quick) = (MarkPlace::FRONT, Some(Duration::ZERO));
        let place = |due_at| MarkPlace { due_at, id: 1 };
        assert_eq!(search.since(), ([front; 3], true), "the first one looks everywhere");
        search.found(&[row(Priority::Normal, 7_000_000), row(Priority::Normal, 5_000_000)], quick);
        assert_eq!(search.since(), ([front, place(7_000_000), front], false));
        search.found(&[row(Priority::Low, 9_000_000)], None);
        assert_eq!(search.since(), ([front, place(7_000_000), place(9_000_000)], false));
        tokio::time::advance(SWEEP).await;
        assert_eq!(search.since(), ([front; 3], true));
        search.found(&[row(Priority::Normal, 1)], quick);
        assert_eq!(search.since().0, [front, place(1), place(9_000_000)], "the next claims go on from there");
        search.found(&[row(Priority::Normal, 2)], None);
        search.found(&[row(Priority::Normal, 1)], None);
        assert_eq!(search.since().0[1], place(2), "of two claims at once, the later place counts");
    }

    /// Of twice in a row, which is what it takes to be believed.
    async fn swept(search: &JobSearch, rows: &[JobRow], took: Duration) {
        for _ in 0..2 {
            tokio::time::advance(took).await;
            search.found(rows, Some(took));
        }
    }

    /// An idle worker asks at each poll.
    #[tokio::test(start_paused = true)]
    async fn a_claim_that_finds_nothing_keeps_to_its_share_of_the_time() {
        let search = JobSearch::default();
        swept(&search, &[], CHEAP).await;
        assert!(search.may_sweep(), "it costs next to nothing");
        swept(&search, &[], Duration::from_millis(500)).await;
        assert!(!search.may_sweep());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(search.may_sweep());
        swept(&search, &[row(Priority::Normal, 1)], Duration::from_millis(500)).await;
        assert!(search.may_sweep(), "there may be more");
    }

    /// What took a second is done every twenty.
    #[tokio::test(start_paused = true)]
    async fn looking_everywhere_takes_a_twentieth_of_the_time() {
        let search = JobSearch::default();
        swept(&search, &[], Duration::from_secs(1)).await;
        tokio::time::advance(Duration::from_secs(19)).await;
        assert!(!search.since().1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(search.since().1);
    }

    /// Three workers look everywhere while the server stands still for two seconds.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_stood_still_is_not_looked_through_more_seldom() {
        let search = JobSearch::default();
        swept(&search, &[], CHEAP).await;
        tokio::time::advance(Duration::from_secs(2)).await;
        for took in [2_000, 1_900, 1_000] {
            search.found(&[], Some(Duration::from_millis(took)));
        }
        assert!(search.may_sweep());
        tokio::time::advance(SWEEP).await;
        assert!(search.since().1, "jobs behind the mark would wait for twenty times the outage");
    }

    /// Others may be about to commit jobs that are due before it.
    #[test]
    fn jobs_that_are_claimed_as_they_come_are_looked_for_from_a_little_earlier() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros);
        let place = MarkPlace { due_at: now, id: 7 };
        assert_eq!(place.begin(), MarkPlace { due_at: now - MARGIN, id: i64::MIN });
        let old = MarkPlace { due_at: now - 2 * BACKLOG, id: 7 };
        assert_eq!(old.begin(), old);
    }

    #[cfg(feature = "sqlite")]
    #[tokio::test]
    async fn sqlite_reads_the_index_in_its_order() {
        use sqlx::{AssertSqlSafe, Row as _, Sqlite};

        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
        let pool = pool.connect("sqlite::memory:").await.expect("a database");
        sqlx::raw_sql(Sqlite::SCHEMA).execute(&pool).await.expect("the tables");
        let explain = format!(
            "EXPLAIN QUERY PLAN {}",
            due::<Sqlite>(JOB, "'jobs'", "1", &Sqlite::behind("5", "7"), "10")
        );
        let plan = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&pool).await.expect("a plan");
        let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        let search = "atomically_job USING INDEX atomically_job_claim (queue=? AND priority=? AND due_at>? AND due_at<?)";
        assert!(steps[0].contains(search), "{steps:?}");
        assert!(!steps.iter().any(|step| step.contains("ORDER BY") || step.starts_with("SCAN")), "{steps:?}");
    }
}
