//! How much may be tried again, all in all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What all runs that share it may spend on further attempts, so that retries do not become the load.
///
/// A bucket of tokens. Every run that ends as its unit wished puts in a part of one, every attempt after a run's first
/// takes one out, and some are put in as time goes by. When it is empty, a run that would be tried again ends with
/// [`BudgetSpent`](crate::ErrorKind::BudgetSpent) and its last failure. What is not used fades away.
///
/// ```
/// # use atomically::{Optimistic, Options, RetryBudget, Serializable};
/// # fn example(pool: &sqlx::PgPool) {
/// let budget = RetryBudget::new();
/// let shop = Optimistic::default().on(pool).retry_budget(&budget);
/// let office = Serializable::default().on(pool).retry_budget(&budget);
/// # }
/// ```
///
/// Clones are the same budget. Without one, runs are limited by their own attempts and time only.
///
/// # Default
///
/// - ratio: 0.2, one further attempt for five runs that are done
/// - reserve: 10 further attempts each second, for those who have done nothing yet
/// - window: 10 s, the time in which what is put in fades away
///
/// # Why?
///
/// Retries help while failures are few. When most attempts fail, because the database is overloaded or everybody wants
/// one row, each run turns into many attempts, and what the database has to do grows just when it can do least. A load
/// that it had carried well then keeps it down, also when what had brought it down is long gone. With a budget, attempts
/// are never more than the runs plus the ratio and the reserve.
///
/// # Why is only what is done paid for?
///
/// If each run put something in, an outage would keep the bucket full: all of them would be spent on a database that
/// does nothing.
///
/// # Which ratio?
///
/// More than conflicts take on a good day. Under [`Optimistic`](crate::Optimistic) on a row that everybody wants, that
/// is several attempts for each commit: see to that first, with
/// [`on_key`](crate::TransactorExt::on_key) or [`Adaptive`](crate::Adaptive).
#[derive(Debug, Clone)]
pub struct RetryBudget {
    terms: Terms,
    bucket: Arc<Mutex<Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Terms {
    ratio: f64,
    /// For each second.
    reserve: f64,
    window: Duration,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    as_of: Instant,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::on(Terms { ratio: 0.2, reserve: 10.0, window: Duration::from_secs(10) })
    }
}

impl RetryBudget {
    /// A budget that nothing was spent of.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many further attempts each run that is done pays for: between 0 and 1000. No number at all counts as 0.
    #[must_use]
    pub fn ratio(self, ratio: f64) -> Self {
        let ratio = if ratio.is_nan() { 0.0 } else { ratio.clamp(0.0, 1000.0) };
        Self::on(Terms { ratio, ..self.terms })
    }

    /// How many further attempts there are each second in any case.
    #[must_use]
    pub fn reserve(self, per_second: u32) -> Self {
        Self::on(Terms { reserve: per_second.into(), ..self.terms })
    }

    /// How long what is put in lasts; less than a second counts as one.
    ///
    /// A longer one lets more be spent at once, after a quiet time.
    #[must_use]
    pub fn window(self, window: Duration) -> Self {
        Self::on(Terms { window: window.max(Duration::from_secs(1)), ..self.terms })
    }

    fn on(terms: Terms) -> Self {
        let bucket = Bucket { tokens: terms.reserve * terms.window.as_secs_f64(), as_of: Instant::now() };
        Self { terms, bucket: Arc::new(Mutex::new(bucket)) }
    }

    /// A run is done.
    pub(crate) fn deposit(&self) {
        self.bucket().tokens += self.terms.ratio;
    }

    /// Whether there may be a further attempt, which is paid for then.
    pub(crate) fn withdraw(&self) -> bool {
        let mut bucket = self.bucket();
        let pays = bucket.tokens >= 1.0;
        if pays {
            bucket.tokens -= 1.0;
        }
        pays
    }

    /// What is left of it by now. A part of the tokens fades that is the same for the same time, so that they settle
    /// where as many fade as are put in: at what is put in during a window.
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        let Terms { reserve, window, .. } = self.terms;
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let windows = now.saturating_duration_since(bucket.as_of).as_secs_f64() / window.as_secs_f64();
        let settled = reserve * window.as_secs_f64();
        bucket.tokens = settled + (bucket.tokens - settled) * (-windows).exp();
        bucket.as_of = now;
        bucket
    }
}

/// The same bucket.
impl PartialEq for RetryBudget {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.bucket, &other.bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn withdrawals(budget: &RetryBudget) -> usize {
        (0..).take_while(|_| budget.withdraw()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_pays_for_its_ratio() {
        let budget = RetryBudget::new().reserve(0).ratio(0.25);
        assert_eq!(withdrawals(&budget), 0);
        for _ in 0..40 {
            budget.deposit();
        }
        assert_eq!(withdrawals(&budget), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_reserve_is_there_from_the_start_and_comes_back() {
        let budget = RetryBudget::new().reserve(10).ratio(0.0);
        assert_eq!(withdrawals(&budget), 100);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(withdrawals(&budget), 9, "a second's reserve, some of which has faded");
        tokio::time::advance(Duration::from_secs(1_000)).await;
        assert_eq!(withdrawals(&budget), 100, "never more than a window's, however long it was quiet");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_used_fades() {
        let budget = RetryBudget::new().reserve(0).ratio(1.0).window(Duration::from_secs(10));
        for _ in 0..1000 {
            budget.deposit();
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(withdrawals(&budget), 367, "one part in e");
    }

    #[tokio::test(start_paused = true)]
    async fn odd_terms_are_no_trap() {
        let endless = RetryBudget::new().ratio(f64::INFINITY).window(Duration::MAX).reserve(u32::MAX);
        endless.deposit();
        tokio::time::advance(Duration::from_secs(60 * 60 * 24 * 365)).await;
        assert!(endless.withdraw());
        let none = RetryBudget::new().ratio(f64::NAN).window(Duration::ZERO).reserve(0);
        none.deposit();
        assert!(!none.withdraw());
    }

    #[test]
    fn clones_are_one_budget() {
        let budget = RetryBudget::new();
        assert_eq!(budget, budget.clone());
        assert_ne!(budget, RetryBudget::new());
    }
}
