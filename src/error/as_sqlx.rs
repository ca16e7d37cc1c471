//! Converts errors of this crate to `sqlx::Error` and back, for units that return `sqlx::Error`.

use std::borrow::Cow;
use std::error::Error as StdError;

use sqlx::error::{DatabaseError, ErrorKind as SqlxErrorKind};

use super::Error;
use crate::failure::{ConstraintKind, Failure};

/// Allows units to return [`sqlx::Error`], as existing code does: sqlx converts every `DatabaseError` to its
/// own [`sqlx::Error::Database`].
///
/// The code and the constraint are those that the server reported. [`Error::from`] converts it back to the
/// original.
///
/// ```
/// # use atomically::{Pessimistic, TransactorExt as _, Tx};
/// # async fn example(pool: sqlx::PgPool) -> Result<(), sqlx::Error> {
/// let db = Pessimistic::default().on(&pool);
/// let result = db
///     .run(async |tx: &mut Tx<_>| -> Result<_, sqlx::Error> {
///         sqlx::query("INSERT INTO customer (email) VALUES ('a@example.com')").execute(&mut *tx).await?;
///         Ok(())
///     })
///     .await;
/// if let Err(sqlx::Error::Database(error)) = &result && error.is_unique_violation() {
///     // ...
/// }
/// result
/// # }
/// ```
impl DatabaseError for Error {
    fn message(&self) -> &str {
        self.failure().map_or_else(|| self.text_without_failure(), Failure::message)
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        self.failure()?.code().map(Cow::Borrowed)
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

    fn constraint(&self) -> Option<&str> {
        Self::constraint(self)?.name.as_deref()
    }

    fn kind(&self) -> SqlxErrorKind {
        match Self::constraint(self).map(|constraint| constraint.kind) {
            Some(ConstraintKind::Unique) => SqlxErrorKind::UniqueViolation,
            Some(ConstraintKind::ForeignKey) => SqlxErrorKind::ForeignKeyViolation,
            Some(ConstraintKind::NotNull) => SqlxErrorKind::NotNullViolation,
            Some(ConstraintKind::Check) => SqlxErrorKind::CheckViolation,
            _ => SqlxErrorKind::Other,
        }
    }
}

/// Returns the error of this crate that an sqlx error wraps, or the sqlx error itself if it wraps none.
pub(super) fn recovered(error: sqlx::Error) -> Result<Error, sqlx::Error> {
    match error {
        sqlx::Error::Database(error) => error
            .try_downcast::<Error>()
            .map_or_else(|other| Err(sqlx::Error::Database(other)), |original| Ok(*original)),
        other => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorKind, Spent};
    use crate::failure::{Failure, FailureKind};
    use std::time::Duration;

    #[test]
    fn an_error_without_a_failure_has_a_message() {
        let spent = Spent { attempts: 0, elapsed: Duration::from_secs(3) };
        for (error, part) in [
            (Error::from(sqlx::Error::RowNotFound), "no rows returned"),
            (Error::from(sqlx::Error::ColumnNotFound("stock".to_owned())), "stock"),
            (Error::deadline_exceeded(None, spent), "deadline"),
            (Error::from(sqlx::Error::RowNotFound).duplicate(), "no rows returned"),
        ] {
            let message = DatabaseError::message(&error);
            assert!(message.contains(part), "{message:?}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn an_error_survives_the_way_through_sqlx() {
        let spent = Spent { attempts: 3, elapsed: Duration::from_secs(1) };
        let deadlock = Failure::new(FailureKind::Deadlock, "deadlock detected").with_code("40P01");
        let overloaded = Failure::new(FailureKind::Overloaded, "too many runs are waiting");
        for failure in [deadlock, overloaded] {
            let there = sqlx::Error::from(Error::exhausted(failure.clone(), spent));
            let code = there.as_database_error().and_then(DatabaseError::code);
            assert_eq!(code.as_deref(), failure.code());
            let back = Error::from(there);
            assert_eq!((back.kind(), back.attempts()), (ErrorKind::Exhausted, Some(3)));
            assert_eq!(back.failure().map(Failure::kind), Some(failure.kind()));
        }
    }
}
