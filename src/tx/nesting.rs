//! Misuse that would deadlock a pool: a second connection, taken by one who holds one.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;

use sqlx::Pool;

use crate::backend::{Backend, failure_of_any};
use crate::error::Error;
use crate::failure::{Failure, FailureKind};

tokio::task_local! {
    /// The pools whose connections the units of this task hold.
    static HELD: RefCell<Vec<usize>>;
}

/// What tells one pool from another.
pub(crate) fn identity<DB: Backend>(pool: &Pool<DB>) -> usize {
    Arc::as_ptr(&pool.connect_options()).addr()
}

/// Whether this task is inside of a unit of work on this pool.
pub(crate) fn holds_connection_of<DB: Backend>(pool: &Pool<DB>) -> bool {
    HELD.try_with(|held| held.borrow().contains(&identity(pool))).unwrap_or(false)
}

/// Runs a unit as one that holds a connection of this pool.
pub(crate) async fn holding<DB: Backend, F: Future>(pool: &Pool<DB>, unit: F) -> F::Output {
    let mut held = HELD.try_with(|held| held.borrow().clone()).unwrap_or_default();
    held.push(identity(pool));
    HELD.scope(RefCell::new(held), unit).await
}

/// What a `run` inside of a `run` on the same pool is told.
pub(crate) fn nested() -> Failure {
    Failure::new(
        FailureKind::Aborted,
        "a unit of work was run inside of another one on the same pool, which would take a second connection and a \
         transaction of its own: hand `tx` on, and use `tx.savepoint` for a part that may fail",
    )
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let holds_one = HELD.try_with(|held| !held.borrow().is_empty()).unwrap_or(false);
        let failure = if holds_one && matches!(error, sqlx::Error::PoolTimedOut) {
            Some(Failure::new(
                FailureKind::Aborted,
                "the pool had no second connection for a unit of work that holds one already: run its queries on `tx`",
            ))
        } else {
            failure_of_any(&error)
        };
        Self::driver(error, failure)
    }
}
