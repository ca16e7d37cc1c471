//! Converts sqlx's errors, and records the last conversion of each running unit.
//!
//! If a unit uses the underlying connection, the crate learns of a conflict only when the unit converts
//! sqlx's error. The retry loop therefore reads the last conversion of each unit from here.

use std::cell::RefCell;
use std::future::Future;

use super::Error;
#[cfg(feature = "sea-orm")]
use super::ErrorKind;
use super::as_sqlx::recovered;
use crate::backend::failure_of_any;
use crate::failure::{Failure, FailureKind};

tokio::task_local! {
    static RUNNING: RefCell<RunningUnits>;
}

/// The units that this task is running.
struct RunningUnits {
    innermost: RunningUnit,
    /// Those that run the innermost one, on other pools. Most units have none.
    outer: Vec<RunningUnit>,
}

/// A unit of work that holds a connection of its pool.
#[derive(Clone)]
struct RunningUnit {
    /// The identity of the pool.
    pool: usize,
    /// The failure in the last error that was converted while the unit ran.
    converted: Option<Box<Failure>>,
}

impl RunningUnits {
    fn all(&self) -> impl Iterator<Item = &RunningUnit> {
        self.outer.iter().chain([&self.innermost])
    }
}

/// Returns whether this task runs a unit that holds a connection of the pool with this identity.
pub(crate) fn is_running_unit_on(pool: usize) -> bool {
    RUNNING.try_with(|running| running.borrow().all().any(|unit| unit.pool == pool)).unwrap_or(false)
}

/// Runs `unit`, which holds a connection of the pool with this identity. Returns its output, and the failure
/// in the last sqlx error that was converted to an [`Error`] meanwhile.
pub(crate) async fn with_running_unit<F: Future>(pool: usize, unit: F) -> (F::Output, Option<Failure>) {
    let outer = RUNNING.try_with(|running| running.borrow().all().cloned().collect()).unwrap_or_default();
    let running = RunningUnits { innermost: RunningUnit { pool, converted: None }, outer };
    let converted = || RUNNING.try_with(|running| running.borrow_mut().innermost.converted.take());
    let converted = || converted().ok().flatten().map(|failure| *failure);
    RUNNING.scope(RefCell::new(running), async move { (unit.await, converted()) }).await
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let error = match recovered(error) {
            Ok(original) => return original,
            Err(error) => error,
        };
        let is_in_unit = RUNNING.try_with(|_| ()).is_ok();
        let failure = match error {
            sqlx::Error::PoolTimedOut if is_in_unit => Some(second_connection()),
            ref error => failure_of_any(error),
        };
        if let Some(failure) = &failure {
            record(failure);
        }
        Self::driver(error, failure)
    }
}

impl Error {
    /// Converts an error of sqlx that others keep as well.
    #[cfg(feature = "sea-orm")]
    pub(crate) fn of_shared(error: &sqlx::Error) -> Self {
        let original: Option<&Self> = error.as_database_error().and_then(|error| error.try_downcast_ref());
        let failure = original.and_then(|error| error.failure().cloned()).or_else(|| failure_of_any(error));
        match failure {
            Some(failure) => {
                record(&failure);
                Self::failed(failure, None)
            }
            None => Self::typed(ErrorKind::Database, SharedError(error.to_string())),
        }
    }
}

/// The text of an error of sqlx that others keep as well.
#[cfg(feature = "sea-orm")]
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SharedError(String);

fn record(failure: &Failure) {
    let _ = RUNNING.try_with(|running| {
        running.borrow_mut().innermost.converted = Some(Box::new(failure.clone()));
    });
}

fn second_connection() -> Failure {
    Failure::new(
        FailureKind::Aborted,
        "the pool had no second connection for a unit of work that holds one already: run its queries on \
         `tx`",
    )
}
