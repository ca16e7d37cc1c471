//! Detects a unit that requests a second connection of the pool whose connection it holds.

use std::future::Future;

use sqlx::Pool;

use crate::backend::Backend;
use crate::error::{is_running_unit_on, with_running_unit};
use crate::failure::{Failure, FailureKind};

/// Returns a number that identifies the pool in this process, the same for all of its clones.
///
/// It is the address of the pool's options, which stay in place while any clone lives. The connect options
/// would not do: a program may replace them while the pool is in use, to rotate credentials.
pub(crate) fn identity<DB: Backend>(pool: &Pool<DB>) -> usize {
    std::ptr::from_ref(pool.options()).addr()
}

/// Returns whether this task runs a unit of work on this pool.
pub(crate) fn holds_connection_of<DB: Backend>(pool: &Pool<DB>) -> bool {
    is_running_unit_on(identity(pool))
}

/// Runs a unit that holds a connection of this pool. Returns its output, and the failure in the last sqlx
/// error that it converted, which is the only sign of a failure on the underlying connection.
pub(crate) async fn holding<DB: Backend, F: Future>(
    pool: &Pool<DB>,
    unit: F,
) -> (F::Output, Option<Failure>) {
    with_running_unit(identity(pool), unit).await
}

/// Returns the failure for a `run` inside of a unit on the same pool.
pub(crate) fn nested() -> Failure {
    Failure::new(
        FailureKind::Aborted,
        "a unit of work was run inside of another one on the same pool, which would need a second connection \
         and open a separate transaction: pass `tx` on, and use `tx.savepoint` for a part that may fail",
    )
}
