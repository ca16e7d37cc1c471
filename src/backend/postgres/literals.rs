//! Formats values as SQL literals.

use std::fmt::{Display, Write as _};

/// Returns a string literal that does not depend on `standard_conforming_strings`.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Returns the content of an array literal of numbers.
pub(super) fn numbers(numbers: impl Iterator<Item = Option<impl Display>>) -> String {
    let mut array = String::from("{");
    for number in numbers {
        // Writing to a string does not fail.
        let _ = match number {
            Some(number) => write!(array, "{number},"),
            None => write!(array, "NULL,"),
        };
    }
    closed(array)
}

/// Returns an array literal of texts.
pub(super) fn texts<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> String {
    let mut array = String::from("{");
    for text in texts {
        match text {
            Some(text) => {
                array.push('"');
                array.push_str(&text.replace('\\', "\\\\").replace('"', "\\\""));
                array.push_str("\",");
            }
            None => array.push_str("NULL,"),
        }
    }
    literal(&closed(array))
}

/// Replaces the last comma by the closing bracket.
fn closed(mut array: String) -> String {
    array.pop();
    array.push('}');
    array
}
