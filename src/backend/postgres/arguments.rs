//! Reads bound values from the `Debug` output of the driver's arguments.

use crate::backend::values::{all_between, bytes_after, hex, quoted, take};

pub(super) fn argument_texts(arguments: &str) -> Option<Vec<String>> {
    let (types, _) = arguments.split_once("buffer:")?;
    let types = all_between(types, "PgTypeInfo(", ')');
    let bytes = bytes_after(arguments, "PgArgumentBuffer { buffer: [")?;
    let mut rest = bytes.as_slice();
    types.into_iter().map(|name| value(name, &mut rest)).collect()
}

/// Reads a value, which follows its length.
fn value(type_name: &str, rest: &mut &[u8]) -> Option<String> {
    let Ok(length) = usize::try_from(i32::from_be_bytes(take(rest)?)) else {
        return Some(String::from("NULL"));
    };
    let (value, remainder) = rest.split_at_checked(length)?;
    *rest = remainder;
    Some(match type_name {
        "Bool" => (value == [1]).to_string(),
        "Int2" => i16::from_be_bytes(value.try_into().ok()?).to_string(),
        "Int4" => i32::from_be_bytes(value.try_into().ok()?).to_string(),
        "Int8" => i64::from_be_bytes(value.try_into().ok()?).to_string(),
        "Float4" => f32::from_be_bytes(value.try_into().ok()?).to_string(),
        "Float8" => f64::from_be_bytes(value.try_into().ok()?).to_string(),
        "Text" | "Varchar" | "Bpchar" | "Name" => quoted(str::from_utf8(value).ok()?),
        "Bytea" => hex(value),
        "Uuid" => uuid(value.try_into().ok()?),
        _ => String::from("…"),
    })
}

fn uuid(bytes: [u8; 16]) -> String {
    let digits = format!("{:032x}", u128::from_be_bytes(bytes));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    quoted(&parts.join("-"))
}

#[cfg(test)]
mod tests {
    use sqlx::Arguments as _;
    use sqlx::postgres::PgArguments;

    use super::*;

    /// The driver does not guarantee its output: this test fails when it changes.
    #[test]
    fn values_are_read_from_the_drivers_output() {
        let mut bound = PgArguments::default();
        bound.add(7_i64).expect("an argument");
        bound.add("it's").expect("an argument");
        bound.add(None::<i64>).expect("an argument");
        bound.add(true).expect("an argument");
        bound.add(1.5_f64).expect("an argument");
        bound.add(vec![1_i64, 2]).expect("an argument");
        bound.add(vec![1_u8, 255]).expect("an argument");
        bound.add(-3_i32).expect("an argument");
        let texts = argument_texts(&format!("{bound:?}")).expect("the output of this driver");
        assert_eq!(texts, ["7", "'it''s'", "NULL", "true", "1.5", "…", "x'01ff'", "-3"]);
        assert_eq!(argument_texts("PgArguments { something: else }"), None);
    }

    #[test]
    fn uuids_have_their_usual_form() {
        let arguments = argument_texts(
            "PgArguments { types: [PgTypeInfo(Uuid)], buffer: PgArgumentBuffer { buffer: [0, 0, 0, 16, 0, \
             17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255], count: 1 } }",
        );
        assert_eq!(arguments.expect("a value"), ["'00112233-4455-6677-8899-aabbccddeeff'"]);
    }
}
