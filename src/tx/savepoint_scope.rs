//! Tells the test kit whether events that it recorded inside of a savepoint were rolled back.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

tokio::task_local! {
    /// The innermost open savepoint of this task.
    static CURRENT: Arc<SavepointScope>;
}

/// An open savepoint, as seen by code that records what a unit does.
#[derive(Debug, Default)]
pub(crate) struct SavepointScope {
    is_undone: AtomicBool,
    outer: Option<Arc<Self>>,
}

impl SavepointScope {
    /// Creates a savepoint inside of the current one.
    pub(super) fn open() -> Arc<Self> {
        Arc::new(Self { is_undone: AtomicBool::new(false), outer: Self::current() })
    }

    /// Returns the innermost open savepoint of this task.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Runs the savepoint's closure.
    pub(super) async fn run<F: Future>(self: Arc<Self>, closure: F) -> F::Output {
        CURRENT.scope(self, closure).await
    }

    /// Marks the savepoint as rolled back.
    pub(crate) fn undo(&self) {
        self.is_undone.store(true, Ordering::Release);
    }

    /// Returns whether this savepoint, or one around it, was rolled back.
    pub(crate) fn is_undone(&self) -> bool {
        self.is_undone.load(Ordering::Acquire) || self.outer.as_ref().is_some_and(|outer| outer.is_undone())
    }
}
