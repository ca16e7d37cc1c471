//! Merges options with others, and with a strategy's plan. Every option is named here, so that none can be
//! ignored.

use super::{Options, local};
use crate::isolation::Access;
use crate::strategy::Plan;

impl Options {
    /// Returns these options, with those of `base` in place of the ones that are not set.
    #[must_use]
    pub fn or(&self, base: &Self) -> Self {
        let Self {
            isolation,
            access,
            may_open_read_write,
            deferrable,
            begin,
            attempts,
            deadline,
            backoff,
            lock_timeout,
            statement_timeout,
            idle_timeout,
            retry_unique,
            resolve_commits,
            schema,
            key,
            retry_budget,
            seed,
            name,
            location,
            observers,
            idle_warning,
            interceptors,
            local,
        } = self;
        Self {
            isolation: isolation.or(base.isolation),
            access: access.or(base.access),
            may_open_read_write: may_open_read_write.or(base.may_open_read_write),
            deferrable: deferrable.or(base.deferrable),
            begin: begin.or(base.begin),
            attempts: attempts.or(base.attempts),
            deadline: deadline.or(base.deadline),
            backoff: backoff.or(base.backoff),
            lock_timeout: lock_timeout.or(base.lock_timeout),
            statement_timeout: statement_timeout.or(base.statement_timeout),
            idle_timeout: idle_timeout.or(base.idle_timeout),
            retry_unique: retry_unique.or(base.retry_unique),
            resolve_commits: resolve_commits.or(base.resolve_commits),
            schema: schema.or(base.schema),
            key: key.or(base.key),
            retry_budget: retry_budget.as_ref().or(base.retry_budget.as_ref()).cloned(),
            seed: seed.or(base.seed),
            name: name.or(base.name),
            location: location.or(base.location),
            observers: observers.and(&base.observers),
            idle_warning: idle_warning.or(base.idle_warning),
            interceptors: interceptors.and(&base.interceptors),
            local: local::merged(local.as_ref(), base.local.as_ref()),
        }
    }

    /// Returns the strategy's plan, overridden by the options that are set.
    pub(in crate::transactor) fn applied_to(&self, plan: Plan) -> Plan {
        let Plan { isolation, row_lock, access, deferrable, begin, gated } = plan;
        let access = self.access.unwrap_or(access);
        Plan {
            isolation: self.isolation.unwrap_or(isolation),
            // Databases refuse row locks in a read-only transaction.
            row_lock: row_lock.filter(|_| access == Access::ReadWrite),
            access,
            deferrable: self.deferrable.unwrap_or(deferrable),
            begin: self.begin.or(begin),
            gated,
        }
    }

    /// Returns whether an option is set that needs a transaction, so that a single statement would ignore it.
    pub(crate) fn requires_transaction(&self) -> bool {
        let Self {
            isolation,
            access,
            deferrable,
            begin,
            lock_timeout,
            statement_timeout,
            idle_timeout,
            resolve_commits,
            interceptors,
            local,
            // It is about the access.
            may_open_read_write: _,
            // The retry loop also applies these to a single statement.
            attempts: _,
            deadline: _,
            backoff: _,
            retry_unique: _,
            key: _,
            // A single statement of the caller uses none of the crate's tables.
            schema: _,
            retry_budget: _,
            seed: _,
            name: _,
            location: _,
            observers: _,
            idle_warning: _,
        } = self;
        isolation.is_some()
            || access.is_some()
            || deferrable.is_some()
            || begin.is_some()
            || lock_timeout.is_some()
            || statement_timeout.is_some()
            || idle_timeout.is_some()
            || resolve_commits.is_some()
            || !interceptors.is_empty()
            || local.is_some()
    }
}
