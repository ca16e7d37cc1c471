//! The texts of drivers' errors without the values that they quote.

use std::borrow::Cow;
use std::error::Error as StdError;

use crate::failure::with_causes;

/// Replaces a cause, and names where to find it.
const CAUSE_LEFT_OUT: &str =
    "the cause may quote the value and is left out here: `Error::driver_error` has it";

/// Returns the text of a driver's error without parts that may be values of the program.
///
/// The message of a server is in the [`Failure`](crate::Failure) that the error is classified as.
pub(crate) fn error_text(error: &sqlx::Error) -> Cow<'static, str> {
    match error {
        sqlx::Error::ColumnDecode { index, source } => {
            format!("the column {index} could not be decoded: {}", cause(&**source)).into()
        }
        sqlx::Error::Decode(source) => format!("a value could not be decoded: {}", cause(&**source)).into(),
        sqlx::Error::Encode(source) => format!("a value could not be encoded: {}", cause(&**source)).into(),
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("error {code} of the database: {CAUSE_LEFT_OUT}").into(),
            None => format!("error of the database: {CAUSE_LEFT_OUT}").into(),
        },
        sqlx::Error::AnyDriverError(_) => format!("error of the driver: {CAUSE_LEFT_OUT}").into(),
        error => with_causes(error).into(),
    }
}

/// Returns the error's source, unless it may quote a value.
pub(crate) fn source(error: &sqlx::Error) -> Option<&(dyn StdError + 'static)> {
    match error {
        sqlx::Error::ColumnDecode { .. }
        | sqlx::Error::Decode(_)
        | sqlx::Error::Encode(_)
        | sqlx::Error::Database(_)
        | sqlx::Error::AnyDriverError(_) => None,
        error => error.source(),
    }
}

/// Returns the text of a cause if it is about types, which quotes no value.
fn cause(cause: &(dyn StdError + 'static)) -> Cow<'static, str> {
    let is_unexpected_null = cause.is::<sqlx::error::UnexpectedNullError>();
    let text = cause.to_string();
    if is_unexpected_null || text.starts_with("mismatched types; ") {
        return text.into();
    }
    #[cfg(any(feature = "queue", feature = "idempotency"))]
    if let Some(error) = cause.downcast_ref::<serde_json::Error>() {
        return json_error_text(error).into();
    }
    CAUSE_LEFT_OUT.into()
}

/// Describes a JSON error by its kind and position, because its own text quotes the value.
#[cfg(any(feature = "queue", feature = "idempotency"))]
pub(crate) fn json_error_text(error: &serde_json::Error) -> String {
    use serde_json::error::Category;

    let what = match error.classify() {
        Category::Io => "the JSON could not be written",
        Category::Syntax => "it is not JSON",
        Category::Data => "the JSON does not fit the type, or the type cannot be JSON",
        Category::Eof => "the JSON ends too early",
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_that_may_quote_values_are_removed() {
        let quoting = || Box::<dyn StdError + Send + Sync>::from("invalid value \"secret\" for enum Mood");
        for error in [
            sqlx::Error::Decode(quoting()),
            sqlx::Error::Encode(quoting()),
            sqlx::Error::ColumnDecode { index: "\"mood\"".to_owned(), source: quoting() },
            sqlx::Error::AnyDriverError(quoting()),
        ] {
            assert!(!error_text(&error).contains("secret"), "{}", error_text(&error));
            assert!(source(&error).is_none(), "{error:?}");
        }
    }

    #[test]
    fn causes_about_types_are_kept() {
        let null = || Box::new(sqlx::error::UnexpectedNullError);
        let text = error_text(&sqlx::Error::ColumnDecode { index: "0".to_owned(), source: null() });
        assert!(text.contains("the column 0") && text.contains("null"), "{text}");
        let mismatch = "mismatched types; Rust type `i64` is not compatible with SQL type `TEXT`";
        assert!(error_text(&sqlx::Error::Decode(mismatch.into())).contains(mismatch));
    }
}
