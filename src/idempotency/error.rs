use std::fmt;

use crate::backend::json_error_text;
use crate::error::Error;

/// What was wrong with the table of keys or with what is in it.
///
/// A unit of work gets it as an [`Error`], turned into its own error type; [`of`](Self::of) finds it in
/// there.
///
/// Neither its text nor its `Debug` output quotes a response, and it has no
/// [source](std::error::Error::source): the errors in it may quote one.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The table has not been made. Nothing was run.
    #[error(
        "there is no table of idempotency keys: make `atomically_key` with `create_key_table`, or with the text of \
         `key_schema` in a migration"
    )]
    NoTable(sqlx::Error),
    /// The response could not be serialized. Nothing is stored.
    #[error("the response of an idempotency key cannot be stored: {}", json_error_text(.0))]
    Unwritable(serde_json::Error),
    /// What was stored is no response of the type that was asked for: the type has changed, or the key means
    /// something else here. The effect is stored, and nothing was run.
    #[error("the stored response of an idempotency key is not of the type that was asked for: {}", json_error_text(.0))]
    Unreadable(serde_json::Error),
}

impl KeyError {
    /// The error that this one was made from, where it was.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        match error.driver_error()? {
            sqlx::Error::Configuration(cause) | sqlx::Error::Encode(cause) | sqlx::Error::Decode(cause) => {
                cause.downcast_ref()
            }
            _ => None,
        }
    }

    /// A failed statement on the table of keys.
    pub(super) fn or_other(error: sqlx::Error) -> Error {
        let is_missing = error.as_database_error().is_some_and(|error| match error.code().as_deref() {
            // PostgreSQL; MySQL and MariaDB; SQLite, which has one code for everything.
            Some("42P01" | "42S02") => true,
            Some("1") => error.message().starts_with("no such table"),
            _ => false,
        });
        if is_missing { Self::NoTable(error).into() } else { error.into() }
    }
}

/// As drivers report a value that does not fit, and a database that was not set up.
impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        let wrap = match &error {
            KeyError::NoTable(_) => sqlx::Error::Configuration,
            KeyError::Unwritable(_) => sqlx::Error::Encode,
            KeyError::Unreadable(_) => sqlx::Error::Decode,
        };
        Self::carried(error.to_string(), wrap(Box::new(error)))
    }
}

impl fmt::Debug for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::NoTable(_) => "NoTable",
            Self::Unwritable(_) => "Unwritable",
            Self::Unreadable(_) => "Unreadable",
        };
        write!(f, "{name}({:?})", self.to_string())
    }
}
