//! A transactor over the pools of several nodes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Pool;

use super::attempt::UnitAttempts;
use super::retry::run_with_retries;
use super::{Ended, Options, PoolTransactor, Transactor, Unit};
use crate::backend::Backend;
use crate::error::Error;
use crate::failure::Failure;
use crate::strategy::Strategy;

mod attempts;
mod health;
mod nodes;
#[cfg(test)]
mod tests;

use attempts::FailoverAttempts;
use nodes::{CheckTimes, Nodes};

/// Runs units on the first of several nodes that takes writes.
///
/// Each node of the cluster has a pool of its own, because sqlx connects a pool to one address. The units run
/// on one pool at a time: the first one that answers, in the order of the list. If its node dies, hangs,
/// leaves the cluster or becomes read-only, the attempts that follow run on the next pool.
///
/// ```
/// # use atomically::{Error, Failover, Pessimistic, TransactorExt as _};
/// # use sqlx::MySqlPool;
/// # async fn example() -> Result<(), Error> {
/// // Lazy pools, because a node may be down when the program starts.
/// let pools = ["db1", "db2", "db3"]
///     .map(|host| MySqlPool::connect_lazy(&format!("mysql://app:secret@{host}/shop")));
/// let [first, second, third] = pools;
/// let db = Failover::new(Pessimistic::default().on(&first?), [&second?, &third?]);
/// db.run(async |tx| -> Result<_, Error> {
///     sqlx::query("UPDATE stock SET pieces = pieces - 1 WHERE id = 7").execute(&mut *tx).await?;
///     Ok(())
/// })
/// .await
/// # }
/// ```
///
/// # When does a unit move?
///
/// Between two attempts of its retry loop, under the same deadline, and under the rules that hold on a single
/// pool: only if nothing can have been stored, or behind the row of its operation. With
/// [`Options::resolve_commits`], the next attempt writes the same row on the next node. A commit whose
/// response was lost with its node is found there, or can no longer happen. Without that option, such a
/// commit is reported as [unknown](crate::Error::is_commit_unknown).
///
/// # What the pools must have in common
///
/// They must lead to *one* database: the nodes of a Galera cluster or a group, or a primary and the standbys
/// that may be promoted in its place, with synchronous replication and a manager that fences the old
/// primary. Failover between servers that do not agree on what is stored loses what was stored on one of
/// them. On SQLite every run fails with [`Unsupported`](crate::ErrorKind::Unsupported).
///
/// # How does it notice?
///
/// - An attempt that fails because of its connection or its server makes the transactor connect to the node
///   and ask whether it takes writes.
/// - An attempt that takes longer than the [patience](Self::patience) makes it connect as well. If the node
///   does not answer that within the same time, the attempt is given up: one that has not sent its COMMIT is
///   rolled back by the closing of its connection, and the commit of another one is unknown.
/// - While another pool than the first is in use, it connects to those before it at [intervals](Self::pause),
///   and returns to the first of them that takes writes.
///
/// # Guarantees
///
/// New attempts of one transactor, clones included, run on one pool at a time. Attempts that are in progress
/// when the pool changes end where they are; a return waits for them, for a second at most. Different
/// processes may use different nodes for a while. On a Galera cluster that is safe, because it detects
/// conflicts at the commit.
///
/// Cloning is cheap; clones share the pools, the gate and the pool that is in use.
pub struct Failover<DB: Backend, S> {
    /// The transactors on each pool, in the order of preference.
    transactors: Arc<[PoolTransactor<DB, S>]>,
    nodes: Arc<Nodes<DB>>,
    times: CheckTimes,
}

impl<DB: Backend, S: Strategy> Failover<DB, S> {
    /// Adds the pools of other nodes to a transactor, in the order in which they are to be tried. Strategy,
    /// options and gate are those of the transactor.
    #[must_use]
    pub fn new<'a>(first: PoolTransactor<DB, S>, others: impl IntoIterator<Item = &'a Pool<DB>>) -> Self {
        let others: Vec<_> = others.into_iter().map(|pool| first.on_another(pool)).collect();
        let transactors: Vec<_> = std::iter::once(first).chain(others).collect();
        let nodes = Nodes::new(transactors.iter().map(|transactor| transactor.pool().clone()));
        Self { transactors: transactors.into(), nodes: Arc::new(nodes), times: DEFAULT_TIMES }
    }

    /// Sets how long an attempt may take before its node is checked, and how long the node may take to answer
    /// the check. The default is 2 s.
    ///
    /// An attempt on a node that hangs therefore ends after twice this time, so set a deadline above that. A
    /// short time moves units away from a node that is merely busy.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.times.patience = patience;
        self
    }

    /// Sets the time after which a pool that was left is checked, in order to return to it. The default is
    /// 30 s.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.times.pause = pause;
        self
    }

    /// Returns the pool on which the next attempt will run, for example for queries outside of units.
    #[must_use]
    pub fn pool(&self) -> &Pool<DB> {
        self.transactors[self.nodes.current()].pool()
    }
}

const DEFAULT_TIMES: CheckTimes =
    CheckTimes { patience: Duration::from_secs(2), pause: Duration::from_secs(30) };

#[async_trait]
impl<DB: Backend, S: Strategy> Transactor<DB> for Failover<DB, S> {
    async fn transact(&self, options: &Options, unit: &mut dyn Unit<DB>) -> Result<Ended, Error> {
        if DB::READ_ONLY_QUERY.is_none() {
            return Err(Error::failed(Failure::unsupported(DB::NAME, "nodes to fail over to"), None));
        }
        for transactor in &*self.transactors {
            transactor.refuse_nesting()?;
        }
        let first = &self.transactors[0];
        let options = first.options_of_run(options);
        let unit = UnitAttempts::new(first.pool(), first.reuse(), &options, unit);
        let (transactors, nodes, times) = (&*self.transactors, &self.nodes, self.times);
        let mut attempts = FailoverAttempts { transactors, unit, nodes, times };
        run_with_retries(first.strategy(), first.waiting_queues(), &options, &mut attempts).await
    }
}

// Not derived, because that would require `DB: Clone`.
impl<DB: Backend, S> Clone for Failover<DB, S> {
    fn clone(&self) -> Self {
        Self { transactors: self.transactors.clone(), nodes: self.nodes.clone(), times: self.times }
    }
}

impl<DB: Backend, S: Strategy> fmt::Debug for Failover<DB, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failover")
            .field("transactors", &self.transactors)
            .field("current", &self.nodes.current())
            .field("times", &self.times)
            .finish()
    }
}
