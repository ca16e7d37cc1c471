//! Reads bound values from the `Debug` output of the driver's arguments.

use crate::backend::values::{all_between, bytes_after, hex, quoted, take};

pub(super) fn argument_texts(arguments: &str) -> Option<Vec<String>> {
    let bytes = bytes_after(arguments, "MySqlArguments { values: [")?;
    let nulls = bytes_after(arguments, "NullBitMap { bytes: [")?;
    let (_, types) = arguments.split_once("], types: [")?;
    let mut rest = bytes.as_slice();
    let types = all_between(types, "MySqlTypeInfo { type: ", '}').into_iter().enumerate();
    types
        .map(|(i, declared)| {
            if nulls.get(i / 8)? & (1 << (i % 8)) != 0 {
                return Some(String::from("NULL"));
            }
            let (name, flags) = declared.split_once(',')?;
            value(name, flags.contains("UNSIGNED"), &mut rest)
        })
        .collect()
}

/// Reads a value, whose length is determined by its type or its first byte.
fn value(type_name: &str, unsigned: bool, rest: &mut &[u8]) -> Option<String> {
    Some(match (type_name, unsigned) {
        ("Tiny", _) => i8::from_le_bytes(take(rest)?).to_string(),
        ("Short", _) => i16::from_le_bytes(take(rest)?).to_string(),
        ("Long", false) => i32::from_le_bytes(take(rest)?).to_string(),
        ("Long", true) => u32::from_le_bytes(take(rest)?).to_string(),
        ("LongLong", false) => i64::from_le_bytes(take(rest)?).to_string(),
        ("LongLong", true) => u64::from_le_bytes(take(rest)?).to_string(),
        ("Float", _) => f32::from_le_bytes(take(rest)?).to_string(),
        ("Double", _) => f64::from_le_bytes(take(rest)?).to_string(),
        _ => {
            let length = match take::<1>(rest)? {
                [0xfc] => usize::from(u16::from_le_bytes(take(rest)?)),
                [short @ ..=0xfa] => usize::from(short),
                _ => return None,
            };
            let (value, remainder) = rest.split_at_checked(length)?;
            *rest = remainder;
            match (type_name, str::from_utf8(value)) {
                ("VarString" | "VarChar" | "String", Ok(text)) => quoted(text),
                _ => hex(value),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use sqlx::Arguments as _;
    use sqlx::mysql::MySqlArguments;

    use super::*;

    /// The driver does not guarantee its output: this test fails when it changes.
    #[test]
    fn values_are_read_from_the_drivers_output() {
        let mut bound = MySqlArguments::default();
        bound.add(7_i64).expect("an argument");
        bound.add("it's").expect("an argument");
        bound.add(None::<i64>).expect("an argument");
        bound.add(true).expect("an argument");
        bound.add(1.5_f64).expect("an argument");
        bound.add(u64::MAX).expect("an argument");
        bound.add(vec![1_u8, 255]).expect("an argument");
        bound.add(-3_i32).expect("an argument");
        bound.add("x".repeat(300)).expect("an argument");
        let texts = argument_texts(&format!("{bound:?}")).expect("the output of this driver");
        assert_eq!(texts[..8], ["7", "'it''s'", "NULL", "1", "1.5", "18446744073709551615", "x'01ff'", "-3"]);
        assert_eq!(texts[8].len(), 302);
        assert_eq!(argument_texts("MySqlArguments { something: else }"), None);
    }
}
