//! The header `Idempotency-Key`.
//!
//! The parser is written here because a crate for structured fields would parse six types of which the
//! header uses one, and would refuse the bare values that most clients send.

use http::HeaderMap;
use http::header::HeaderName;

use crate::idempotency::IdempotencyKey;

use super::refusal::Refusal;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Returns the key that a request carries.
///
/// The value is a string of [structured fields](https://www.rfc-editor.org/rfc/rfc9651#name-strings), in
/// double quotes. A bare value is the same key as that value in quotes.
pub(super) fn key_of(headers: &HeaderMap) -> Result<String, Refusal> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let value = values.next().ok_or(Refusal::MissingKey)?;
    if values.next().is_some() {
        return Err(Refusal::RepeatedKey);
    }
    // `to_str` fails for anything but visible ASCII characters, spaces and tabs.
    let value = value.to_str().map_err(|_| Refusal::MalformedKey)?.trim_matches([' ', '\t']);
    let key = match value.strip_prefix('"') {
        Some(quoted) => unquoted(quoted)?,
        None => bare(value)?,
    };
    match key.len() {
        0 => Err(Refusal::EmptyKey),
        1..=IdempotencyKey::MAX_BYTES => Ok(key),
        bytes => Err(Refusal::KeyTooLong(bytes)),
    }
}

/// Parses what follows the opening quote of a string. Parameters after it are refused: the header defines
/// none, and two keys that differ only in what is ignored would be the same.
fn unquoted(quoted: &str) -> Result<String, Refusal> {
    let mut key = String::with_capacity(quoted.len());
    let mut rest = quoted.chars();
    loop {
        match rest.next() {
            Some('"') if rest.as_str().is_empty() => return Ok(key),
            Some('\\') => match rest.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err(Refusal::MalformedKey),
            },
            Some(plain @ (' ' | '!' | '#'..='~')) => key.push(plain),
            _ => return Err(Refusal::MalformedKey),
        }
    }
}

/// Accepts a value without quotes if it cannot be anything else: a list, a parameter or part of a string.
fn bare(value: &str) -> Result<String, Refusal> {
    let is_part_of_a_key = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | ',' | ';' | '\\');
    if value.chars().all(is_part_of_a_key) { Ok(value.to_owned()) } else { Err(Refusal::MalformedKey) }
}
