use std::fmt;

use crate::backend::json_error_text;
use crate::error::Error;

/// A problem with the table of keys or with a stored response.
///
/// A run returns it as an [`Error`], converted into the closure's error type; [`of`](Self::of) extracts it.
///
/// Neither `Display` nor `Debug` quotes a response, and there is no [source](std::error::Error::source),
/// because the inner errors may quote one.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The table does not exist. Nothing was run.
    #[error(
        "the table of idempotency keys does not exist: create `atomically_key` with `create_key_table`, or \
         with the statements of `key_schema` in a migration"
    )]
    NoTable(sqlx::Error),
    /// The response cannot be serialized. Nothing is stored.
    #[error("the response of an idempotency key cannot be stored: {}", json_error_text(.0))]
    Unwritable(serde_json::Error),
    /// The stored response cannot be deserialized: the type has changed, or the key is used for something
    /// else too. The effect of the earlier request is stored, and nothing was run.
    #[error("the stored response of an idempotency key is not of the expected type: {}", json_error_text(.0))]
    Unreadable(serde_json::Error),
}

impl KeyError {
    /// Returns the `KeyError` that `error` was created from, if there is one.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        match error.driver_error()? {
            sqlx::Error::Configuration(cause) | sqlx::Error::Encode(cause) | sqlx::Error::Decode(cause) => {
                cause.downcast_ref()
            }
            _ => None,
        }
    }

    /// Classifies the error of a statement on the table of keys.
    pub(super) fn or_other(error: sqlx::Error) -> Error {
        let is_missing = error.as_database_error().is_some_and(|error| match error.code().as_deref() {
            // The codes of PostgreSQL, and of MySQL and MariaDB. SQLite has one code for everything.
            Some("42P01" | "42S02") => true,
            Some("1") => error.message().starts_with("no such table"),
            _ => false,
        });
        if is_missing { Self::NoTable(error).into() } else { error.into() }
    }
}

/// Converts the error into the variant of `sqlx::Error` with which drivers report such problems.
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
