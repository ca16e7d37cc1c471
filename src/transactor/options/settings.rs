//! Resolves the settings of a run: its options, or their defaults.

use std::panic::Location;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::Options;
use crate::events::Run;
use crate::intercept::Interceptors;
use crate::isolation::Access;
use crate::retry_budget::RetryBudget;
use crate::schema::Schema;
use crate::strategy::{Limits, OwnLockLimit, Resolve};
use crate::telemetry::Observers;

impl Options {
    /// Returns the limits of a transaction that the options set.
    pub(in crate::transactor) fn limits(&self) -> Limits {
        Limits {
            left: None,
            lock: self.lock_timeout,
            statement: self.statement_timeout,
            idle: self.idle_timeout,
            own_lock: OwnLockLimit::default(),
        }
    }

    pub(in crate::transactor) fn max_attempts(&self) -> u32 {
        self.attempts.unwrap_or(50)
    }

    /// Returns the deadline of a run that started at this time. A deadline beyond the range of the clock is
    /// replaced with one in the far future.
    pub(crate) fn deadline_from(&self, started: Instant) -> Instant {
        let limit = self.deadline.unwrap_or(Duration::from_secs(10));
        started.checked_add(limit).unwrap_or_else(|| started + Duration::from_secs(60 * 60 * 24 * 365))
    }

    /// Returns whether read-only transactions may be opened as usual ones.
    pub(in crate::transactor) fn may_open_read_write(&self) -> bool {
        self.may_open_read_write.unwrap_or_default()
    }

    pub(in crate::transactor) fn limits_idling(&self) -> bool {
        self.idle_timeout.is_some()
    }

    pub(in crate::transactor) fn key(&self) -> Option<u64> {
        self.key
    }

    pub(in crate::transactor) fn budget(&self) -> Option<&RetryBudget> {
        self.retry_budget.as_ref()
    }

    /// Returns how unknown commits are resolved; `None` for a read-only unit, which stores nothing that could
    /// be looked up.
    pub(in crate::transactor) fn resolves_commits(&self) -> Option<Resolve> {
        self.resolve_commits.filter(|_| self.access != Some(Access::ReadOnly))
    }

    /// Returns the names of the crate's tables.
    pub(crate) fn tables(&self) -> Schema {
        self.schema.unwrap_or_default()
    }

    /// Returns the options that matter for a query of the crate about the server, which is not a run of the
    /// caller: limits.
    pub(in crate::transactor) fn for_queries_about_the_server(&self) -> Self {
        Self { attempts: self.attempts, deadline: self.deadline, backoff: self.backoff, ..Self::default() }
    }

    /// Returns the options that matter for the crate's own work on its tables: limits, names and observers.
    /// The others are meant for units of work, and not every database has them.
    pub(in crate::transactor) fn for_upkeep(&self) -> Self {
        Self {
            attempts: self.attempts,
            deadline: self.deadline,
            backoff: self.backoff,
            retry_budget: self.retry_budget.clone(),
            schema: self.schema,
            name: self.name,
            observers: self.observers.clone(),
            ..Self::default()
        }
    }

    pub(in crate::transactor) fn name(&self) -> &'static str {
        self.name.unwrap_or(Run::UNNAMED)
    }

    pub(in crate::transactor) fn location(&self) -> Option<&'static Location<'static>> {
        self.location
    }

    pub(in crate::transactor) fn observers(&self) -> &Observers {
        &self.observers
    }

    pub(in crate::transactor) fn idle_limit(&self) -> Duration {
        self.idle_warning.unwrap_or(Duration::from_secs(1))
    }

    pub(in crate::transactor) fn interceptors(&self) -> &Interceptors {
        &self.interceptors
    }

    pub(in crate::transactor) fn unique_retries(&self) -> u32 {
        self.retry_unique.unwrap_or(0)
    }

    /// Returns the delays between attempts, without end.
    pub(in crate::transactor) fn delays(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        let rng = match self.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        };
        self.backoff.unwrap_or_default().delays(rng)
    }
}
