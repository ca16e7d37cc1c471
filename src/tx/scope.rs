//! Whether what is noted inside of a savepoint still holds: the test kit wants to know.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

tokio::task_local! {
    /// The innermost savepoint that this task is inside of.
    static CURRENT: Arc<Scope>;
}

/// A savepoint, as those see it who note what a unit does.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    is_undone: AtomicBool,
    outer: Option<Arc<Self>>,
}

impl Scope {
    /// A savepoint inside of the current one.
    pub(super) fn open() -> Arc<Self> {
        Arc::new(Self { is_undone: AtomicBool::new(false), outer: Self::current() })
    }

    /// The innermost savepoint that this task is inside of.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Runs what belongs to the savepoint.
    pub(super) async fn hold<F: Future>(self: Arc<Self>, inside: F) -> F::Output {
        CURRENT.scope(self, inside).await
    }

    /// The savepoint is rolled back.
    pub(crate) fn undo(&self) {
        self.is_undone.store(true, Ordering::Release);
    }

    /// Whether it, or one around it, was rolled back.
    pub(crate) fn is_undone(&self) -> bool {
        self.is_undone.load(Ordering::Acquire) || self.outer.as_ref().is_some_and(|outer| outer.is_undone())
    }
}
