//! Where a claim starts to read the index.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::job::micros;
use super::position::IndexPosition;
use super::priority::Priority;
use super::row::JobRow;

/// The time between two full scans, as long as they are cheap.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// Full scans take at most one part in this many of the time.
const SCAN_SHARE: u32 = 20;

/// A claim that found nothing may add a full scan if the last one took no longer than this, or found jobs.
/// Slower scans are limited to [`SCAN_SHARE`], because an idle queue whose index is full of dead entries
/// would otherwise scan it at each poll.
const CHEAP: Duration = Duration::from_millis(50);

/// How far before the cursor a claim starts if there is no backlog, in microseconds. Transactions do not
/// commit in the order of the due times of their jobs, so earlier jobs may still appear.
const MARGIN: i64 = 50_000;

/// A job that has been due for longer than this, in microseconds, is part of a backlog. All jobs that were
/// due before it are assumed to be committed.
const BACKLOG: i64 = 1_000_000;

/// Remembers, for each priority, the position in the index that claims have reached.
///
/// # Why?
///
/// Completed jobs leave dead entries at the front of the index, and they stay while a transaction, such as a
/// report, holds back vacuum. Without a cursor, each claim would read all of them, and each time there would
/// be more. A claim that starts where the last one ended does not read them, even if many jobs are due at the
/// same time. The cursor is only a hint: once a second, a claim scans everything. If scans are slow, they run
/// less often, so that they take at most a twentieth of the time.
///
/// # Why does it go back?
///
/// A job gets behind the cursor if its transaction commits late, or if it was due in the past. A full scan
/// claims as many jobs as were wanted, which may be one. The next claims continue from there, so that all of
/// those jobs run in their order, and not just one per full scan.
#[derive(Debug, Default)]
pub(super) struct ClaimCursor(Mutex<CursorState>);

#[derive(Debug, Default)]
struct CursorState {
    last_scan: Option<FullScan>,
    reached: [Option<IndexPosition>; Priority::ALL.len()],
}

/// A claim that started at the front of the index.
#[derive(Debug, Clone, Copy)]
struct FullScan {
    ended: Instant,
    took: Duration,
    /// How long the scan before this one took.
    previous_took: Duration,
    found_jobs: bool,
}

impl FullScan {
    /// The cost of a scan: the shorter of the last two times. A short stall of the server makes one of them
    /// long, and must not make scans rarer.
    fn cost(&self) -> Duration {
        self.took.min(self.previous_took)
    }

    /// A scan that has just ended. Scans that overlap count as one, because they met the same stall.
    fn ended_now(last: Option<&Self>, took: Duration, found_jobs: bool) -> Self {
        let ended = Instant::now();
        let (took, previous_took) = match last {
            Some(last) if last.ended + took > ended => (took.min(last.took), last.previous_took),
            Some(last) => (took, last.took),
            None => (took, Duration::ZERO),
        };
        Self { ended, took, previous_took, found_jobs }
    }
}

/// Returns where to start if claims have come up to `position`.
fn start_after(position: IndexPosition) -> IndexPosition {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros);
    if position.due_at > now - BACKLOG {
        IndexPosition { due_at: position.due_at.saturating_sub(MARGIN), id: i64::MIN }
    } else {
        position
    }
}

