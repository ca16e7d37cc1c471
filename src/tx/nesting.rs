//! Misuse that would deadlock a pool: a second connection, taken by one who holds one.

use std::cell::RefCell;
use std::future::Future;

use sqlx::Pool;

use crate::backend::{Backend, failure_of_any};
use crate::error::{Error, recovered};
use crate::failure::{Failure, FailureKind};

tokio::task_local! {
    /// The units that this task is inside of, the innermost last.
    static HELD: RefCell<Vec<HeldPool>>;
}

/// A unit that holds a connection.
#[derive(Clone)]
struct HeldPool {
    /// Of which pool.
    pool: usize,
    /// What the last driver's error said that was turned into one of this crate's meanwhile.
    converted: Option<Failure>,
}

/// What tells one pool from another: where it keeps its options, which stays the same for all of its clones,
/// and for as long as there is one. (How it connects may be changed while it is in use: credentials that
/// rotate.)
pub(crate) fn identity<DB: Backend>(pool: &Pool<DB>) -> usize {
    std::ptr::from_ref(pool.options()).addr()
}

/// Whether this task is inside of a unit of work on this pool.
pub(crate) fn holds_connection_of<DB: Backend>(pool: &Pool<DB>) -> bool {
    HELD.try_with(|held| held.borrow().iter().any(|unit| unit.pool == identity(pool))).unwrap_or(false)
}

/// Runs a unit as one that holds a connection of this pool. Returns with its output what the last driver's
/// error said that it turned into one of this crate's: of what a unit does on the connection itself, nothing
/// else is seen.
pub(crate) async fn holding<DB: Backend, F: Future>(
    pool: &Pool<DB>,
    unit: F,
) -> (F::Output, Option<Failure>) {
    let mut held = HELD.try_with(|held| held.borrow().clone()).unwrap_or_default();
    held.push(HeldPool { pool: identity(pool), converted: None });
    let converted = || HELD.try_with(|held| held.borrow_mut().pop().and_then(|unit| unit.converted));
    HELD.scope(RefCell::new(held), async move { (unit.await, converted().ok().flatten()) }).await
}

fn note_conversion(failure: &Failure) {
    let _ = HELD.try_with(|held| {
        if let Some(unit) = held.borrow_mut().last_mut() {
            unit.converted = Some(failure.clone());
        }
    });
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
        let error = match recovered(error) {
            Ok(original) => return original,
            Err(error) => error,
        };
        let holds_one = HELD.try_with(|held| !held.borrow().is_empty()).unwrap_or(false);
        let failure = if holds_one && matches!(error, sqlx::Error::PoolTimedOut) {
            Some(Failure::new(
                FailureKind::Aborted,
                "the pool had no second connection for a unit of work that holds one already: run its queries on `tx`",
            ))
        } else {
            failure_of_any(&error)
        };
        if let Some(failure) = &failure {
            note_conversion(failure);
        }
        Self::driver(error, failure)
    }
}
