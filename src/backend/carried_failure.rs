//! Database errors that carry the failure they are classified as.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use sqlx::error::{DatabaseError, ErrorKind};

use crate::failure::Failure;

/// Returns the failure that an error carries.
pub(super) fn failure(error: &(dyn DatabaseError + 'static)) -> Option<Failure> {
    if let Some(error) = error.try_downcast_ref::<SyntheticError>() {
        return Some(error.failure().clone());
    }
    let carried = error.source()?.downcast_ref::<Carried>()?;
    Some(carried.0.clone())
}

/// A database error that no server raised, and that consists of its failure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyntheticError {
    /// A statement that was not run because its transaction had ended. It has the code of the root cause, but
    /// not the kind or the constraint's name, which would make it look like an error of the statement itself.
    #[error("the transaction is over, this statement was not run: {0}")]
    TransactionOver(Failure),
    /// A failure that a test injected, or whose cause the driver's error does not contain.
    #[error("{0}")]
    Failed(Failure),
}

impl SyntheticError {
    const fn failure(&self) -> &Failure {
        match self {
            Self::TransactionOver(failure) | Self::Failed(failure) => failure,
        }
    }
}

/// Attaches a failure to a database error, so that it survives the conversion to an error of this crate.
///
/// Servers use one code for NOWAIT and for a lock timeout. Only the statement distinguishes them, and it is
/// no longer available once the error has left the transaction. The error's text, code and downcasts stay as
/// they were.
pub(crate) fn with_failure(error: sqlx::Error, failure: &Failure) -> sqlx::Error {
    match error {
        sqlx::Error::Database(driver) => {
            sqlx::Error::Database(Box::new(Carrier { driver, carried: Carried(failure.clone()) }))
        }
        error => error,
    }
}

#[derive(Debug)]
struct Carrier {
    driver: Box<dyn DatabaseError>,
    carried: Carried,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Carried(Failure);

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.driver.fmt(f)
    }
}

impl StdError for Carrier {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.carried)
    }
}

impl DatabaseError for Carrier {
    fn message(&self) -> &str {
        self.driver.message()
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        self.driver.code()
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self.driver.as_error()
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self.driver.as_error_mut()
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self.driver.into_error()
    }

    fn constraint(&self) -> Option<&str> {
        self.driver.constraint()
    }

    fn table(&self) -> Option<&str> {
        self.driver.table()
    }

    fn kind(&self) -> ErrorKind {
        self.driver.kind()
    }
}

impl DatabaseError for SyntheticError {
    fn message(&self) -> &str {
        self.failure().message()
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        self.failure().code().map(Cow::Borrowed)
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}
