//! Values as a reader wants to see them.
//!
//! The drivers keep the arguments of a statement encoded and to themselves; what they show of them is their
//! `Debug` output, and that is read here. It is only ever shown, never relied upon.

/// A value among SQL's own words.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("x'{digits}'")
}

/// The bytes between `start` and the next `]`, in which a list of numbers is shown.
pub(super) fn bytes_after(text: &str, start: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(start)?;
    let (list, _) = rest.split_once(']')?;
    list.split(", ").filter(|number| !number.is_empty()).map(|number| number.parse().ok()).collect()
}

/// What stands between `start` and `end`, each time.
pub(super) fn all_between<'t>(text: &'t str, start: &str, end: char) -> Vec<&'t str> {
    text.split(start).skip(1).filter_map(|rest| rest.split(end).next()).collect()
}

/// Takes so many bytes off the front.
pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (front, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*front)
}
