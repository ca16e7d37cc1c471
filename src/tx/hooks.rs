//! What is to be done once the end of a transaction is known.

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
    /// It was registered inside a savepoint that has been rolled back: what it is about has come to its end
    /// already.
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
            // A hook that panics must not keep the others from running. The panic has been reported by its
            // own hook.
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

    /// The savepoint since which there were `since` hooks was rolled back.
    pub(super) fn undo(&mut self, since: usize) {
        for mut hook in self.0.split_off(since.min(self.0.len())) {
            if hook.on == TxEnd::RolledBack {
                hook.undone = true;
                self.0.push(hook);
            }
        }
    }

    /// Runs those that were waiting for this end, one after the other.
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
/// What a unit wants done *outside* of the database belongs here and not into the unit itself, which may run
/// several times. Hooks belong to the attempt that registers them: those of an attempt that is run again are
/// dropped. Those registered inside a savepoint that is rolled back are dropped too, but for `on_rollback`.
///
/// They run once, one after the other in the order of their registration, after the transaction has ended and
/// with its connection given back; also when the caller of `run` has gone. `run` waits for them while its
/// deadline lasts, and they go on in the background then. What they return is dropped, and a panic of one
/// keeps none of the others from running: a commit stays a commit.
///
/// # What a hook cannot do
///
/// Be relied on. A process that dies between the commit and the hook has committed and not run it. What must
/// happen belongs into the transaction: as a row that somebody works off.
impl<DB: Backend> Tx<DB> {
    /// Has something done once the commit is known: mails, messages, caches.
    ///
    /// ```
    /// # use atomically::{Error, Pessimistic, TransactorExt as _};
    /// # async fn send_mail(order: i64) {}
    /// # async fn example(pool: sqlx::SqlitePool) -> Result<(), Error> {
    /// Pessimistic::default()
    ///     .on(&pool)
    ///     .run(async |tx| {
    ///         sqlx::query("INSERT INTO orders (id) VALUES (7)").execute(&mut *tx).await?;
    ///         tx.on_commit(send_mail(7));
    ///         Ok::<_, Error>(())
    ///     })
    ///     .await
    /// # }
    /// ```
    pub fn on_commit<F: Future<Output: Send> + Send + 'static>(&mut self, hook: F) {
        self.hooks.register(TxEnd::Committed, hook);
    }

    /// Has something done once the unit has been rolled back for good.
    ///
    /// Not when the caller drops the run before it has come that far.
    pub fn on_rollback<F: Future<Output: Send> + Send + 'static>(&mut self, hook: F) {
        self.hooks.register(TxEnd::RolledBack, hook);
    }

    /// Has something done when nobody can know whether the commit was stored: an alarm, a note to look.
    pub fn on_unknown<F: Future<Output: Send> + Send + 'static>(&mut self, hook: F) {
        self.hooks.register(TxEnd::Unknown, hook);
    }
}
