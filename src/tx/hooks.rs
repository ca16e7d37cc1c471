//! Hooks, which run when the outcome of a transaction is known.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_core::future::BoxFuture;
use futures_util::FutureExt as _;

use crate::backend::Backend;

use super::Tx;

/// The hooks of one attempt, in the order in which they were registered.
#[derive(Default)]
pub(crate) struct Hooks(Vec<Hook>);

struct Hook {
    on: TxEnd,
    /// Whether it was registered inside of a savepoint that was rolled back, so that it runs whatever the
    /// outcome is.
    undone: bool,
    task: BoxFuture<'static, ()>,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TxEnd {
    Committed,
    RolledBack,
    Unknown,
}

impl Hooks {
    fn register<F: Future<Output: Send> + Send + 'static>(&mut self, on: TxEnd, hook: F) {
        let task = Box::pin(async move {
            // A panic in a hook must not prevent the other hooks. The panic hook reports it.
            let _ = AssertUnwindSafe(hook).catch_unwind().await;
        });
        self.0.push(Hook { on, undone: false, task });
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Discards the hooks of a savepoint that was rolled back, except those for a rollback. `since` is the
    /// number of hooks when the savepoint was set.
    pub(super) fn undo(&mut self, since: usize) {
        for mut hook in self.0.split_off(since.min(self.0.len())) {
            if hook.on == TxEnd::RolledBack {
                hook.undone = true;
                self.0.push(hook);
            }
        }
    }

    /// Runs the hooks for this end, one after another.
    pub(crate) async fn run(self, end: TxEnd) {
        for hook in self.0 {
            if hook.on == end || hook.undone {
                hook.task.await;
            }
        }
    }
}

/// # Hooks
///
/// Use hooks for effects *outside* of the database: a unit may run several times, but its hooks run once.
/// Hooks belong to the attempt that registers them; when an attempt is retried, its hooks are dropped. If the
/// commit of an attempt is unknown and [turns out](crate::Options::resolve_commits) to be stored, its hooks
/// run, and those of later attempts are dropped. Hooks that are registered inside of a savepoint are dropped
/// if it is rolled back, except for `on_rollback`.
///
/// Hooks run one after another in the order of their registration, after the transaction has ended and its
/// connection was released, even if the caller has dropped the run by then. `run` waits for them until its
/// deadline; after that they continue in the background. Their results are ignored, and a panic in one does
/// not prevent the others from running.
///
/// # Limits
///
/// A hook is not guaranteed to run: if the process dies right after the commit, its hooks are lost. If an
/// effect must happen, record it in the database in the same transaction, for example as a job.
impl<DB: Backend> Tx<DB> {
    /// Registers a future to run after the commit: to send mail, publish a message or invalidate a cache.
    ///
    /// ```
    /// # use atomically::{Error, Pessimistic, TransactorExt as _};
    /// # async fn send_mail(order: i64) {}
    /// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Error> {
    /// Pessimistic::default()
    ///     .on(&pool)
    ///     .run(async |tx| -> Result<_, Error> {
    ///         sqlx::query("INSERT INTO orders (id) VALUES (7)").execute(&mut *tx).await?;
    ///         tx.on_commit(send_mail(7));
    ///         Ok(())
    ///     })
    ///     .await
    /// # }
    /// ```
    pub fn on_commit<F: Future<Output: Send> + Send + 'static>(&mut self, hook: F) {
        self.hooks.register(TxEnd::Committed, hook);
    }

    /// Registers a future to run after the unit was rolled back and is not retried.
    ///
    /// The hook does not run if the caller drops the run before that.
    pub fn on_rollback<F: Future<Output: Send> + Send + 'static>(&mut self, hook: F) {
        self.hooks.register(TxEnd::RolledBack, hook);
    }

    /// Registers a future to run if the outcome of the commit is unknown, for example to raise an alarm.
    pub fn on_unknown<F: Future<Output: Send> + Send + 'static>(&mut self, hook: F) {
        self.hooks.register(TxEnd::Unknown, hook);
    }
}
