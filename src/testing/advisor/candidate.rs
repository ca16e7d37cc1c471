//! The strategies that are explored.

use std::sync::Arc;

use sqlx::Pool;

use crate::backend::Backend;
use crate::isolation::Isolation;
use crate::strategies::{Adaptive, Atomic, Optimistic, Pessimistic, Serializable};
use crate::strategy::{Attempt, Strategy};
use crate::transactor::{Options, PoolTransactor, Transactor};

/// A strategy at an isolation level.
pub(super) struct Candidate<DB: Backend> {
    pub(super) name: &'static str,
    pub(super) isolation: Isolation,
    pub(super) label: String,
    /// The plans that it may choose for a unit, each as a transactor.
    pub(super) ways: Vec<Arc<dyn Transactor<DB>>>,
    /// The transactor for units of several statements, if this strategy is for single statements.
    pub(super) for_several: Option<Arc<dyn Transactor<DB>>>,
}

impl<DB: Backend> Candidate<DB> {
    pub(super) fn new<S: Strategy + 'static>(
        pool: &Pool<DB>,
        strategy: S,
        isolation: Option<Isolation>,
    ) -> Self {
        let name = strategy.name();
        let own = strategy.plan(&Attempt::new(1)).isolation;
        let (label, options) = match isolation.filter(|isolation| *isolation != own) {
            Some(isolation) => (format!("{name} at {isolation}"), Options::new().isolation(isolation)),
            None => (name.to_owned(), Options::new()),
        };
        Self {
            name,
            isolation: isolation.unwrap_or(own),
            label,
            ways: vec![Arc::new(PoolTransactor::new(strategy, pool).options(options))],
            for_several: None,
        }
    }

    /// The strategies that are explored by default.
    pub(super) fn defaults(pool: &Pool<DB>) -> Vec<Self> {
        let optimistic = || Self::new(pool, Optimistic::default(), None);
        let pessimistic = || Self::new(pool, Pessimistic::default(), None);
        let atomic =
            Self { for_several: optimistic().ways.pop(), ..Self::new(pool, Atomic::default(), None) };
        let ways = [optimistic().ways, pessimistic().ways].concat();
        let adaptive = Self { ways, ..Self::new(pool, Adaptive::default(), None) };
        let mut candidates = vec![atomic, optimistic(), adaptive, pessimistic()];
        // A database without row locks has one writer at a time, whatever the isolation level.
        if DB::HAS_ROW_LOCKS {
            candidates.push(Self::new(pool, Optimistic::default(), Some(Isolation::RepeatableRead)));
        }
        candidates.push(Self::new(pool, Serializable::default(), None));
        candidates
    }
}
