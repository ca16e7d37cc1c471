use std::fmt;

use crate::backend::{Backend, failure_or_other, json_error_text};
use crate::error::Error;
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
    /// The table does not exist. Nothing was run.
    #[error("the table of idempotency keys does not exist{}", advice(.0))]
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
    pub(super) fn or_other<DB: Backend>(error: sqlx::Error) -> Error {
        let is_missing = is_missing_table(&failure_or_other::<DB>(&error));
        if is_missing { Self::NoTable(error).into() } else { error.into() }
    }
}

/// Returns how to create the table, as the end of a sentence.
fn advice(error: &sqlx::Error) -> String {
    missing_table(&error.to_string()).map_or(String::new(), |advice| format!(": {advice}"))
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
