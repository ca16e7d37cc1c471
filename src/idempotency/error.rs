use std::fmt;

use crate::backend::{Backend, failure_or_other, json_error_text};
use crate::error::{Error, ErrorKind};
use crate::schema::{is_missing_table, missing_table};

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
    #[error("the table of idempotency keys does not exist{}", advice(.0))]
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
    pub(super) fn or_other<DB: Backend>(error: sqlx::Error) -> Error {
        let is_missing = is_missing_table(&failure_or_other::<DB>(&error));
        if is_missing { Self::NoTable(error).into() } else { error.into() }
    }
}

/// Returns how to create the table, as the end of a sentence.
fn advice(error: &sqlx::Error) -> String {
    missing_table(&error.to_string()).map_or(String::new(), |advice| format!(": {advice}"))
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
