//! Formats values for readers.
//!
//! The drivers expose the bound arguments of a statement through their `Debug` output only. The values that
//! are read from it are only displayed and used to explain errors.

/// Formats text as an SQL string.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("x'{digits}'")
}

/// Reads a list of byte values, which begins with `start` and ends at the next `]`.
pub(super) fn bytes_after(text: &str, start: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(start)?;
    let (list, _) = rest.split_once(']')?;
    list.split(", ").filter(|number| !number.is_empty()).map(|number| number.parse().ok()).collect()
}

/// Reads a list of byte values. Fails on anything else.
pub(super) fn byte_list(list: &str) -> Option<Vec<u8>> {
    if list.is_empty() {
        return Some(Vec::new());
    }
    list.split(", ").map(|number| number.parse().ok()).collect()
}

/// Returns the text between `start` and the next `end`, for each `start`.
pub(super) fn all_between<'t>(text: &'t str, start: &str, end: char) -> Vec<&'t str> {
    text.split(start).skip(1).filter_map(|rest| rest.split(end).next()).collect()
}

/// Takes `N` bytes from the front.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (front, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*front)
}