impl ClaimCursor {
    /// Returns where to start in each priority, and whether that makes a full scan.
    pub(super) fn start(&self) -> ([IndexPosition; Priority::ALL.len()], bool) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_overdue = |last: FullScan| last.ended.elapsed() >= SCAN_INTERVAL.max(last.cost() * SCAN_SHARE);
        if state.last_scan.is_none_or(is_overdue) {
            return ([IndexPosition::START; Priority::ALL.len()], true);
        }
        (state.reached.map(|reached| reached.map_or(IndexPosition::START, start_after)), false)
    }

    /// Whether a claim that found nothing may scan everything.
    pub(super) fn may_scan_all(&self) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.last_scan.is_none_or(|last| {
            let cost = last.cost();
            last.found_jobs || cost <= CHEAP || last.ended.elapsed() >= cost * SCAN_SHARE
        })
    }

    /// Moves the cursor to the jobs that a claim found. `scan` is how long the claim took if it was a full
    /// scan.
    pub(super) fn advance(&self, rows: &[JobRow], scan: Option<Duration>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(took) = scan {
            state.last_scan = Some(FullScan::ended_now(state.last_scan.as_ref(), took, !rows.is_empty()));
        }
        for (priority, reached) in Priority::ALL.into_iter().zip(&mut state.reached) {
            let rows = rows.iter().filter(|row| row.priority == priority.number());
            let last = rows.filter_map(|row| Some(IndexPosition { due_at: row.due_at?, id: row.id })).max();
            *reached = match (scan, last) {
                (Some(_), Some(last)) => Some(last),
                _ => (*reached).max(last),
            };
        }
    }
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
            key: None,
            has_slot: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_starts_where_the_last_one_ended_and_once_a_second_scans_everything() {
        let cursor = ClaimCursor::default();
        let (start, quick) = (IndexPosition::START, Some(Duration::ZERO));
        let position = |due_at| IndexPosition { due_at, id: 1 };
        assert_eq!(cursor.start(), ([start; 3], true), "the first claim scans everything");
        cursor.advance(&[row(Priority::Normal, 7_000_000), row(Priority::Normal, 5_000_000)], quick);
        assert_eq!(cursor.start(), ([start, position(7_000_000), start], false));
        cursor.advance(&[row(Priority::Low, 9_000_000)], None);
        assert_eq!(cursor.start(), ([start, position(7_000_000), position(9_000_000)], false));
        tokio::time::advance(SCAN_INTERVAL).await;
        assert_eq!(cursor.start(), ([start; 3], true));
        cursor.advance(&[row(Priority::Normal, 1)], quick);
        assert_eq!(
            cursor.start().0,
            [start, position(1), position(9_000_000)],
            "the next claims continue from there"
        );
        cursor.advance(&[row(Priority::Normal, 2)], None);
        cursor.advance(&[row(Priority::Normal, 1)], None);
        assert_eq!(cursor.start().0[1], position(2), "of two concurrent claims, the later position counts");
    }

    /// Records two scans in a row: the cost is the shorter of the two.
    async fn scanned(cursor: &ClaimCursor, rows: &[JobRow], took: Duration) {
        for _ in 0..2 {
            tokio::time::advance(took).await;
            cursor.advance(rows, Some(took));
        }
    }

    /// An idle worker claims at each poll.
    #[tokio::test(start_paused = true)]
    async fn an_expensive_scan_that_finds_nothing_is_limited_to_its_share_of_the_time() {
        let cursor = ClaimCursor::default();
        scanned(&cursor, &[], CHEAP).await;
        assert!(cursor.may_scan_all(), "the scan is cheap");
        scanned(&cursor, &[], Duration::from_millis(500)).await;
        assert!(!cursor.may_scan_all());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(cursor.may_scan_all());
        scanned(&cursor, &[row(Priority::Normal, 1)], Duration::from_millis(500)).await;
        assert!(cursor.may_scan_all(), "there may be more jobs");
    }

    /// A scan that took one second runs every twenty.
    #[tokio::test(start_paused = true)]
    async fn full_scans_take_a_twentieth_of_the_time() {
        let cursor = ClaimCursor::default();
        scanned(&cursor, &[], Duration::from_secs(1)).await;
        tokio::time::advance(Duration::from_secs(19)).await;
        assert!(!cursor.start().1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(cursor.start().1);
    }

    /// Three workers scan everything while the server stalls for two seconds.
    #[tokio::test(start_paused = true)]
    async fn a_stall_of_the_server_does_not_make_full_scans_rarer() {
        let cursor = ClaimCursor::default();
        scanned(&cursor, &[], CHEAP).await;
        tokio::time::advance(Duration::from_secs(2)).await;
        for took in [2_000, 1_900, 1_000] {
            cursor.advance(&[], Some(Duration::from_millis(took)));
        }
        assert!(cursor.may_scan_all());
        tokio::time::advance(SCAN_INTERVAL).await;
        assert!(cursor.start().1, "jobs before the cursor would wait for twenty times the stall");
    }

    /// Other transactions may be about to commit jobs with earlier due times.
    #[test]
    fn without_a_backlog_a_claim_starts_a_little_earlier() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros);
        let position = IndexPosition { due_at: now, id: 7 };
        assert_eq!(start_after(position), IndexPosition { due_at: now - MARGIN, id: i64::MIN });
        let old = IndexPosition { due_at: now - 2 * BACKLOG, id: 7 };
        assert_eq!(start_after(old), old);
    }
}
