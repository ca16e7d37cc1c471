//! Driver errors that carry the failure they are classified as.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use sqlx::error::{DatabaseError, ErrorKind};

use crate::failure::Failure;

/// Returns the failure that an error carries.
pub(super) fn failure(error: &(dyn DatabaseError + 'static)) -> Option<Failure> {
    if let Some(over) = error.try_downcast_ref::<TransactionOver>() {
        return Some(over.0.clone());
    }
    if let Some(injected) = error.try_downcast_ref::<InjectedFailure>() {
        return Some(injected.0.clone());
    }
    if let Some(not_sent) = error.try_downcast_ref::<StatementNotSent>() {
        return Some(not_sent.0.clone());
    }
    let carried = error.source()?.downcast_ref::<Carried>()?;
    Some(carried.0.clone())
}

/// The error of every statement of a transaction that is over: the root cause, without the kinds and names
/// that would make it look like an error of the statement itself.
#[derive(Debug, thiserror::Error)]
#[error("the transaction is over, this statement was not run: {0}")]
pub(crate) struct TransactionOver(pub(crate) Failure);

/// A failure that was injected by a test, and no server raised.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InjectedFailure(pub(crate) Failure);

/// The failure of a statement that was too large to be sent, in place of the driver's error, which does not
/// tell the cause.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StatementNotSent(pub(crate) Failure);

/// Attaches its failure to a database error, for the conversion into an error of this crate.
///
/// Servers use one code for NOWAIT and for a lock timeout. The statement tells them apart, but is no longer
/// available once the error has left the transaction. The error's text, code and downcasts stay as they
/// were.
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

/// Implements `DatabaseError` for an error that consists of its failure.
macro_rules! failure_as_database_error {
    ($error:ty) => {
        impl DatabaseError for $error {
            fn message(&self) -> &str {
                self.0.message()
            }

            fn code(&self) -> Option<Cow<'_, str>> {
                self.0.code().map(Cow::Borrowed)
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
    };
}
failure_as_database_error!(TransactionOver);
failure_as_database_error!(InjectedFailure);
failure_as_database_error!(StatementNotSent);
