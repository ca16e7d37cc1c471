//! Errors of SeaORM, and errors of this crate for SeaORM.

use std::sync::Arc;

use sea_orm::{DbErr, RuntimeErr};

use crate::error::{Error, ErrorKind};

/// Keeps what the database reported: a constraint or a conflict inside of a `DbErr` is one here too.
///
/// `RecordNotFound` becomes [`RowNotFound`](ErrorKind::RowNotFound). The errors that SeaORM finds itself,
/// such as a value that has another type, are [`Database`](ErrorKind::Database) errors with its text.
impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        match error {
            DbErr::Conn(RuntimeErr::SqlxError(cause))
            | DbErr::Exec(RuntimeErr::SqlxError(cause))
            | DbErr::Query(RuntimeErr::SqlxError(cause)) => match Arc::try_unwrap(cause) {
                Ok(cause) => cause.into(),
                Err(shared) => Self::of_shared(&shared),
            },
            DbErr::RecordNotFound(_) => sqlx::Error::RowNotFound.into(),
            other => Self::typed(ErrorKind::Database, other),
        }
    }
}

/// Allows units to return [`DbErr`], as code on SeaORM does. [`Error::from`] converts it back to the
/// original.
impl From<Error> for DbErr {
    fn from(error: Error) -> Self {
        Self::Exec(RuntimeErr::SqlxError(Arc::new(error.into())))
    }
}
