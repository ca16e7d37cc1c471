//! Reads bound values from the `Debug` output of the driver's arguments.

use crate::backend::messages::between;
use crate::backend::values::{bytes_after, hex, quoted};

pub(super) fn argument_texts(arguments: &str) -> Option<Vec<String>> {
    let list = between(arguments, "SqliteArgumentsBuffer([", "]) }")?;
    let mut values = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        let (value, remainder) = first_value(rest)?;
        values.push(value);
        rest = remainder.strip_prefix(", ").unwrap_or(remainder);
    }
    Some(values)
}

/// Reads `Int64(7)`, `Text("it's \"so\"")`, `Blob([1, 2])` or `Null`, and returns what follows it.
fn first_value(list: &str) -> Option<(String, &str)> {
    if let Some(remainder) = list.strip_prefix("Null") {
        return Some((String::from("NULL"), remainder));
    }
    let (name, rest) = list.split_once('(')?;
    if let Some(text) = rest.strip_prefix('"') {
        let mut unescaped = String::new();
        let mut characters = text.char_indices();
        loop {
            match characters.next()? {
                (end, '"') => return Some((quoted(&unescaped), text[end + 1..].strip_prefix(')')?)),
                (_, '\\') => unescaped.push(characters.next()?.1),
                (_, character) => unescaped.push(character),
            }
        }
    }
    let (value, remainder) = rest.split_once(')')?;
    let value = if name == "Blob" { hex(&bytes_after(value, "[")?) } else { value.to_owned() };
    Some((value, remainder))
}

#[cfg(test)]
mod tests {
    use sqlx::Arguments as _;
    use sqlx::sqlite::SqliteArguments;

    use super::*;

    /// The driver does not guarantee its output: this test fails when it changes.
    #[test]
    fn values_are_read_from_the_drivers_output() {
        let mut bound = SqliteArguments::default();
        bound.add(7_i64).expect("an argument");
        bound.add("it's \"so\", or \\").expect("an argument");
        bound.add(None::<i64>).expect("an argument");
        bound.add(true).expect("an argument");
        bound.add(1.5_f64).expect("an argument");
        bound.add(vec![1_u8, 255]).expect("an argument");
        bound.add("").expect("an argument");
        let texts = argument_texts(&format!("{bound:?}")).expect("the output of this driver");
        assert_eq!(texts, ["7", "'it''s \"so\", or \\'", "NULL", "1", "1.5", "x'01ff'", "''"]);
        assert_eq!(argument_texts("SqliteArguments { something: else }"), None);
    }
}
