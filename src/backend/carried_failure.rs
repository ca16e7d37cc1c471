//! Driver errors that carry a failure which the driver's own error does not tell.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use sqlx::error::{DatabaseError, ErrorKind};

use crate::failure::Failure;

/// The failure that an error carries.
pub(super) fn failure(error: &(dyn DatabaseError + 'static)) -> Option<Failure> {
    if let Some(over) = error.try_downcast_ref::<TransactionOver>() {
        return Some(over.0.clone());
    }
    if let Some(injected) = error.try_downcast_ref::<Injected>() {
        return Some(injected.0.clone());
    }
    if let Some(not_sent) = error.try_downcast_ref::<NotSent>() {
        return Some(not_sent.0.clone());
    }
    let carried = error.source()?.downcast_ref::<Carried>()?;
    Some(carried.0.clone())
}

/// What every statement of a transaction answers once the transaction is over: the root cause, and none of
/// the kinds and names that would make it look like an error of the statement at hand.
#[derive(Debug, thiserror::Error)]
#[error("the transaction is over, this statement was not run: {0}")]
pub(crate) struct TransactionOver(pub(crate) Failure);

/// A failure that no server raised, for tests of what is made of it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Injected(pub(crate) Failure);

/// A failure that the crate knows the cause of, in place of the driver's error, which does not tell it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotSent(pub(crate) Failure);

/// Lets a database error carry its failure, for whoever turns it into an error of this crate later on.
///
/// Servers use one code for a lock refused at once and for one that was waited for; what was sent tells them
/// apart, and is no longer known when the error has left the transaction. To everybody else the error is what
/// it was: its text, its code, and what it can be cast to.
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

/// An error that is nothing but its failure.
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
failure_as_database_error!(Injected);
failure_as_database_error!(NotSent);
