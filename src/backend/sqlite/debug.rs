//! What SQLite's driver shows to who looks closely.

use crate::backend::text::between;
use crate::backend::values::{bytes_after, hex, quoted};

/// Out of the driver's `Debug` output.
pub(super) fn arguments(arguments: &str) -> Option<Vec<String>> {
    let list = between(arguments, "SqliteArgumentsBuffer([", "]) }")?;
    let mut values = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        let (value, behind) = first_value(rest)?;
        values.push(value);
        rest = behind.strip_prefix(", ").unwrap_or(behind);
    }
    Some(values)
}

/// `Int64(7)`, `Text("it's \"so\"")`, `Blob([1, 2])` or `Null`, and what comes behind it.
fn first_value(list: &str) -> Option<(String, &str)> {
    if let Some(behind) = list.strip_prefix("Null") {
        return Some((String::from("NULL"), behind));
    }
    let (name, rest) = list.split_once('(')?;
    if let Some(text) = rest.strip_prefix('"') {
        let mut shown = String::new();
        let mut characters = text.char_indices();
        loop {
            match characters.next()? {
                (end, '"') => return Some((quoted(&shown), text[end + 1..].strip_prefix(')')?)),
                (_, '\\') => shown.push(characters.next()?.1),
                (_, character) => shown.push(character),
            }
        }
    }
    let (value, behind) = rest.split_once(')')?;
    let value = if name == "Blob" { hex(&bytes_after(value, "[")?) } else { value.to_owned() };
    Some((value, behind))
}

#[cfg(test)]
mod tests {
    use sqlx::Arguments as _;
    use sqlx::sqlite::SqliteArguments;

    use super::*;

    /// The driver's output is nobody's promise: this says when it has changed.
    #[test]
    fn arguments_are_read() {
        let mut bound = SqliteArguments::default();
        bound.add(7_i64).expect("an argument");
        bound.add("it's \"so\", or \\").expect("an argument");
        bound.add(None::<i64>).expect("an argument");
        bound.add(true).expect("an argument");
        bound.add(1.5_f64).expect("an argument");
        bound.add(vec![1_u8, 255]).expect("an argument");
        bound.add("").expect("an argument");
        let shown = arguments(&format!("{bound:?}")).expect("the output of this driver");
        assert_eq!(shown, ["7", "'it''s \"so\", or \\'", "NULL", "1", "1.5", "x'01ff'", "''"]);
        assert_eq!(arguments("SqliteArguments { something: else }"), None);
    }
}
