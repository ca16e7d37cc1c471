//! A limit on retries that many runs share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Limits retries with a budget that is shared across runs, so that retries cannot overload the database.
///
/// The budget is a token bucket. Each run that succeeds adds a fraction of a token, each retry takes one
/// token, and a reserve is added as time passes. When the bucket is empty, a run that needs a retry fails
/// with [`BudgetSpent`](crate::ErrorKind::BudgetSpent) and its last failure. Unused tokens decay.
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
/// Clones share one budget. The setters return a new, full budget, so call them before you clone it. Without
/// a budget, a run is limited only by its own attempts and deadline.
///
/// # Default
///
/// - ratio: 0.2, one retry for every five successful runs
/// - reserve: 10 retries per second, whether or not any run succeeds
/// - window: 10 s, the time constant with which unused tokens decay
///
/// # Why a budget and not only a maximum of attempts?
///
/// Retries help while failures are rare. When most attempts fail, because the database is overloaded or every
/// unit wants the same row, each run turns into many attempts, and the load grows just when the database can
/// handle the least. The retries then keep the database overloaded after the cause is gone. With a budget,
/// the number of attempts is bounded by the number of runs plus the ratio and the reserve.
///
/// # Why do only successful runs add tokens?
///
/// If failed runs added tokens too, the bucket would stay full during an outage, and all of its tokens would
/// be spent on a database that is down.
///
/// # Which ratio?
///
/// Choose a ratio above the number of retries per successful run in normal operation. Under
/// [`Optimistic`](crate::Optimistic) on one hot row, each commit takes several attempts. There, reduce the
/// conflicts first, with [`on_key`](crate::TransactorExt::on_key) or [`Adaptive`](crate::Adaptive).
#[derive(Debug, Clone)]
pub struct RetryBudget {
    terms: BudgetTerms,
    bucket: Arc<Mutex<Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct BudgetTerms {
    ratio: f64,
    /// Tokens per second.
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
        Self::on(BudgetTerms { ratio: 0.2, reserve: 10.0, window: Duration::from_secs(10) })
    }
}

impl RetryBudget {
    /// Creates a full budget with the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many retries each successful run pays for, clamped to between 0 and 1000. The default is 0.2,
    /// and NaN is treated as 0.
    #[must_use]
    pub fn ratio(self, ratio: f64) -> Self {
        let ratio = if ratio.is_nan() { 0.0 } else { ratio.clamp(0.0, 1000.0) };
        Self::on(BudgetTerms { ratio, ..self.terms })
    }

    /// Sets how many retries per second are available even if no run succeeds. The default is 10.
    #[must_use]
    pub fn reserve(self, per_second: u32) -> Self {
        Self::on(BudgetTerms { reserve: per_second.into(), ..self.terms })
    }

    /// Sets the time constant with which unused tokens decay. Less than a second is treated as one second.
    /// The default is 10 s.
    ///
    /// A longer window allows a larger burst of retries after a quiet time.
    #[must_use]
    pub fn window(self, window: Duration) -> Self {
        Self::on(BudgetTerms { window: window.max(Duration::from_secs(1)), ..self.terms })
    }

    fn on(terms: BudgetTerms) -> Self {
        let bucket = Bucket { tokens: terms.reserve * terms.window.as_secs_f64(), as_of: Instant::now() };
        Self { terms, bucket: Arc::new(Mutex::new(bucket)) }
    }

    /// Adds the tokens for a run that succeeded.
    pub(crate) fn deposit(&self) {
        self.bucket().tokens += self.terms.ratio;
    }

    /// Takes a token for a retry; returns whether there was one.
    pub(crate) fn withdraw(&self) -> bool {
        let mut bucket = self.bucket();
        let pays = bucket.tokens >= 1.0;
        if pays {
            bucket.tokens -= 1.0;
        }
        pays
    }

    /// Locks the bucket and updates it to the current time. Tokens decay exponentially, and the reserve is
    /// added at a constant rate, so the number of tokens tends towards the reserve of one window.
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        let BudgetTerms { reserve, window, .. } = self.terms;
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let windows = now.saturating_duration_since(bucket.as_of).as_secs_f64() / window.as_secs_f64();
        let settled = reserve * window.as_secs_f64();
        bucket.tokens = settled + (bucket.tokens - settled) * (-windows).exp();
        bucket.as_of = now;
        bucket
    }
}

/// Two budgets are equal if they share their tokens.
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
    async fn each_successful_run_pays_for_its_ratio() {
        let budget = RetryBudget::new().reserve(0).ratio(0.25);
        assert_eq!(withdrawals(&budget), 0);
        for _ in 0..40 {
            budget.deposit();
        }
        assert_eq!(withdrawals(&budget), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_reserve_is_available_at_once_and_refills() {
        let budget = RetryBudget::new().reserve(10).ratio(0.0);
        assert_eq!(withdrawals(&budget), 100);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(withdrawals(&budget), 9, "the reserve of a second, some of which has decayed");
        tokio::time::advance(Duration::from_secs(1_000)).await;
        assert_eq!(withdrawals(&budget), 100, "the reserve of one window at most");
    }

    #[tokio::test(start_paused = true)]
    async fn unused_tokens_decay() {
        let budget = RetryBudget::new().reserve(0).ratio(1.0).window(Duration::from_secs(10));
        for _ in 0..1000 {
            budget.deposit();
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(withdrawals(&budget), 367, "one part in e");
    }

    #[tokio::test(start_paused = true)]
    async fn extreme_settings_neither_panic_nor_block() {
        let endless = RetryBudget::new().ratio(f64::INFINITY).window(Duration::MAX).reserve(u32::MAX);
        endless.deposit();
        tokio::time::advance(Duration::from_secs(60 * 60 * 24 * 365)).await;
        assert!(endless.withdraw());
        let none = RetryBudget::new().ratio(f64::NAN).window(Duration::ZERO).reserve(0);
        none.deposit();
        assert!(!none.withdraw());
    }

    #[test]
    fn clones_share_one_budget() {
        let budget = RetryBudget::new();
        assert_eq!(budget, budget.clone());
        assert_ne!(budget, RetryBudget::new());
    }
}
