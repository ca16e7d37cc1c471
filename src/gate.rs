//! A fair queue per key in front of the pool, within this process.

use std::fmt;
use std::future::poll_fn;
use std::hash::Hash;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::Semaphore;

use crate::digest::digest;
use crate::failure::{Failure, FailureKind};

mod keys;
mod permit;

use keys::{INSIDE, KeyTable};
pub(crate) use permit::GatePermit;

/// The maximum width and total, limited by what a semaphore can hold.
const MAX_WIDTH: usize = Semaphore::MAX_PERMITS / INSIDE;

/// Queues the units that contend for a key in front of the pool, so that almost all units that wait hold
/// neither a connection nor a lock.
///
/// A run that names a key ([`TransactorExt::on_key`](crate::TransactorExt::on_key)) enters the gate before
/// each attempt, if its strategy's plan says so ([`Plan::gated`](crate::Plan::gated)), and leaves it when the
/// attempt ends. Units are admitted in the order in which they arrive. A key that is not in use takes no
/// memory.
///
/// Every transactor has a gate of its own, which its clones share. Clones of a gate share its queues. The
/// setters return a new gate, so call them before you share it.
/// [`PoolTransactor::gate`](crate::PoolTransactor::gate) shares one gate between several transactors, for
/// example between two strategies that work on the same rows.
///
/// ```
/// # use atomically::{Error, Gate, Optimistic, Pessimistic, TransactorExt as _};
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Error> {
/// let gate = Gate::new().queue(1_000);
/// let shop = Optimistic::default().on(&pool).gate(&gate);
/// let office = Pessimistic::default().on(&pool).gate(&gate);
/// shop.on_key(("event", 7))
///     .run(async |tx| -> Result<_, Error> {
///         sqlx::query("UPDATE event SET seats = seats - 1 WHERE id = 7").execute(&mut *tx).await?;
///         Ok(())
///     })
///     .await?;
/// # Ok(()) }
/// ```
///
/// # Default
///
/// - width: 1 unit runs per key, and 2 more wait with their transactions open
/// - total: no limit
/// - queue: 10 000 waiting units per key
///
/// # Why in front of the pool?
///
/// Units that wait for a row lock in the database hold a connection each. Sixteen of them exhaust a pool of
/// sixteen connections, and units on other rows have to wait as well. Where units fail and retry instead of
/// waiting, they hold a connection for work that is thrown away.
///
/// # Why are two more units let in?
///
/// While one unit runs, the next two open their transactions. A unit that locks the row waits for the lock in
/// the database, which grants it without a further round trip; any other unit waits at the gate until the
/// running one has ended, and only then starts to read. Opening a transaction and requesting the row takes
/// about as long as changing the row and committing, so with only one unit let in early the database would
/// sometimes be idle. More than two would only hold more connections.
///
/// The two units wait without a transaction if opening one already acquires a lock, as on SQLite under
/// [`Pessimistic`](crate::Pessimistic); if the pool has only one or two connections; and while all
/// connections of the pool are in use, because the running unit may be waiting for one of them.
///
/// # When to leave it out
///
/// Leave the gate out on SQLite under [`Pessimistic`](crate::Pessimistic) and [`Atomic`](crate::Atomic),
/// unless the order of arrival matters. SQLite has one writer at a time anyway, and a unit that waits for it
/// costs the others nothing but its connection. The gate adds the order of arrival, which SQLite's busy
/// handler does not preserve, at about a third of the throughput. Under [`Optimistic`](crate::Optimistic) and
/// [`Serializable`](crate::Serializable), where units would fail and retry, 64 tasks on one row are nearly
/// twice as fast with a gate, on SQLite as elsewhere. With few tasks a gate gains nothing.
///
/// # Limits
///
/// A gate does not coordinate processes, and correctness does not depend on it: the strategy prevents lost
/// updates, with or without a gate. With several processes, as many units contend for a row as there are
/// processes, instead of as many as there are tasks.
///
/// A unit that runs another unit on another pool, at the same gate and under the same key, waits for itself
/// until its deadline.
#[derive(Clone, Default)]
pub struct Gate {
    bounds: Bounds,
    keys: Arc<KeyTable>,
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    width: usize,
    total: Option<usize>,
    queue: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { width: 1, total: None, queue: 10_000 }
    }
}

impl Gate {
    /// Creates a gate with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many units run at once per key, while twice as many wait with their transactions open. 0 is
    /// treated as 1. The default is 1.
    ///
    /// A width above 1 makes sense if units do much work before they access the contended row.
    #[must_use]
    pub fn width(self, width: usize) -> Self {
        Self::bounded(Bounds { width: width.clamp(1, MAX_WIDTH), ..self.bounds })
    }

    /// Sets how many attempts hold a connection at once, for all keys together. 0 is treated as 1. There is
    /// no limit by default.
    ///
    /// A total below the size of the pool leaves connections to units without a key, however many keys are
    /// contended.
    #[must_use]
    pub fn total(self, total: usize) -> Self {
        Self::bounded(Bounds { total: Some(total.clamp(1, MAX_WIDTH)), ..self.bounds })
    }

    /// Sets how many units may wait per key. Further units fail at once with
    /// [`Overloaded`](crate::ErrorKind::Overloaded). The default is 10 000.
    #[must_use]
    pub fn queue(self, queue: usize) -> Self {
        Self::bounded(Bounds { queue, ..self.bounds })
    }

    fn bounded(bounds: Bounds) -> Self {
        Self { bounds, keys: Arc::new(KeyTable::new(bounds.total)) }
    }

    /// Returns how many units are at this key, inside or waiting.
    #[must_use]
    pub fn at(&self, key: impl Hash) -> usize {
        self.keys.units_at(digest(&key))
    }

    /// Returns how many keys are in use.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.lock().len()
    }

    /// Waits until there is room inside for a unit with this key.
    ///
    /// Cancellation: the unit leaves the queue.
    pub(crate) async fn enter(&self, key: u64) -> Result<Box<GatePermit>, Failure> {
        let waiting = poll_fn(|context| Poll::Ready(self.join(key, context))).await?;
        Ok(waiting.enter().await)
    }

    /// Joins all queues of the key at once, so that units have the same order in each of them.
    fn join(&self, key: u64, context: &mut Context<'_>) -> Result<Box<GatePermit>, Failure> {
        let Bounds { width, queue, .. } = self.bounds;
        let max_units = queue.saturating_add(INSIDE * width);
        GatePermit::join(&self.keys, key, width, max_units, context).ok_or_else(|| {
            let message = format!("{queue} units of work are waiting for the same key already");
            Failure::new(FailureKind::Overloaded, message).retryable(true)
        })
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("bounds", &self.bounds).field("keys", &self.keys()).finish()
    }
}

#[cfg(test)]
mod tests;
