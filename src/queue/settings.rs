//! The settings of a queue.

use std::time::Duration;

use super::Queue;
use crate::backend::Backend;
use crate::backoff::Backoff;
use crate::events::Observer;
use crate::transactor::Options;

const MAX_LEASE: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// A shorter lease could expire before the claim returns.
const MIN_LEASE: Duration = Duration::from_millis(100);

impl<DB: Backend> Queue<DB> {
    /// Sets how long a claim keeps its job from other workers, unless it is extended; measured by the
    /// database's clock. The default is 30 s.
    ///
    /// This is also how long the job of a killed worker waits until another worker can claim it. A
    /// [`Worker`](super::Worker) extends the lease after a third of it. The value is clamped to between 100
    /// ms and a year.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.clamp(MIN_LEASE, MAX_LEASE);
        self
    }

    /// Sets the maximum number of attempts, including the first, for jobs without a limit
    /// [of their own](super::NewJob::max_attempts). The default is 25; 0 counts as 1.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Lets the [ordered](super::NewJob::in_order_of) jobs of a key skip those that are dead. By default,
    /// they wait until the dead job is requeued and complete, or discarded or purged.
    ///
    /// The setting applies when a job dies. A dead job that was skipped and is requeued runs in order with
    /// the jobs that are waiting then.
    #[must_use]
    pub fn skip_dead(mut self) -> Self {
        self.skips_dead = true;
        self
    }

    /// Sets the delays between the attempts of a job. The default is 2 s, doubling up to 12 h.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Enables [connection reuse](crate::PoolTransactor::reuse_connections) for the queue's own transactions.
    /// By default each acquires a connection from the pool.
    #[must_use]
    pub fn reuse_connections(mut self) -> Self {
        self.db = self.db.reuse_connections();
        self
    }

    /// Sets whether connections to PostgreSQL keep the INSERT of a job as a prepared statement, like sqlx's
    /// [`persistent`](sqlx::query::Query::persistent), and the UPDATE of a job that
    /// [fails](super::Claim::fail). Other databases never keep the INSERT.
    ///
    /// By default, a connection keeps the statement if it already keeps other prepared statements, which
    /// shows that they are safe on it. A connection that keeps none may go through a
    /// [pooler](crate::guide::engines::pgbouncer) that does not support them. On such a connection,
    /// [`enqueue`](Self::enqueue) takes one more round trip, and [`enqueue_alone`](Self::enqueue_alone) and
    /// [`fail`](super::Claim::fail) run transactions of several round trips. Pass `true` if the pool connects
    /// directly to the server and the program prepares no statements itself.
    #[must_use]
    pub fn persistent(mut self, persistent: bool) -> Self {
        self.persistent = Some(persistent);
        self
    }

    /// Sets options for the queue's own transactions, such as claims and extensions, overriding those that
    /// were set before; and with [`Options::schema`], the names of the tables.
    ///
    /// The methods that take a [`Tx`](crate::Tx) run under the options of the caller's transaction, but
    /// always use the tables of the queue.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.db = self.db.options(options);
        self
    }

    /// Names the queue's own transactions in logs, metrics and deadlock reports. The default is `queue`.
    #[must_use]
    pub fn named(self, name: &'static str) -> Self {
        self.options(Options::new().named(name))
    }

    /// Adds an observer of the queue's own transactions. For the jobs of a worker, see
    /// [`Worker::observed_by`](super::Worker::observed_by).
    #[must_use]
    pub fn observed_by(self, observer: impl Observer + 'static) -> Self {
        self.options(Options::new().observed_by(observer))
    }
}
