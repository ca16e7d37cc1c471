use std::fmt;

use crate::backend::json_error_text;
use crate::error::{Error, ErrorKind};

/// A problem with the table of keys or with a stored response.
///
/// A run returns it as an [`Error`], converted into the closure's error type; [`of`](Self::of) extracts it.
///
/// Neither `Display` nor `Debug` quotes a response, and there is no [source](std::error::Error::source),
/// because the inner errors may quote one.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The table does not exist. Nothing was run. The error's kind is
    /// [`MissingTable`](crate::ErrorKind::MissingTable).
    #[error(
        "the table of idempotency keys does not exist: create `atomically_key` with `create_key_table`, or \
         with the statements of `key_schema` in a migration"
    )]
    NoTable(sqlx::Error),
    /// The response cannot be serialized. Nothing is stored. The error's kind is
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput).
    #[error("the response of an idempotency key cannot be stored: {}", json_error_text(.0))]
    Unwritable(serde_json::Error),
    /// The stored response cannot be deserialized: the type has changed, or the key is used for something
    /// else too. The effect of the earlier request is stored, and nothing was run. The error's kind is
    /// [`Decode`](crate::ErrorKind::Decode).
    #[error("the stored response of an idempotency key is not of the expected type: {}", json_error_text(.0))]
    Unreadable(serde_json::Error),
}

impl KeyError {
    /// Returns the `KeyError` that `error` was created from, if there is one.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        error.cause()
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

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        let kind = match &error {
            KeyError::NoTable(_) => ErrorKind::MissingTable,
            KeyError::Unwritable(_) => ErrorKind::InvalidInput,
            KeyError::Unreadable(_) => ErrorKind::Decode,
        };
        Self::typed(kind, error)
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
